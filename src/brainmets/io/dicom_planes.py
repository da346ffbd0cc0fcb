"""Image planes of a series: a file of a classic series holds one, an enhanced one many.

Enhanced objects keep what a plane is in functional groups, per frame or shared by all
(PS3.3, C.7.6.16); a frame's own value wins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from brainmets.errors import ReadError, VolumeError
from brainmets.io.archive import Entry
from brainmets.io.dicom_header import Header, items, naming, number, numbers, text, value, whole

ENHANCED = ("1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4")
"""SOP classes Enhanced MR Image and Legacy Converted Enhanced MR Image."""
CLASSIC = "1.2.840.10008.5.1.4.1.1.4"
"""SOP class MR Image."""
MOST_FRAMES = 20_000

KINDS = {
    "echo time": ("EchoTime", "MREchoSequence", "EffectiveEchoTime"),
    "echo number": ("EchoNumbers", "", ""),
    "inversion time": ("InversionTime", "MRModifierSequence", "InversionTimes"),
    "b-value": ("DiffusionBValue", "MRDiffusionSequence", "DiffusionBValue"),
    "temporal position": (
        "TemporalPositionIdentifier", "FrameContentSequence", "TemporalPositionIndex",
    ),
    "trigger time": (
        "TriggerTime", "CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime",
    ),
    "acquisition": ("AcquisitionNumber", "FrameContentSequence", "FrameAcquisitionNumber"),
}  # fmt: skip
"""What tells volumes of one series apart: its tag, or its group and the tag therein."""


@dataclass(frozen=True)
class Plane:
    """One image plane, in DICOM's own LPS millimetres.

    Attributes:
        entry: the file that holds it.
        frame: which image of the file, from 0.
        name: how errors call it.
        position_lps_mm: Image Position (0020,0032), centre of the first pixel, shape (3,).
        cosines_lps: Image Orientation (0020,0037), shape (2, 3): where columns count up, where
            rows do.
        spacing_mm: Pixel Spacing (0028,0030): between rows, between columns.
        size: rows, columns.
        thickness_mm: Slice Thickness (0018,0050), if stated.
        rescale: slope and intercept of stored values.
        component: ``M`` for magnitude, ``P``, ``R``, ``I`` or empty.
        kinds: those of KINDS that are stated.
        frame_of_reference: UID (0020,0052), if stated.
        time: Acquisition Time (0008,0032) as it stands; empty if not stated.
        agent: Contrast/Bolus Agent (0018,0010) as it stands; empty if not stated.
    """

    entry: Entry
    frame: int
    name: str
    position_lps_mm: npt.NDArray[np.float64]
    cosines_lps: npt.NDArray[np.float64]
    spacing_mm: tuple[float, ...]
    size: tuple[int, int]
    thickness_mm: float | None
    rescale: tuple[float, float]
    component: str
    kinds: dict[str, float]
    frame_of_reference: str | None
    time: str = ""
    agent: str = ""


def planes_of(headers: Sequence[Header]) -> tuple[Plane, ...]:
    """All planes of a series.

    Raises:
        VolumeError: a plane whose place, size or rescaling is missing or impossible; colour,
            inverted grey values or a mosaic. The message names the instance.
    """
    planes: list[Plane] = []
    for header in headers:
        with naming(header.instance):
            planes += _planes(header)
    if len(planes) > MOST_FRAMES:
        raise VolumeError(f"{len(planes)} images in one series; it is no single volume")
    return tuple(planes)


def _planes(header: Header) -> list[Plane]:
    _require_grey(header.tags)
    count = whole(header.tags, "NumberOfFrames") or 1
    if text(header.tags, "SOPClassUID") not in ENHANCED:
        if count != 1:
            raise VolumeError(
                f"{count} frames in one file that does not say where each lies; export the series "
                "as single images or as enhanced MR"
            )
        return [_plane(header, 0, [header.tags], header.instance)]
    frames = items(header.tags, "PerFrameFunctionalGroupsSequence")
    if len(frames) != count:
        raise VolumeError(f"{count} frames, but {len(frames)} descriptions of where they lie")
    shared = items(header.tags, "SharedFunctionalGroupsSequence")
    planes = []
    for index, own in enumerate(frames):
        name = f"frame {index + 1}"
        with naming(name):
            planes.append(_plane(header, index, [own, *shared[:1]], name))
    return planes


def _plane(header: Header, index: int, places: list[Dataset], name: str) -> Plane:
    position = numbers(_holder(places, "PlanePositionSequence"), "ImagePositionPatient", 3)
    cosines = numbers(_holder(places, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    measures = _holder(places, "PixelMeasuresSequence")
    return Plane(
        entry=header.entry,
        frame=index,
        name=name,
        position_lps_mm=np.array(position),
        cosines_lps=_unit(np.array(cosines).reshape(2, 3)),
        spacing_mm=_spacing(measures),
        size=_size(header.tags),
        thickness_mm=number(measures, "SliceThickness"),
        rescale=_rescale(_holder(places, "PixelValueTransformationSequence")),
        component=_component(header.tags, places),
        kinds=_kinds(places),
        frame_of_reference=text(header.tags, "FrameOfReferenceUID") or None,
        time=text(header.tags, "AcquisitionTime"),
        agent=text(header.tags, "ContrastBolusAgent"),
    )


def _holder(places: list[Dataset], group: str) -> Dataset:
    """The item of a functional group, the frame's own before the shared one.

    A classic image has no groups: its tags stand at the top.
    """
    for place in places:
        if found := items(place, group):
            return found[0]
    return places[0]


def _require_grey(tags: Dataset) -> None:
    samples, meaning = whole(tags, "SamplesPerPixel"), text(tags, "PhotometricInterpretation")
    if samples not in (None, 1) or meaning not in ("MONOCHROME1", "MONOCHROME2"):
        if samples is None and not meaning and whole(tags, "Rows") is None:
            raise ReadError("there is no image in it; export the series again")
        if samples in (None, 1) and not meaning:
            raise VolumeError(
                "PhotometricInterpretation (0028,0004) is missing; expected MONOCHROME2. Export it "
                "again"
            )
        raise VolumeError("colour image; expected one grey value per pixel. Give the series itself")
    if samples is None:
        raise VolumeError(
            "SamplesPerPixel (0028,0002) is missing; expected 1. Export the series again"
        )
    if meaning == "MONOCHROME1":
        raise VolumeError(
            "its grey values are inverted (MONOCHROME1), as no MR scanner writes them; give the "
            "original series"
        )
    if "MOSAIC" in text(tags, "ImageType"):
        raise VolumeError("many slices are tiled into one image (mosaic); export single slices")


def _unit(cosines: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Direction cosines of length 1; refused if they are not nearly so, and square."""
    lengths = np.linalg.norm(cosines, axis=1)
    if abs(lengths - 1).max() > 0.01 or abs(cosines[0] @ cosines[1]) > 0.01:
        raise VolumeError(
            "ImageOrientationPatient (0020,0037) holds no two directions square to each other"
        )
    return np.asarray(cosines / lengths[:, None])


def _spacing(measures: Dataset) -> tuple[float, ...]:
    spacing = numbers(measures, "PixelSpacing", 2)
    if not all(0.01 <= side <= 50 for side in spacing):
        raise VolumeError(
            f"PixelSpacing (0028,0030) of {spacing[0]:g} × {spacing[1]:g} mm; expected 0.01 to 50 "
            "mm. Export the series again"
        )
    return spacing


def _size(tags: Dataset) -> tuple[int, int]:
    rows, columns = whole(tags, "Rows"), whole(tags, "Columns")
    if rows is None or columns is None or rows < 2 or columns < 2:
        raise VolumeError(
            f"Rows (0028,0010) and Columns (0028,0011) of {rows} × {columns}; expected 2 or more "
            "of each. Export the series again"
        )
    return rows, columns


def _rescale(tags: Dataset) -> tuple[float, float]:
    slope, intercept = number(tags, "RescaleSlope"), number(tags, "RescaleIntercept")
    if slope == 0:
        raise VolumeError("RescaleSlope (0028,1053) is 0, which leaves no image")
    return (1.0 if slope is None else slope), (intercept or 0.0)


def _component(tags: Dataset, places: list[Dataset]) -> str:
    """Magnitude, phase, real or imaginary, from whichever tag says so."""
    holder = _holder(places, "MRImageFrameTypeSequence")
    stated = text(holder, "ComplexImageComponent") or text(tags, "ComplexImageComponent")
    if stated:
        return stated[0] if stated != "MIXED" else ""
    parts = text(tags, "ImageType").upper().split()
    known = {"M": "M", "P": "P", "R": "R", "I": "I", "M_FFE": "M", "M_SE": "M", "M_IR": "M",
             "PHASE": "P", "REAL": "R", "IMAGINARY": "I", "MAGNITUDE": "M"}  # fmt: skip
    return next((known[part] for part in parts[2:] if part in known), "")


def _kinds(places: list[Dataset]) -> dict[str, float]:
    found = {}
    for kind, (keyword, group, inner) in KINDS.items():
        holder = _holder(places, group) if group else places[0]
        key = keyword if holder is places[0] else inner
        if value(holder, key) is not None and (stated := number(holder, key)) is not None:
            found[kind] = stated
    return found
