"""One case of the stress test: what was simulated, how hard it is, and what a model made of it.

All facts are measured on the images and the truth; what else the simulator tells of scan and
style is kept by name, so that a scanner with new faults gives new rows of the tables.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from brainmets.config import DecisionRule
from brainmets.evaluation.froc import Candidate, ScanCandidates
from brainmets.evaluation.lesionwise import overlaps
from brainmets.lesions import Lesion, bounding_box, components, find, measure
from brainmets.report.content import Report
from brainmets.simulate.examination import Examination
from brainmets.simulate.regions import REGIONS, regions_of
from brainmets.volume import Grid, Volume, nearest_ras_order

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Fact = float | str | bool

SHELL_MM = (1.5, 5.0)
"""Surroundings of a lesion: from so far outside it to so far."""
FEWEST_VOX = 8
"""Fewer voxels of surroundings give no contrast."""
SURFACE_MM = 2.0
"""A lesion that comes this close to the surface of brain + CSF lies at it."""
GROWN_MM = 2.0
"""A lesion's region is that of most voxels within this distance, itself included."""
UNKNOWN = "unknown"


@dataclass(frozen=True)
class PosedLesion:
    """One lesion of the truth, and how hard it is.

    Attributes:
        label: its value in the truth.
        diameter_mm: of the sphere of equal volume.
        voxels: how many it has.
        contrast_to_noise: see :func:`contrast_to_noise`; NaN where it has no surroundings.
        region: of :data:`brainmets.simulate.regions.REGIONS`, or ``unknown``.
        at_surface: it comes within 2 mm of the surface of brain + CSF.
    """

    label: int
    diameter_mm: float
    voxels: int
    contrast_to_noise: float
    region: str
    at_surface: bool


@dataclass(frozen=True)
class Announced:
    """A component of probabilities ≥ the rule's ``low``, large enough to be a lesion.

    Attributes:
        score: its largest probability.
        voxels: how many it has.
        volume_mm3: its volume.
        shared: for each lesion of the truth that it meets the number of common voxels.
    """

    score: float
    voxels: int
    volume_mm3: float
    shared: Mapping[int, int]


@dataclass(frozen=True)
class StressCase:
    """A case: facts of the scan, its lesions, and what was announced.

    Attributes:
        name: of the case.
        facts: of the scan, by name.
        lesions: of the truth.
        announced: by the model, at any ``high``.
        high: of the model's rule.
    """

    name: str
    facts: Mapping[str, Fact]
    lesions: tuple[PosedLesion, ...]
    announced: tuple[Announced, ...]
    high: float

    def kept(self, high: float | None = None) -> tuple[Announced, ...]:
        """What is announced at a threshold; at the model's own by default."""
        least = self.high if high is None else high
        return tuple(a for a in self.announced if a.score >= np.float32(least))

    def dice(self, high: float | None = None) -> dict[int, float]:
        """Dice of each lesion that is found, against the union of what hits it."""
        hits: dict[int, list[Announced]] = {}
        for one in self.kept(high):
            for label in one.shared:
                hits.setdefault(label, []).append(one)
        return {
            lesion.label: 2
            * sum(a.shared[lesion.label] for a in hits[lesion.label])
            / (lesion.voxels + sum(a.voxels for a in hits[lesion.label]))
            for lesion in self.lesions
            if lesion.label in hits
        }

    def false_positives(self, high: float | None = None) -> int:
        """How many announced lesions meet none of the truth."""
        return sum(not one.shared for one in self.kept(high))

    def candidates(self) -> ScanCandidates:
        """For free-response curves."""
        found = tuple(Candidate(one.score, frozenset(one.shared)) for one in self.announced)
        return ScanCandidates(found, len(self.lesions))


def posed(examination: Examination) -> tuple[dict[str, Fact], tuple[PosedLesion, ...]]:
    """What a simulated examination asks of a model: facts of the scan, and its lesions."""
    brain = examination.brain.data > 0
    noise = noise_of(examination.scan, brain)
    truth = components(examination.mask)
    places = _regions(examination)
    lesions = tuple(
        _posed(lesion, truth.data, examination, noise, places) for lesion in measure(truth)
    )
    grid = examination.scan.grid
    white = float(np.percentile(examination.scan.data[brain], 75)) if brain.any() else math.nan
    facts: dict[str, Fact] = {
        "slice_mm": round(max(grid.spacing_mm), 3),
        "noise_percent": round(100 * noise / white, 3),
        "plane": plane_of(grid),
        "lesions_too_thin_to_show": max(0, len(examination.plans) - len(lesions)),
    }
    for part in ("style", "protocol", "artefacts"):
        facts |= _told(getattr(examination, part, None), part)
    return facts, lesions


def answered(examination: Examination, report: Report, rule: DecisionRule) -> tuple[Announced, ...]:
    """What a model announced, at the lowest ``high`` its rule can have.

    Raises:
        GridMismatchError: the report is of another scan.
    """
    if report.probability is None:
        return ()
    truth, likely = components(examination.mask), report.probability
    found = find(likely, dataclasses.replace(rule, high=rule.low))
    shared: dict[int, dict[int, int]] = {}
    for pair in overlaps(truth.data, found.data):
        shared.setdefault(pair.prediction_label, {})[pair.reference_label] = pair.shared_vox
    index = np.arange(1, int(found.data.max(initial=0)) + 1)
    voxels = np.bincount(found.data.ravel(), minlength=index.size + 1)[1:]
    highest = np.atleast_1d(ndimage.maximum(likely.data, found.data, index))
    return tuple(
        Announced(
            float(score), int(count), float(count) * likely.grid.voxel_volume_mm3,
            shared.get(label, {}),
        )
        for label, score, count in zip(index.tolist(), highest, voxels, strict=True)
    )  # fmt: skip


def noise_of(scan: Volume, brain: Mask) -> float:
    """Standard deviation of the noise, in grey values; NaN without a brain.

    Immerkær 1996 (Comput Vis Image Underst 64:300): two second differences across each other
    leave noise and take flat and sloping signal away. In the slices of finest voxels, from
    the median over the brain, which edges hardly move.
    """
    if not brain.any():
        return math.nan
    box = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in bounding_box(brain))
    values, inside = scan.data[box].astype(np.float32), brain[box]
    for axis in np.argsort(scan.grid.spacing_mm, kind="stable")[:2]:
        values = ndimage.correlate1d(values, [1.0, -2.0, 1.0], axis=int(axis), mode="nearest")
    return float(np.median(np.abs(values[inside])) / 0.6745 / 6)


def contrast_to_noise(scan: Floats, lesion: Mask, around: Mask, noise: float) -> float:
    """How far a lesion's bright part stands above its surroundings, in units of the noise.

    The bright part: voxels above the median of the surroundings, so that a dark core takes
    nothing from a ring; all voxels where none is. NaN with too few surroundings or no noise.
    """
    if np.count_nonzero(around) < FEWEST_VOX or not noise > 0:
        return math.nan
    level = float(np.median(scan[around]))
    values = scan[lesion]
    bright = values[values > level]
    return (float((bright if bright.size else values).mean()) - level) / noise


def plane_of(grid: Grid) -> str:
    """The plane of the slices: across the coarsest axis, or the last of equal ones."""
    spacing = np.round(grid.spacing_mm, 3)
    slow = int(np.flatnonzero(spacing == spacing.max())[-1])
    return ("sagittal", "coronal", "axial")[nearest_ras_order(grid).axes.index(slow)]


def _posed(
    lesion: Lesion, truth: Any, examination: Examination, noise: float, places: Volume | None
) -> PosedLesion:
    grid = examination.scan.grid
    edge = bounding_box(truth == lesion.label)
    reach = np.ceil((SHELL_MM[1] + 1) / np.asarray(grid.spacing_mm)).astype(int).tolist()
    box = tuple(slice(max(0, s.start - r), s.stop + r) for s, r in zip(edge, reach, strict=True))
    inside, any_lesion = truth[box] == lesion.label, truth[box] > 0
    brain = examination.brain.data[box] > 0
    away = ndimage.distance_transform_edt(~inside, sampling=grid.spacing_mm)
    around = (away > SHELL_MM[0]) & (away <= SHELL_MM[1]) & brain & ~any_lesion
    scan = examination.scan.data[box].astype(np.float32)
    return PosedLesion(
        label=lesion.label,
        diameter_mm=lesion.equivalent_diameter_mm,
        voxels=int(inside.sum()),
        contrast_to_noise=contrast_to_noise(scan, inside, around, noise),
        region=UNKNOWN if places is None else _region(places.data[box][away <= GROWN_MM]),
        at_surface=bool((~brain & (away <= SURFACE_MM)).any()),
    )


def _regions(examination: Examination) -> Volume | None:
    """Where each region lies in the scan; None if the examination does not tell its head."""
    head = getattr(examination, "head", None)
    protocol = getattr(examination, "protocol", None)
    return None if head is None or protocol is None else regions_of(head, protocol)


def _region(codes: npt.NDArray[np.uint8]) -> str:
    counts = np.bincount(codes.ravel(), minlength=len(REGIONS) + 1)[1:]
    return list(REGIONS)[int(counts.argmax())] if counts.any() else UNKNOWN


def _told(holder: Any, part: str) -> dict[str, Fact]:
    """The plain fields of a dataclass, named after it."""
    if not dataclasses.is_dataclass(holder):
        return {}
    values = {f.name: getattr(holder, f.name) for f in dataclasses.fields(holder)}
    return {
        f"{part}: {name.replace('_', ' ')}": round(value, 6) if isinstance(value, float) else value
        for name, value in values.items()
        if isinstance(value, float | bool | str)
    }


def to_json(case: StressCase) -> dict[str, Any]:
    """Plain values, ready for JSON; NaN becomes null there."""
    return {
        "name": case.name,
        "facts": dict(case.facts),
        "lesions": [dataclasses.asdict(lesion) for lesion in case.lesions],
        "announced": [
            {**dataclasses.asdict(a), "shared": {str(k): n for k, n in sorted(a.shared.items())}}
            for a in case.announced
        ],
        "high": case.high,
    }


def from_json(values: Mapping[str, Any]) -> StressCase:
    """The inverse of :func:`to_json`."""

    def lesion(row: Mapping[str, Any]) -> PosedLesion:
        ratio = row["contrast_to_noise"]
        return PosedLesion(**{**row, "contrast_to_noise": math.nan if ratio is None else ratio})

    def announced(row: Mapping[str, Any]) -> Announced:
        return Announced(**{**row, "shared": {int(k): n for k, n in row["shared"].items()}})

    return StressCase(
        values["name"],
        {k: math.nan if v is None else v for k, v in values["facts"].items()},
        tuple(map(lesion, values["lesions"])),
        tuple(map(announced, values["announced"])),
        values["high"],
    )
