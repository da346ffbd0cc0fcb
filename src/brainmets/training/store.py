"""The prepared store: each case once on disk, compressed, ready for random patch reads.

Reading it takes no reader of scans: what was prepared on one machine trains on another.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from brainmets.cohort import Case, Cohort
from brainmets.config import Recipe, from_mapping, to_mapping
from brainmets.errors import CohortError
from brainmets.io.storage import write_json
from brainmets.volume import Array

LAYOUT = 3
"""Raised when what is stored changes, so that old entries are not read."""
DEPTH_STEP_MM = 0.25
LEVELS_MM = (-1.0, 0.0, 1.0, 2.0, 3.0, 4.0)
"""Depths at which a brain mask may end in training; each has Z-scores of its own."""
CHUNK_VOX, BLOCK_VOX = 64, 16
"""Sides of what lies together on disk, and of what is unpacked at once."""
ARRAYS = ("image", "labels", "depth")
FACTS, INDEX, ENTRIES = "facts.json", "prepared.json", "store"
"""Names in an entry, and in the folder of a prepared cohort."""


class Stored(Protocol):
    """An array of shape (X, Y, Z), in memory or on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Kind of its numbers."""
        ...

    def __getitem__(self, where: Any, /) -> Array:
        """The part that was asked for."""
        ...


@dataclass(frozen=True)
class Chunked:
    """An array on disk in compressed chunks (Blosc2), of which only what is asked for is read.

    The file is opened for every read: it takes less than a millisecond, no number of cases
    runs out of open files, and processes share nothing.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, where: Any) -> Array:
        """The part that was asked for, in memory."""
        return np.asarray(_open(self.path)[where])


def _open(path: Path) -> Any:
    import blosc2

    return blosc2.open(str(path), mode="r", mmap_mode="r", dparams=blosc2.DParams(nthreads=1))


def write_array(folder: Path, name: str, array: Array) -> None:
    """Write one array of an entry; the same array gives the same bytes."""
    import blosc2

    blosc2.asarray(
        np.ascontiguousarray(array), urlpath=str(folder / f"{name}.b2nd"), mode="w",
        chunks=tuple(min(CHUNK_VOX, n) for n in array.shape),
        blocks=tuple(min(BLOCK_VOX, n) for n in array.shape),
        cparams=blosc2.CParams(
            codec=blosc2.Codec.ZSTD, clevel=3, filters=[blosc2.Filter.SHUFFLE], nthreads=1
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class PreparedCase:
    """A case in the store; its arrays share one shape (X, Y, Z).

    Attributes:
        case_id: as in the cohort.
        key: hash of the case's files and the way they were prepared.
        image: float16 Z-scores, tissue around the brain included.
        labels: uint8 lesions 1…n (0: none).
        depth: int8 signed distance to the brain's surface in steps of 0.25 mm, positive outside.
        lesions: for each lesion its voxels' bounding-box centre.
        levels: mean and standard deviation of ``image`` inside a mask that ends at each of
            LEVELS_MM: use scores within the mask it has, and so must training.
    """

    case_id: str
    key: str
    image: Stored
    labels: Stored
    depth: Stored
    lesions: tuple[tuple[int, int, int], ...]
    levels: tuple[tuple[float, float], ...]


def open_entry(folder: Path, case_id: str) -> PreparedCase:
    """A case of the store; its arrays stay on disk.

    Raises:
        CohortError: the entry is not there, or damaged.
    """
    try:
        arrays = {}
        for name in ARRAYS:
            path = folder / f"{name}.b2nd"
            found = _open(path)
            arrays[name] = Chunked(path, tuple(found.shape), np.dtype(found.dtype))
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        lesions = tuple((x, y, z) for x, y, z in facts["lesions"])
        levels = tuple((mean, deviation) for mean, deviation in facts["levels"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CohortError(
            f"case {case_id!r}: its entry {folder.name} in the prepared store is absent or damaged "
            f"({type(error).__name__}); delete the entry and prepare the cohort again"
        ) from error
    return PreparedCase(case_id, folder.name, **arrays, lesions=lesions, levels=levels)


@dataclass(frozen=True)
class PreparedCohort:
    """What the index of a prepared cohort says.

    Attributes:
        cohort: its cases; the image of each is its entry in the store.
        recipe: how they were prepared.
        target_labels: labels of the reference masks that became lesion; None: all above 0.
    """

    cohort: Cohort
    recipe: Recipe
    target_labels: tuple[int, ...] | None


def write_index(
    folder: Path,
    cohort: Cohort,
    keys: Collection[str],
    recipe: Recipe,
    target_labels: Collection[int] | None,
) -> None:
    """Write which entry is whose, so that the folder can be trained from without the scans.

    Args:
        folder: holds the store.
        cohort: as it was prepared.
        keys: the entries, in the cohort's order.
        recipe: of the preparation.
        target_labels: of the preparation.

    Raises:
        WriteError: the place cannot be written to.
    """
    cases = [
        {
            "case": case.case_id,
            "entry": key,
            "patient": case.row.get("patient", ""),
            "split": case.row.get("split", ""),
        }
        for case, key in zip(cohort, keys, strict=True)
    ]
    labels = None if target_labels is None else sorted(target_labels)
    index = {"layout": LAYOUT, "recipe": to_mapping(recipe), "target_labels": labels}
    write_json(folder / INDEX, {**index, "cases": cases})


def is_prepared(folder: Path) -> bool:
    """Whether it is what ``cohort prepare`` leaves."""
    return (folder / INDEX).is_file()


def read_index(folder: Path) -> PreparedCohort:
    """The prepared cohort of a folder.

    Raises:
        CohortError: the index cannot be read, is of another version, or an entry is missing.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        layout, recipe = index["layout"], from_mapping(Recipe, index["recipe"])
        labels = None if index["target_labels"] is None else tuple(index["target_labels"])
        cases = tuple(_entry(folder, row) for row in index["cases"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CohortError(
            f"{folder.name}: {INDEX} is not what cohort prepare writes ({type(error).__name__}); "
            "prepare the cohort again"
        ) from error
    if layout != LAYOUT:
        raise CohortError(
            f"{folder.name}: prepared in layout {layout}, expected {LAYOUT}; prepare it again"
        )
    for case in cases:
        if not case.image.is_dir():
            raise CohortError(
                f"case {case.case_id!r}: no entry {case.image.name} in the prepared store; copy "
                "the folder whole, or prepare the cohort again"
            )
    return PreparedCohort(Cohort(cases), recipe, labels)


def _entry(folder: Path, row: Mapping[str, str]) -> Case:
    place = folder / ENTRIES / Path(row["entry"]).name
    rest = {name: row[name] for name in ("patient", "split") if row[name]}
    return Case(row["case"], place, place / "labels.b2nd", row=rest)
