"""The scans on which brain extractors are compared, each with the mask it is held against."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from brainmets.io import nifti
from brainmets.simulate.anatomy import Anatomy, read_anatomy
from brainmets.simulate.contrast import (
    DEEP_GREY,
    FLUID,
    GREY,
    WHITE,
    Style,
    render,
    warp,
)
from brainmets.simulate.noise import smooth_noise
from brainmets.simulate.scanner import NEUROLOGICAL, Protocol, acquire, acquire_truth
from brainmets.training.heads import brain_of
from brainmets.volume import Grid, Volume

CONTRASTS = ("T1c", "T1", "T2", "FLAIR")
MAPS = (17, 18, 19, 20)
TUNING_MAPS = (15, 16)
Mask = npt.NDArray[np.bool_]
CACHE = Path(__file__).parents[1] / "work" / "brain"
"""What takes long to make is kept here; the folder may be deleted."""
Span = tuple[float, float]
SIGNALS: dict[str, dict[tuple[int, ...], Span]] = {
    "T2": {
        WHITE: (0.95, 1.05), GREY: (1.2, 1.5), DEEP_GREY: (0.95, 1.2), FLUID: (2.0, 3.0),
        (16, 85): (0.95, 1.1), (507, 516, 502): (0.4, 1.0), (511, 512): (0.8, 2.0),
        (515, 509): (0.05, 0.3), (514, 530): (0.2, 2.0), (506, 508): (1.5, 3.0),
    },
    "FLAIR": {
        WHITE: (0.95, 1.05), GREY: (1.15, 1.4), DEEP_GREY: (1.05, 1.25), FLUID: (0.1, 0.3),
        (16, 85): (1.0, 1.15), (507, 516, 502): (0.4, 1.0), (511, 512): (0.8, 1.8),
        (515, 509): (0.05, 0.3), (514, 530): (0.2, 1.2), (506, 508): (0.1, 0.4),
    },
}  # fmt: skip
"""Signal relative to white matter, by label; the order of tissues is that of the sequences."""


@dataclass(frozen=True)
class Target:
    """A scan and the mask that it is held against.

    Attributes:
        name: in tables.
        group: in tables.
        read: gives the scan and its reference, bool on the same grid.
    """

    name: str
    group: str
    read: Callable[[], tuple[Volume, Volume]] = field(repr=False)


def dice(one: Mask, other: Mask) -> float:
    """Dice of two masks that are not both empty."""
    both = np.count_nonzero(one & other)
    return 2 * both / (np.count_nonzero(one) + np.count_nonzero(other))


def kept(reference: Mask, mask: Mask) -> float:
    """Share of the reference that the mask keeps."""
    return np.count_nonzero(reference & mask) / np.count_nonzero(reference)


def data_folder() -> Path:
    """The folder of real scans and label maps."""
    return Path(os.environ["BRAINMETS_DATA"])


def targets() -> Iterator[Target]:
    """All of them: real heads first, then label maps 17–20 in four contrasts."""
    heads = data_folder() / "heads" / "nichart"
    for number in range(1, 9):
        scan, labels = heads / f"Subj{number}_T1.nii.gz", heads / f"Subj{number}_T1_DLMUSE.nii.gz"
        yield Target(f"nichart_{number}", "NiChart T1, 2 mm (real)", partial(_real, scan, labels))
    folder = data_folder() / "scans" / "head_fg6692"
    for name in ("t1c", "t1"):
        read = partial(_real, folder / f"{name}.nii.gz", folder / "brainmask.nii.gz")
        yield Target(f"fg6692_{name}", "head_fg6692, 5.5 mm slices (real)", read)
    for contrast in CONTRASTS:
        for number in MAPS:
            read = partial(simulated, number, contrast)
            yield Target(f"map_{number}_{contrast}", f"maps 17–20, {contrast}", read)


def _real(scan: Path, labels: Path) -> tuple[Volume, Volume]:
    reference = nifti.read_labels(labels)
    return nifti.read(scan).volume, reference.with_data(reference.data > 0)


def anatomy_path(number: int) -> Path:
    """Label map ``number``."""
    return data_folder() / "anatomy" / f"training_seg_{number:02d}.nii.gz"


def simulated(number: int, contrast: str) -> tuple[Volume, Volume]:
    """A whole head of 1 mm in one contrast, and its brain + CSF; kept once made."""
    path = CACHE / f"map_{number}_{contrast}.npz"
    if not path.is_file():
        scan, brain = _simulate(number, contrast)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, scan=scan.data, affine=scan.grid.affine, brain=brain.data)
    with np.load(path) as stored:
        scan = Volume(stored["scan"], Grid(stored["scan"].shape, stored["affine"]))
        return scan, scan.with_data(stored["brain"])


def _simulate(number: int, contrast: str) -> tuple[Volume, Volume]:
    rng = np.random.default_rng([number, CONTRASTS.index(contrast)])
    head = warp(read_anatomy(anatomy_path(number)), rng)
    image = signal(head, contrast, rng)
    protocol = Protocol((1.0, 1.0, 1.0), NEUROLOGICAL, (0.0, 0.0, 0.0), 0.03, 0.15)
    brain = acquire_truth(brain_of(head.labels).astype(np.float32), protocol)
    return acquire(image, protocol, rng)[0], brain.with_data(brain.data > 0)


def signal(head: Anatomy, contrast: str, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """The image before the scanner: white matter is 1."""
    if contrast in ("T1c", "T1"):
        return render(head, Style(spin_echo=False, contrast=contrast == "T1c"), rng)
    means = np.full(1024, 0.7, np.float32)
    means[0] = 0.0
    for codes, span in SIGNALS[contrast].items():
        means[list(codes)] = rng.uniform(*span)
    image = means[head.labels] * (1 + 0.03 * smooth_noise(head.labels.shape, 6, rng))
    return np.asarray(ndimage.gaussian_filter(image, 0.6), np.float32)
