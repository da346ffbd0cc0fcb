"""The pairs of masks that all tools score: five real ones, and synthetic ones that are odd."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from brainmets.evaluation.brats_mets import region
from brainmets.io import nifti
from brainmets.lesions import components
from brainmets.volume import Volume

BoolArray = npt.NDArray[np.bool_]
Spacing = tuple[float, float, float]

REAL = ("00132-000", "00217-000", "00630-001", "01325-000", "01352-000")
CORE = "TC"
"""The region that is scored: tumour core, labels 1 and 3."""

SHAPE = (24, 20, 16)
CUBIC: Spacing = (1.0, 1.0, 1.0)
THICK: Spacing = (0.5, 0.5, 6.0)
UNEVEN: Spacing = (1.2, 0.7, 2.0)


@dataclass(frozen=True)
class Pair:
    """A reference and a prediction, as masks and as numbered lesions.

    Attributes:
        name: in the tables.
        masks: file with both masks.
        numbered: file with both, lesions numbered.
        facts: shape, spacing and lesions, for the table.
    """

    name: str
    masks: Path
    numbered: Path
    facts: dict[str, Any]


def real(data: Path, folder: Path) -> list[Pair]:
    """The real pairs of a data folder, written for the workers."""
    return [_real(data / "lesion_masks", scan, folder) for scan in REAL]


def synthetic(folder: Path) -> list[Pair]:
    """The synthetic pairs; neither mask is ever empty."""
    return [
        _written(name, one, other, spacing, folder) for name, one, other, spacing in _synthetic()
    ]


def _real(masks: Path, scan: str, folder: Path) -> Pair:
    (reference,) = masks.glob(f"*{scan}-seg.nii.gz")
    (prediction,) = (masks / "predictions").glob(f"*{scan}.nii.gz")
    one, other = (region(nifti.read_labels(path), CORE) for path in (reference, prediction))
    return _written(scan, one.data, other.data, one.grid.spacing_mm, folder)


def _written(name: str, one: Any, other: Any, spacing: Spacing, folder: Path) -> Pair:
    numbers = [_numbered(mask) for mask in (one, other)]
    files = []
    for kind, (reference, prediction) in (("masks", (one, other)), ("numbered", numbers)):
        files.append(folder / f"{name.replace(' ', '-')}-{kind}.npz")
        np.savez_compressed(
            files[-1], reference=reference, prediction=prediction, spacing_mm=spacing
        )
    facts = {
        "voxels": "×".join(map(str, one.shape)),
        "spacing_mm": "×".join(f"{s:.3g}" for s in spacing),
        "reference_lesions": int(numbers[0].max()),
        "predicted_lesions": int(numbers[1].max()),
    }
    return Pair(name, files[0], files[1], facts)


def _numbered(mask: Any) -> npt.NDArray[np.int16]:
    from brainmets.volume import Grid

    return components(Volume(mask, Grid(mask.shape, np.eye(4)))).data.astype(np.int16)


def _synthetic() -> Iterator[tuple[str, BoolArray, BoolArray, Spacing]]:
    corner, far = _box((0, 1), (0, 1), (0, 1)), _box((23, 24), (19, 20), (15, 16))
    lesion = _box((4, 10), (4, 10), (4, 10))
    full = np.ones(SHAPE, bool)
    diagonal = _box((4, 6), (4, 6), (4, 6)) | _box((6, 8), (6, 8), (6, 8))
    two = _box((4, 8), (4, 8), (4, 8)) | _box((12, 16), (4, 8), (4, 8))
    yield "one voxel each", corner, far, CUBIC
    yield "equal", lesion, lesion, UNEVEN
    yield "touching", lesion, _box((10, 16), (4, 10), (4, 10)), CUBIC
    yield "diagonal neighbours", diagonal, _box((4, 8), (4, 8), (4, 8)), UNEVEN
    yield "merged", two, _box((4, 16), (4, 8), (4, 8)), THICK
    yield "split", _box((4, 16), (4, 8), (4, 8)), two, THICK
    yield "half shared", _box((4, 8), (4, 8), (4, 8)), _box((4, 6), (4, 8), (4, 8)), CUBIC
    yield "thick slices", lesion, np.roll(lesion, (1, 2, 1), (0, 1, 2)), THICK
    yield "a hole", lesion, lesion & ~_box((6, 8), (6, 8), (6, 8)), UNEVEN
    yield "full reference", full, lesion, THICK
    yield "full prediction", corner, full, UNEVEN
    for seed, spacing in enumerate((CUBIC, THICK, UNEVEN)):
        yield f"random {seed}", *_scattered(seed), spacing


def _box(*sides: tuple[int, int]) -> BoolArray:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


def _scattered(seed: int) -> tuple[BoolArray, BoolArray]:
    """Boxes all over; the other mask has some, moved by a voxel, and some of its own."""
    rng = np.random.default_rng(seed)
    one, other = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    for _ in range(14):
        start, size = rng.integers(1, np.array(SHAPE) - 6), rng.integers(1, 5, 3)
        shift, target = rng.integers(-1, 2, 3), rng.integers(0, 4)
        if target != 1:  # 1: a false positive
            one[_at(start, size)] = True
        if target != 0:  # 0: missed
            other[_at(start + shift, size)] = True
    return one, other


def _at(start: npt.NDArray[np.int64], size: npt.NDArray[np.int64]) -> tuple[slice, ...]:
    return tuple(
        slice(max(a, 0), a + n) for a, n in zip(start.tolist(), size.tolist(), strict=True)
    )
