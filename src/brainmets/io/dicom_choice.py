"""Which series of a study is the T1 scan after contrast, judged by headers alone.

The order of preference, each with its reason, is a decision record: docs/decisions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydicom.dataset import Dataset

from brainmets.errors import VolumeError
from brainmets.io.dicom_header import Header, digest, items, number, text, whole
from brainmets.io.dicom_planes import CLASSIC, ENHANCED
from brainmets.io.dicom_words import (
    REFORMATTED,
    T1,
    TARGETED,
    contrast_in,
    first_word,
    is_fat_or_out_of_phase,
    names_agent,
    other_kind,
    plain,
)

FEWEST_IMAGES = 10
"""A series of fewer images covers no head."""
LONGEST_T1_ECHO_MS = 40.0
MODALITIES = frozenset((
    "AR", "AU", "BI", "BMD", "CR", "CT", "DG", "DOC", "DX", "ECG", "EEG", "EMG", "EPS", "ES",
    "FID", "GM", "HC", "HD", "IO", "IVOCT", "IVUS", "KER", "KO", "LEN", "LS", "M3D", "MG", "NM",
    "OAM", "OCT", "OP", "OPM", "OPT", "OPTBSV", "OPTENF", "OPV", "OSS", "OT", "PLAN", "POS", "PR",
    "PT", "PX", "REG", "RESP", "RF", "RG", "RTDOSE", "RTIMAGE", "RTPLAN", "RTRECORD", "RTSEGANN",
    "RTSTRUCT", "RWV", "SC", "SEG", "SM", "SMR", "SR", "SRF", "STAIN", "TG", "US", "VA", "XA",
    "XC",
))  # fmt: skip
"""Codes of PS3.3 C.7.3.1.1.1 (and SC) that may be printed; any other value is not repeated."""


@dataclass(frozen=True)
class Verdict:
    """What a series is taken for.

    Attributes:
        usable: whether it may be chosen without being asked for.
        sequence: for :class:`brainmets.cohort.Scan`; None if the header leaves it open.
        reasons: what in the header says so, in our words, not in the header's.
        rank: larger is better.
    """

    usable: bool
    sequence: str | None
    reasons: tuple[str, ...]
    rank: tuple[float, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Series:
    """The files of one series, and the verdict on it.

    Attributes:
        uid: Series Instance UID (0020,000E); never printed.
        number: Series Number (0020,0011).
        headers: of all its files.
        images: images in them.
        verdict: what it is taken for.
    """

    uid: str
    number: int | None
    headers: tuple[Header, ...] = field(repr=False)
    images: int
    verdict: Verdict

    @property
    def name(self) -> str:
        """How errors and tables call it: number and twelve digits for its UID."""
        return f"series {'without number' if self.number is None else self.number} ({self.key})"

    @property
    def key(self) -> str:
        """Twelve digits that stand for its UID."""
        return digest(self.uid)


def series_of(headers: Sequence[Header]) -> Series:
    """Judge the files of one series."""
    ordered = tuple(sorted(headers, key=lambda h: whole(h.tags, "InstanceNumber") or 0))
    images = sum(max(whole(h.tags, "NumberOfFrames") or 1, 1) for h in ordered)
    first = ordered[0]
    return Series(
        first.series_uid, whole(first.tags, "SeriesNumber"), ordered, images, judge(ordered, images)
    )


def judge(headers: Sequence[Header], images: int) -> Verdict:
    """What a series is, by the header of its middle image."""
    header = headers[len(headers) // 2]
    if (obstacle := _no_mr_image(header)) is not None:
        return Verdict(usable=False, sequence=None, reasons=(obstacle,))
    if other := _other_kind(header):
        return Verdict(usable=False, sequence=other, reasons=(f"{other}, by its header",))
    t1, why_t1 = _is_t1(header)
    if t1 is False:
        return Verdict(usable=False, sequence="no T1", reasons=(why_t1,))
    if images < FEWEST_IMAGES:
        reasons = (f"{images} images: too few for a head",)
        return Verdict(usable=False, sequence=None, reasons=reasons)
    contrast, certainty, why_contrast = _has_contrast(headers)
    extras, rank = _preferences(header)
    sequence = _sequence_name(t1=bool(t1), contrast=contrast)
    order = (float(bool(t1)), certainty, *rank, float(images))
    return Verdict(True, sequence, (why_t1, why_contrast, *extras), order)


def choose(series: Sequence[Series], wanted: str | None = None) -> tuple[Series, str]:
    """The series to read, and why.

    Args:
        series: those of one study.
        wanted: Series Instance UID, Series Number, or twelve digits as ``inspect`` prints
            them; None: the best by its header.

    Raises:
        VolumeError: none fits, or several do.
    """
    if wanted is not None:
        return _wanted(series, wanted), "as asked for"
    usable = [one for one in series if one.verdict.usable]
    if not usable:
        found = "; ".join(f"{s.name}: {s.verdict.reasons[0]}" for s in series[:8])
        raise VolumeError(
            f"no series that could be T1 after contrast among {len(series)}: {found}. Name the one "
            "to read with --series, or give another study"
        )
    best = max(usable, key=lambda s: (s.verdict.rank, -(s.number or 0), s.uid))
    if len(usable) > 1 and not best.verdict.rank[0]:
        raise VolumeError(
            f"none of {len(series)} series is called T1 or looks like it; name the one to read "
            "with --series"
        )
    return best, f"chosen among {len(series)}: " + ", ".join(best.verdict.reasons)


def _wanted(series: Sequence[Series], wanted: str) -> Series:
    found = [s for s in series if wanted in (s.uid, s.key)]
    if not found:
        found = [s for s in series if s.number is not None and wanted == str(s.number)]
    if len(found) != 1:
        known = ", ".join(s.name for s in series[:20])
        raise VolumeError(
            f"{'no' if not found else len(found)} series for --series; there are: {known}. Give a "
            "number or the digits beside it"
        )
    return found[0]


def _no_mr_image(header: Header) -> str | None:
    modality = text(header.tags, "Modality").upper()
    if modality != "MR":
        known = modality if modality in MODALITIES else "unknown"
        return f"no MR (modality {known})"
    if text(header.tags, "SOPClassUID") not in (CLASSIC, *ENHANCED):
        return "MR, but no image (a report, a capture, raw data)"
    return None


def description_of(header: Header) -> str:
    """What a series is called: description and protocol, plain."""
    named = text(header.tags, "SeriesDescription")
    return plain(named or text(header.tags, "ProtocolName"))


def _other_kind(header: Header) -> str:
    """Localiser, FLAIR and the like; empty if it may be a T1 scan of the head."""
    types = set(text(header.tags, "ImageType").upper().replace("\\", " ").split())
    by_type = {
        "localiser": {"LOCALIZER"},
        "subtraction": {"SUBTRACT", "SUBTRACTION", "SUB"},
        "projection": {"MIP", "PROJECTION", "MINIP", "PROJ"},
        "diffusion": {"ADC", "DIFFUSION", "TRACEW", "FA", "TENSOR"},
        "perfusion": {"PERFUSION", "CBF", "CBV", "MTT", "TTP", "RCBV", "RCBF", "ASL"},
        "map": {"T1MAP", "T2MAP", "T1 MAP", "B0", "FIELDMAP"},
        "screen capture": {"SCREEN", "SECONDARYCAPTURE"},
    }
    for kind, words in by_type.items():
        if types & words:
            return kind
    weighting = text(header.tags, "AcquisitionContrast").upper()
    stated = {"FLUID_ATTENUATED": "FLAIR", "T2": "T2", "T2_STAR": "susceptibility",
              "DIFFUSION": "diffusion", "PERFUSION": "perfusion", "TOF": "angiography",
              "PROTON_DENSITY": "proton density", "STIR": "STIR"}  # fmt: skip
    if weighting in stated:
        return stated[weighting]
    part = plain(text(header.tags, "BodyPartExamined"))
    return other_kind(description_of(header)) or ("other body part" if "spine" in part else "")


def _is_t1(header: Header) -> tuple[bool | None, str]:
    """Whether it is T1-weighted (None: open), and what says so."""
    echo, repetition, inversion = (
        _timing(header, keyword) for keyword in ("EchoTime", "RepetitionTime", "InversionTime")
    )
    if echo is not None and echo > LONGEST_T1_ECHO_MS:
        return False, f"no T1: echo time {echo:g} ms"
    words = description_of(header)
    if first_word(T1, words):
        return True, f"T1 by its description ({_family(words)})"
    if text(header.tags, "AcquisitionContrast").upper() == "T1":
        return True, "T1 by its header"
    if echo is None or repetition is None or "EP" in text(header.tags, "ScanningSequence").split():
        return None, "not said to be T1"
    if repetition <= 1200 or (inversion is not None and inversion <= 1300 and repetition <= 3500):
        return True, f"T1 by its timing (TR {repetition:g}, TE {echo:g} ms)"
    return None, f"not said to be T1 (TR {repetition:g}, TE {echo:g} ms)"


def _family(words: str) -> str:
    """The kind of T1 that a description names, in a word of ours: nothing of it is repeated."""
    known = ("mprage", "mp2rage", "spgr", "bravo", "vibe", "tfe", "thrive", "lava", "flash", "tfl")
    return next((name for name in known if name in words), "T1").upper()


def _timing(header: Header, keyword: str) -> float | None:
    """A time in ms, from the top of the header or from the groups of an enhanced one."""
    try:
        if (found := number(header.tags, keyword)) is not None:
            return found
        inner = {
            "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
            "RepetitionTime": ("MRTimingAndRelatedParametersSequence", "RepetitionTime"),
            "InversionTime": ("MRModifierSequence", "InversionTimes"),
        }[keyword]
        for group in _groups(header):
            for item in items(group, inner[0]):
                if (found := number(item, inner[1])) is not None:
                    return found
    except VolumeError:
        pass
    return None


def _groups(header: Header) -> list[Dataset]:
    """Functional groups that hold for all frames, then those of the first."""
    shared = items(header.tags, "SharedFunctionalGroupsSequence")[:1]
    return [*shared, *items(header.tags, "PerFrameFunctionalGroupsSequence")[:1]]


def _has_contrast(headers: Sequence[Header]) -> tuple[bool | None, float, str]:
    """Whether with contrast (None: open), its rank, and what says so."""
    said = contrast_in(description_of(headers[0]))
    if said is not None:
        rank = 3.0 if said else 0.0
        return said, rank, f"{'with' if said else 'without'} contrast by its description"
    if any(_names_agent(header) for header in (headers[0], headers[-1])):
        return True, 2.0, "contrast agent in its header"
    return None, 1.0, "no contrast agent in its header"


def _names_agent(header: Header) -> bool:
    if given := text(header.tags, "ContrastBolusAgent"):
        return names_agent(given)
    try:
        return bool(items(header.tags, "ContrastBolusAgentSequence"))
    except VolumeError:
        return False


def _sequence_name(*, t1: bool, contrast: bool | None) -> str | None:
    if not t1:
        return None
    return {True: "T1c", None: "T1, contrast not stated", False: "T1 without contrast"}[contrast]


def _preferences(header: Header) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Reasons and rank: whole head, water or in phase, original, 3D, thin slices first."""
    words = description_of(header)
    types = text(header.tags, "ImageType").upper().split()
    derived = bool(first_word(REFORMATTED, words)) or "MPR" in types or "DERIVED" in types[:1]
    targeted = bool(first_word(TARGETED, words))
    fat = is_fat_or_out_of_phase(words, plain(" ".join(types)))
    is_3d = text(header.tags, "MRAcquisitionType").upper() == "3D"
    thickness = _thickness(header)
    reasons = (
        *(("part of the head",) if targeted else ()),
        *(("fat or out of phase",) if fat else ()),
        "derived" if derived else "original",
        "3D" if is_3d else "2D or unknown",
        *(() if thickness is None else (f"slices of {thickness:g} mm",)),
    )
    thin = -(thickness or 99.0)
    return reasons, tuple(map(float, (not targeted, not fat, not derived, is_3d, thin)))


def _thickness(header: Header) -> float | None:
    try:
        if (found := number(header.tags, "SliceThickness")) is not None:
            return round(found, 2)
        for group in _groups(header):
            for item in items(group, "PixelMeasuresSequence"):
                if (found := number(item, "SliceThickness")) is not None:
                    return round(found, 2)
    except VolumeError:
        pass
    return None
