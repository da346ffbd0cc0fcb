"""From words on the command line to cases."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from brainmets.cohort import Case, case_ids, read_cohort
from brainmets.errors import CohortError, ConfigError, ReadError
from brainmets.io.nifti import is_nifti

TABLES = (".tsv", ".csv")
BRATS = "-t1c.nii.gz"


def cases_of(
    inputs: Sequence[Path],
    brain_mask: Path | None,
    *,
    series: str | None = None,
    id_from: str = "hash",
) -> tuple[Case, ...]:
    """Cases of scans, DICOM studies, folders of either, BraTS-style folders and cohort tables.

    Args:
        inputs: any mixture.
        brain_mask: for the only scan, if there is one.
        series: the series to read of every DICOM study.
        id_from: what DICOM cases are called after; see
            :class:`brainmets.io.dicom_cases.IdFrom`.

    Raises:
        CohortError: nothing to do, the same scan twice, or two cases of one name.
        ConfigError: one brain mask for several scans.
        ReadError: a folder of damaged DICOM, and no other input.
    """
    cases: list[Case] = []
    scans: list[Path] = []
    for number, given in enumerate(inputs, start=1):
        path = Path(os.path.abspath(given))  # noqa: PTH100  # a link keeps its name, unlike resolve()
        found = _scans_in(path)
        alone = len(inputs) == 1
        if studies := _studies_at(path, found, series, id_from, alone=alone):
            cases += studies
        elif _is_cohort(path, found, alone=alone):
            cases += read_cohort(path).cases
        elif found or is_nifti(path):
            scans += found or [path]
        else:
            cases.append(_unread(number, path))
    _require_once(scans)
    named = [Case(name, scan) for name, scan in zip(case_ids(scans), scans, strict=True)]
    # a reference mask is no input of a prediction
    chosen = [*(replace(case, mask=None) for case in cases), *named]
    _require_distinct(chosen)
    if brain_mask is None:
        return tuple(chosen)
    if len(chosen) != 1:
        raise ConfigError(
            f"--brain-mask fits one scan, {len(chosen)} were given; "
            "for many, name the masks in a table's column 'brain_mask'"
        )
    return (replace(chosen[0], brain_mask=brain_mask),)


def case_to_measure(
    scan: Path, mask: Path, *, series: str | None = None, id_from: str = "hash"
) -> Case:
    """The case of one scan, NIfTI or DICOM, and somebody's mask.

    Raises:
        CohortError: several studies for one mask.
        ReadError: no DICOM, or a damaged one.
    """
    if not is_nifti(scan) and scan.exists():
        from brainmets.io import dicom_cases

        source = dicom_cases.IdFrom(id_from)
        found = dicom_cases.dicom_case(scan, mask, series=series, id_from=source)
        if found is not None:
            return found
    if not is_nifti(scan):
        return replace(_unread(1, scan), mask=mask)
    return Case(case_ids([scan])[0], scan, mask)


def _unread(number: int, path: Path) -> Case:
    """An input of no known study: a case that will fail, and stops no other.

    It is called after its place on the command line. The names of DICOM folders and zips often
    hold those of patients, and case names are written.
    """
    return Case(f"input-{number}", path)


def _studies_at(
    path: Path, found: Sequence[Path], series: str | None, id_from: str, *, alone: bool
) -> tuple[Case, ...]:
    """The DICOM studies at a path; none if it holds NIfTI scans, a cohort, or no DICOM.

    What cannot be read is left to be a case that fails, unless it is a folder ``alone``.
    """
    if found or path.suffix.lower() in TABLES or is_nifti(path) or not path.exists():
        return ()
    if path.is_dir() and _is_laid_out(path):
        return ()
    from brainmets.io import dicom_cases

    try:
        return dicom_cases.dicom_cases(path, series=series, id_from=dicom_cases.IdFrom(id_from))
    except ReadError as error:
        if path.is_dir() and alone:
            raise ReadError(f"{path.name}: {error}") from error
        return ()


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


def _is_cohort(path: Path, found: Sequence[Path], *, alone: bool) -> bool:
    """A table, or a folder that has one, is laid out as BraTS does, or has no scans of its own.

    A folder without scans is one of them only if it is ``alone``: it tells what was expected.
    """
    if not path.is_dir():
        return path.suffix.lower() in TABLES
    if not found:
        return alone or _is_laid_out(path)
    return any(scan.name.endswith(BRATS) for scan in found) or (path / "cohort.tsv").is_file()


def _is_laid_out(folder: Path) -> bool:
    return (folder / "cohort.tsv").is_file() or any(folder.rglob(f"*{BRATS}"))


def _require_distinct(cases: Sequence[Case]) -> None:
    if not cases:
        raise CohortError("no scan among the inputs; give NIfTI files, DICOM, or a cohort")
    names = [case.case_id.casefold() for case in cases]
    for name in names:
        if names.count(name) > 1:
            raise CohortError(
                f"two inputs would both be called {name!r}; rename one, or leave one out if they "
                "are one study"
            )


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


def encoder_file(word: str) -> Path:
    """The checkpoint of a 2D ResNet-34: ``imagenet`` is fetched unless it is there.

    Raises:
        DownloadError: it could not be fetched, or is not the file announced.
        ReadError: another word that is no file.
    """
    if word == "imagenet":
        from brainmets.io.download import FETCHABLE, fetch

        return fetch(FETCHABLE["resnet34"])
    path = Path(word)
    if not path.is_file():
        raise ReadError(f"{path.name}: no such file; give torchvision's resnet34, or imagenet")
    return path
