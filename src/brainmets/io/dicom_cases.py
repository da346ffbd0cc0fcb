"""Cases out of DICOM: one for each study, under a name that identifies nobody unless asked to."""

import re
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from brainmets.cohort import Case
from brainmets.errors import CohortError
from brainmets.io.dicom import Study, studies


class IdFrom(StrEnum):
    """What a DICOM case is called after. All but ``hash`` may identify the patient."""

    hash = "hash"
    folder = "folder"
    patient_id = "patient-id"
    accession = "accession"


TAGS = {IdFrom.patient_id: "PatientID", IdFrom.accession: "AccessionNumber"}


def dicom_cases(
    path: Path, *, series: str | None = None, id_from: IdFrom = IdFrom.hash
) -> tuple[Case, ...]:
    """One case for each study in a file, folder or zip; none if there is no DICOM.

    Args:
        path: what to search.
        series: the series to read in every study; see :func:`brainmets.io.dicom.read`.
        id_from: what cases are called after.

    Raises:
        ReadError: the zip is refused, or what is there is damaged.
        CohortError: a name that was asked for is not there, or two studies have one name.
    """
    found = studies(path)
    cases = tuple(
        Case(
            _name(study, path, id_from), path, members=study.members, series=series,
            voxels=study.voxels(series),
        )
        for study in found
    )  # fmt: skip
    names = [case.case_id.casefold() for case in cases]
    if len(set(names)) < len(names):
        raise CohortError(
            f"{path.name}: {len(names)} studies, but only {len(set(names))} names from "
            f"'{id_from.value}'; use --id-from hash"
        )
    return cases


def dicom_case(
    path: Path, mask: Path, *, series: str | None = None, id_from: IdFrom = IdFrom.hash
) -> Case | None:
    """The case of the only study at ``path``, with a mask; None if there is no DICOM.

    Raises:
        CohortError: several studies. Else as :func:`dicom_cases`.
    """
    cases = dicom_cases(path, series=series, id_from=id_from)
    if len(cases) > 1:
        raise CohortError(f"{path.name}: {len(cases)} studies for one mask; give one study")
    return replace(cases[0], mask=mask) if cases else None


def _name(study: Study, path: Path, id_from: IdFrom) -> str:
    if id_from is IdFrom.hash:
        return f"study-{study.key}"
    if id_from is IdFrom.folder:
        stated = study.folder or (path.name if path.is_dir() else path.stem)
    else:
        stated = study.stated(TAGS[id_from])
    name = re.sub(r"[^\w.-]+", "_", stated).strip("._")
    if not name:
        raise CohortError(
            f"study {study.key} has no '{id_from.value}' to be called after; use --id-from hash"
        )
    return name
