"""DICOM in: a file, a folder of any depth or a zip, to one Scan.

The line is: files → headers → studies → the series to read → its planes → one grid → voxels.
What is not certain is refused, naming series and slice: a volume of the wrong geometry looks
as good as a right one. DICOM's own coordinates, LPS, do not leave the dicom files of this room.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from brainmets.cohort import Scan
from brainmets.errors import BrainmetsError, CohortError, ReadError, VolumeError
from brainmets.io.archive import Entry, entries, reader
from brainmets.io.dicom_choice import Series, choose, series_of
from brainmets.io.dicom_header import (
    Header,
    digest,
    is_hollow,
    naming,
    number,
    read_header,
    silence,
    text,
    whole,
)
from brainmets.io.dicom_planes import Plane, planes_of
from brainmets.io.dicom_volume import read_volume, require_volume

CONTRAST_OF = {"T1c": True, "T1 without contrast": False}
"""What a sequence's name says of contrast; nothing of all others."""


@dataclass(frozen=True)
class Study:
    """One examination found among some files.

    Attributes:
        key: twelve digits that stand for its Study Instance UID (0020,000D).
        series: by number.
        members: names of its files, and of damaged ones beside them.
        damaged: how many of these are damaged.
        folder: name of the deepest folder that holds all of it; empty at the top.
    """

    key: str
    series: tuple[Series, ...]
    members: tuple[str, ...] = field(repr=False)
    damaged: int
    folder: str = field(repr=False)

    def stated(self, keyword: str) -> str:
        """A tag that is the same in all its files; empty if absent.

        Raises:
            CohortError: its files contradict each other.
        """
        with silence():
            values = {text(h.tags, keyword) for one in self.series for h in one.headers} - {""}
        if len(values) > 1:
            raise CohortError(
                f"study {self.key}: {len(values)} values of {keyword} in one study; use the hash"
            )
        return values.pop() if values else ""

    def voxels(self, series: str | None = None) -> int:
        """Voxels of the series that would be read, as its headers announce them.

        0 where no series would be read, or where they say nothing.
        """
        with silence():
            try:
                chosen, _ = choose(self.series, series)
            except BrainmetsError:
                return 0
            tags = chosen.headers[0].tags
            return chosen.images * (whole(tags, "Rows") or 0) * (whole(tags, "Columns") or 0)


def studies(path: str | Path, members: Sequence[str] = ()) -> tuple[Study, ...]:
    """All studies of a file, folder or zip, by their digits; files that are no DICOM are left out.

    Args:
        path: what to search.
        members: names within it to look at; all if none.

    Raises:
        ReadError: as :func:`brainmets.io.archive.entries`; or only damaged DICOM is there.
    """
    with silence():
        headers, damaged = _headers(Path(path), set(members))
        by_study: dict[str, list[Header]] = {}
        for header in headers:
            by_study.setdefault(header.study_uid, []).append(header)
        found = [_study(uid, members, damaged) for uid, members in by_study.items()]
    return tuple(sorted(found, key=lambda study: study.key))


def _headers(path: Path, wanted: set[str]) -> tuple[list[Header], list[Entry]]:
    """Headers of all DICOM files at a path, and the files that are damaged."""
    headers: list[Header] = []
    damaged: list[Entry] = []
    hollow: list[Entry] = []
    present = [entry for entry in entries(path) if not wanted or entry.name in wanted]
    if len(present) < len(wanted):
        raise ReadError(
            f"{len(wanted) - len(present)} of {len(wanted)} files that were found before are gone; "
            "start again when nothing changes them"
        )
    with reader() as opened:
        for entry in present:
            try:
                if (header := read_header(opened, entry)) is not None:
                    headers.append(header)
                elif is_hollow(opened, entry):
                    hollow.append(entry)
            except ReadError as error:
                fault = error
                damaged.append(entry)
    if damaged and not headers:
        raise fault
    return headers, damaged + hollow


def read(path: str | Path, members: Sequence[str] = (), *, series: str | None = None) -> Scan:
    """Read the T1 series after contrast of one study, or the series asked for.

    Args:
        path: a DICOM file (enhanced multi-frame), folder or zip.
        members: names of the files in it to look at; all if none.
        series: Series Instance UID, Series Number, or the digits that ``inspect`` prints.

    Returns:
        A Scan of float32 voxels (rescaled), whose array axes are columns, rows and slices.
        Its notes say which series was read and why, and what was tolerated. ``case_id``
        stands for the study and does not name it.

    Raises:
        ReadError: no DICOM, or damaged.
        VolumeError: no series fits, or it makes no single volume.
        CohortError: files of several studies.
    """
    with silence():
        return _read(Path(path), members, series)


def _read(path: Path, members: Sequence[str], series: str | None) -> Scan:
    study = _only_study(studies(path, members))
    with naming(f"study {study.key}"):
        chosen, why = choose(study.series, series)
    with naming(chosen.name):
        planes = _sound_planes(study, chosen)
        with reader() as opened:
            volume, notes = read_volume(planes, opened)
    notes = (*notes, *_step_notes(chosen, volume.grid.spacing_mm[2]))
    reading = f"DICOM {chosen.name}, {volume.grid.shape[2]} slices, {why}"
    notes = (reading, *_warnings(chosen), *notes)
    sequence = chosen.verdict.sequence
    given = CONTRAST_OF.get(sequence or "")
    return Scan(volume, sequence, notes, case_id=f"study-{study.key}", contrast=given)


def refusal(study: Study, chosen: Series) -> str:
    """Why a series would be refused, as far as headers tell; empty if it would not."""
    with silence():
        try:
            require_volume(_sound_planes(study, chosen))
        except BrainmetsError as error:
            return str(error)
    return ""


def _sound_planes(study: Study, chosen: Series) -> tuple[Plane, ...]:
    _require_undamaged(study)
    if chosen.verdict.reasons[0].startswith("no MR"):
        raise VolumeError(f"{chosen.verdict.reasons[0]}; expected an MR image")
    _require_one_patient(chosen)
    return planes_of(chosen.headers)


def _study(uid: str, headers: Sequence[Header], damaged: Sequence[Entry]) -> Study:
    by_series: dict[str, list[Header]] = {}
    for header in headers:
        by_series.setdefault(header.series_uid, []).append(header)
    series = [series_of(members) for members in by_series.values()]
    series.sort(key=lambda one: (one.number is None, one.number or 0, one.uid))
    places = {header.entry.folder for header in headers}
    beside = [entry for entry in damaged if entry.folder in places]
    names = sorted([*(h.entry.name for h in headers), *(entry.name for entry in beside)])
    return Study(digest(uid), tuple(series), tuple(names), len(beside), _common_folder(places))


def _common_folder(places: set[str]) -> str:
    """Name of the deepest folder that holds all ``places``."""
    parts = [place.split("/") for place in sorted(places)]
    shared = [levels[0] for levels in zip(*parts, strict=False) if len(set(levels)) == 1]
    return shared[-1] if shared else ""


def _only_study(found: Sequence[Study]) -> Study:
    if not found:
        raise ReadError("neither NIfTI (.nii, .nii.gz) nor DICOM; give a scan of one of these")
    if len(found) > 1:
        raise CohortError(f"{len(found)} studies where one is expected; give the folder of one")
    return found[0]


def _require_undamaged(study: Study) -> None:
    """A damaged header cannot say which slice it was, so none of the series is sure."""
    if study.damaged:
        raise ReadError(
            f"{study.damaged} damaged DICOM files (unreadable, empty, blank or cut short) lie "
            "beside the series and may belong to it; give permission to read them, copy or export "
            "the series again, or remove them"
        )


def _require_one_patient(chosen: Series) -> None:
    """Refuse images of several people; what the tags hold is not said."""
    for keyword in ("PatientID", "PatientName", "PatientBirthDate"):
        stated = {text(h.tags, keyword).upper().rstrip("^ ") for h in chosen.headers} - {""}
        if len(stated) > 1:
            raise VolumeError(
                f"{len(stated)} values of {keyword} in one series, expected one patient; give the "
                "images of one alone"
            )


def _warnings(chosen: Series) -> tuple[str, ...]:
    """What a radiologist would want to be told of the series that was read."""
    verdict = chosen.verdict
    notes = []
    if not verdict.usable:
        notes.append(f"this series would not have been chosen: {verdict.reasons[0]}")
    elif verdict.sequence != "T1c":
        notes.append(
            "the header does not say that this is T1 after contrast; without contrast, "
            "metastases hardly show"
        )
    announced = whole(chosen.headers[0].tags, "ImagesInAcquisition")
    if announced is not None and announced > chosen.images:
        notes.append(f"the header announces {announced} images, {chosen.images} are there")
    return tuple(notes)


def _step_notes(chosen: Series, apart_mm: float) -> tuple[str, ...]:
    """Every second (third …) number alone, in slices too thin for their distance: half a scan."""
    found = sorted({whole(h.tags, "InstanceNumber") or 0 for h in chosen.headers})
    steps = {after - before for before, after in pairwise(found)}
    step = steps.pop() if len(steps) == 1 else 1
    thick = _thickness(chosen)
    if step < 2 or thick is None or abs(thick * step / apart_mm - 1) > 0.1:
        return ()
    note = (
        f"instance numbers run in steps of {step} and slices are {thick:.3g} mm thick, "
        f"{apart_mm:.3g} mm apart: slices in between may be missing"
    )
    return (note,)


def _thickness(chosen: Series) -> float | None:
    try:
        return number(chosen.headers[0].tags, "SliceThickness")
    except VolumeError:
        return None
