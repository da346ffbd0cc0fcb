"""Headers of DICOM files: which files are DICOM, and their tags, each read with care.

Whatever pydicom makes of a damaged file, only errors of our own leave this module, and
nothing is said of it on the screen: its warnings quote headers, and headers name patients.
"""

import hashlib
import logging
import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, cast

import pydicom
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from brainmets.errors import BrainmetsError, ReadError, VolumeError
from brainmets.io.archive import Entry, Reader

DEFLATED = "1.2.840.10008.1.2.1.99"
DIRECTORY = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR: a table of contents, no image."""
LOGGERS = ("pydicom", "openjpeg", "openjpeg.decode", "openjpeg.encode")
_silent: ContextVar[bool] = ContextVar("silent", default=False)
HEAD_BYTES = 4096
"""Enough for the preamble and the file meta group (PS3.10, 7.1)."""
TAGS = (
    "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesDescription", "ProtocolName",
    "AcquisitionContrast", "ComplexImageComponent", "VolumetricProperties", "BodyPartExamined",
    "AccessionNumber", "PatientID", "PatientName", "PatientBirthDate",
    "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber",
    "AcquisitionNumber", "AcquisitionTime", "InstanceNumber", "ScanningSequence", "SequenceVariant",
    "SequenceName",
    "PulseSequenceName", "MRAcquisitionType", "AngioFlag", "SliceThickness", "RepetitionTime",
    "EchoTime", "EchoNumbers", "InversionTime", "FlipAngle", "DiffusionBValue", "TriggerTime",
    "ContrastBolusAgent", "ContrastBolusAgentSequence", "ContrastBolusVolume",
    "TemporalPositionIdentifier", "ImagesInAcquisition", "ImagePositionPatient",
    "ImageOrientationPatient", "FrameOfReferenceUID", "PixelSpacing", "SamplesPerPixel",
    "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "RescaleSlope", "RescaleIntercept", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "SpecificCharacterSet",
)  # fmt: skip
"""All that is looked at in headers; everything else, private tags above all, is skipped unread."""
PIXEL_TAGS = (
    "PixelData", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows",
    "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PlanarConfiguration",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)  # fmt: skip
"""What it takes to unpack pixels."""
_NUMBERS: list[Any] = [Tag(keyword) for keyword in TAGS]
_PIXEL_NUMBERS: list[Any] = [Tag(keyword) for keyword in PIXEL_TAGS]


PREAMBLE_BYTES = 132
"""A shorter file is no whole DICOM file (PS3.10, 7.1)."""
OTHER_FILES = (
    ".txt", ".xml", ".jpg", ".jpeg", ".png", ".gif", ".bmp", ".pdf", ".html", ".htm", ".css", ".js",
    ".inf", ".exe", ".dll", ".ini", ".json", ".csv", ".tsv", ".log", ".md", ".cfg", ".ico", ".bat",
)  # fmt: skip
"""Endings of files that lie beside images on discs; none of them can be a slice."""


@dataclass(frozen=True)
class Header:
    """What one DICOM file says of itself.

    Attributes:
        entry: the file.
        study_uid: Study Instance UID (0020,000D).
        series_uid: Series Instance UID (0020,000E).
        tags: the elements of TAGS that are there.
    """

    entry: Entry
    study_uid: str
    series_uid: str
    tags: Dataset

    @property
    def instance(self) -> str:
        """How errors call this file: by its Instance Number (0020,0013)."""
        number = whole(self.tags, "InstanceNumber")
        return "an image without instance number" if number is None else f"instance {number}"


def digest(uid: str) -> str:
    """Twelve digits that stand for a UID, which might be looked up in a hospital's archive.

    >>> digest("1.2.3")
    'c47f5b18b8a4'
    """
    return hashlib.sha256(uid.encode()).hexdigest()[:12]


def read_header(reader: Reader, entry: Entry) -> Header | None:
    """The header of a file; None if it is no DICOM, or a DICOMDIR.

    Raises:
        ReadError: it starts as DICOM does, but is damaged or deflated.
    """
    start = reader.head(entry, HEAD_BYTES)
    if not _looks_like_dicom(start):
        return None
    _require_inflated(start)
    with reader.open(entry) as file:
        tags = parse(file, pixels=False)
    meta = getattr(tags, "file_meta", None)
    if meta is not None and text(meta, "MediaStorageSOPClassUID") == DIRECTORY:
        return None
    study, series = text(tags, "StudyInstanceUID"), text(tags, "SeriesInstanceUID")
    if not (study and series and text(tags, "SOPClassUID")):
        if start[128:132] != b"DICM":
            return None
        raise ReadError("a DICOM file names no study, series or kind of object; export it again")
    return Header(entry, study, series, tags)


def is_hollow(reader: Reader, entry: Entry) -> bool:
    """Whether a file that is no DICOM is empty, blank or cut off, so that it may have been one.

    Raises:
        ReadError: it cannot be read.
    """
    if entry.name.lower().endswith(OTHER_FILES):
        return False
    start = reader.head(entry, HEAD_BYTES)
    return len(start) < PREAMBLE_BYTES or not any(start)


def parse(file: IO[bytes], *, pixels: bool) -> Dataset:
    """A file's elements: those of TAGS, or those of PIXEL_TAGS.

    Raises:
        ReadError: damaged beyond what pydicom can make of it.
    """
    wanted = _PIXEL_NUMBERS if pixels else _NUMBERS
    try:
        with silence():
            source = cast(BinaryIO, file)
            return pydicom.dcmread(
                source, force=True, stop_before_pixels=not pixels, specific_tags=wanted
            )
    except Exception as error:  # pydicom raises whatever its parts raise
        raise ReadError(
            f"a DICOM file is damaged ({type(error).__name__}); export or copy it again"
        ) from error


@contextmanager
def silence() -> Iterator[None]:
    """Keep pydicom's and its decoders' remarks, which quote headers, off the screen.

    Values are converted, and remarked upon, when they are looked at. Entering this for each
    would take longer than the reading.
    """
    if _silent.get():
        yield
        return
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        token = _silent.set(True)
        try:
            yield
        finally:
            _silent.reset(token)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Say in every error from within which series, slice or file it is about."""
    try:
        yield
    except BrainmetsError as error:
        raise type(error)(f"{what}: {error}") from error


def value(tags: Dataset, keyword: str) -> Any:
    """An element's value; None if it is absent or empty. To be called within :func:`silence`.

    Raises:
        VolumeError: it cannot be understood.
    """
    try:
        found = tags.get(keyword)
    except Exception as error:  # conversion happens on access, and fails in many ways
        raise _not_understood(keyword) from error
    return None if found is None or found == "" else found


def text(tags: Dataset, keyword: str) -> str:
    """An element as one line of text, values joined by blanks; empty if absent or damaged."""
    try:
        found = value(tags, keyword)
        parts = [found] if isinstance(found, str) or not _is_many(found) else list(found)
        return " ".join(str(part) for part in parts if part is not None).strip(" \0")
    except (VolumeError, ValueError, TypeError, UnicodeError):
        return ""


def number(tags: Dataset, keyword: str) -> float | None:
    """An element's number, the first if it has several; None if absent.

    Raises:
        VolumeError: not a finite number.
    """
    found = value(tags, keyword)
    if found is None or (_is_many(found) and not len(found)):
        return None
    return _finite(found[0] if _is_many(found) else found, keyword)


def whole(tags: Dataset, keyword: str) -> int | None:
    """As :func:`number`, for whole numbers; None also where it cannot be understood."""
    try:
        found = number(tags, keyword)
    except VolumeError:
        return None
    return None if found is None or found != int(found) else int(found)


def numbers(tags: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    """Exactly ``count`` numbers.

    Raises:
        VolumeError: absent, fewer or more, or not finite.
    """
    found = value(tags, keyword)
    if found is None:
        raise VolumeError(f"{_name(keyword)} is missing, so its place is unknown; export it again")
    if not _is_many(found) or len(found) != count:
        raise VolumeError(f"{_name(keyword)} does not hold {count} numbers; export it again")
    return tuple(_finite(item, keyword) for item in found)


def items(tags: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none if it is absent.

    Raises:
        VolumeError: it is no sequence.
    """
    found = value(tags, keyword)
    if found is None:
        return []
    if not all(isinstance(item, Dataset) for item in found):
        raise _not_understood(keyword)
    return list(found)


def _looks_like_dicom(start: bytes) -> bool:
    """A preamble (PS3.10), or none but a first element of group 0002 or 0008, as old exports do."""
    if start[128:132] == b"DICM":
        return True
    if len(start) < 12 or start[:2] not in (b"\x02\x00", b"\x08\x00"):
        return False
    element, length = struct.unpack("<HI", start[2:8])
    return element < 0x2000 and (start[4:6].isalpha() or length < 1024)


def _require_inflated(start: bytes) -> None:
    """Refuse deflated files: pydicom would unpack them without limit."""
    if DEFLATED.encode() in start:
        raise ReadError("a DICOM file is deflated as a whole; export it without that compression")


def _is_many(found: Any) -> bool:
    return not isinstance(found, str | bytes) and hasattr(found, "__len__")


def _finite(found: Any, keyword: str) -> float:
    try:
        result = float(found)
    except (TypeError, ValueError, OverflowError) as error:
        raise _not_understood(keyword) from error
    if not math.isfinite(result):
        raise _not_understood(keyword)
    return result


def _not_understood(keyword: str) -> VolumeError:
    return VolumeError(f"{_name(keyword)} cannot be understood; export it again")


def _name(keyword: str) -> str:
    """A keyword with its tag, as in ``PixelSpacing (0028,0030)``."""
    tag = pydicom.datadict.tag_for_keyword(keyword) or 0
    return f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"
