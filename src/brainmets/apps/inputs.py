"""From words on the command line to cases."""

import os
from collections.abc import Sequence
from pathlib import Path

from brainmets.cohort import Case, case_ids, read_cohort
from brainmets.errors import CohortError, ConfigError
from brainmets.io.nifti import is_nifti

TABLES = (".tsv", ".csv")
BRATS = "-t1c.nii.gz"


def cases_of(inputs: Sequence[Path], brain_mask: Path | None) -> tuple[Case, ...]:
    """Cases of scans, folders of scans, BraTS-style folders and cohort tables, mixed.

    Raises:
        CohortError: nothing to do, the same scan twice, or two cases of one name.
        ConfigError: one brain mask for several scans.
    """
    cases: list[Case] = []
    scans: list[Path] = []
    for given in inputs:
        path = Path(os.path.abspath(given))  # noqa: PTH100  # a link keeps its name, unlike resolve()
        found = _scans_in(path)
        if _is_cohort(path, found):
            cases += read_cohort(path).cases
        else:
            scans += found if path.is_dir() else [path]
    _require_once(scans)
    named = [Case(name, scan) for name, scan in zip(case_ids(scans), scans, strict=True)]
    # a reference mask is no input of a prediction
    chosen = [*(Case(c.case_id, c.image, None, c.brain_mask, c.row) for c in cases), *named]
    _require_distinct(chosen)
    if brain_mask is None:
        return tuple(chosen)
    if len(chosen) != 1:
        raise ConfigError(
            f"--brain-mask fits one scan, {len(chosen)} were given; "
            "for many, name the masks in a table's column 'brain_mask'"
        )
    return (Case(chosen[0].case_id, chosen[0].image, None, brain_mask),)


def _require_once(scans: Sequence[Path]) -> None:
    for scan in scans:
        if scans.count(scan) > 1:
            raise CohortError(f"{scan.name} is given twice; leave one out")


def _scans_in(path: Path) -> list[Path]:
    """NIfTI files of a folder, sorted; hidden ones (``._scan.nii``, unfinished ones) stay out."""
    if not path.is_dir():
        return []
    return sorted(
        p for p in path.iterdir() if is_nifti(p) and p.is_file() and not p.name.startswith(".")
    )


def _is_cohort(path: Path, found: Sequence[Path]) -> bool:
    """A table, or a folder that has one, is laid out as BraTS does, or has no scans of its own."""
    if not path.is_dir():
        return path.suffix.lower() in TABLES
    laid_out = any(scan.name.endswith(BRATS) for scan in found)
    return laid_out or not found or (path / "cohort.tsv").is_file()


def _require_distinct(cases: Sequence[Case]) -> None:
    if not cases:
        raise CohortError("no scan among the inputs; give .nii or .nii.gz files, or a cohort")
    names = [case.case_id.casefold() for case in cases]
    for name in names:
        if names.count(name) > 1:
            raise CohortError(f"two inputs would both be called {name!r}; rename one")


def files_of(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Label maps: files as they are, folders as the NIfTI files in them, sorted.

    Raises:
        CohortError: a path that is not there, or a folder without any.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise CohortError(f"{path.name}: no such file or folder")
        inside = _scans_in(path)
        if path.is_dir() and not inside:
            raise CohortError(f"{path.name}: no .nii or .nii.gz file in this folder")
        files += inside or [path]
    return tuple(files)
