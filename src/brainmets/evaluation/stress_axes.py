"""Along what the stress test is cut into groups: properties of lesions and of scans."""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from brainmets.evaluation.lesionwise import SIZE_BINS, size_bin
from brainmets.evaluation.stress_case import UNKNOWN, Fact, PosedLesion, StressCase
from brainmets.simulate.regions import REGIONS

CONTRAST_EDGES = (4.0, 8.0, 16.0, 32.0)
CONTRAST_BINS = ("< 4", "4–8", "8–16", "16–32", "≥ 32")
SLICE_EDGES_MM = (1.3, 3.0, 5.0)
SLICE_BINS = ("< 1.3 mm", "1.3–3 mm", "3–5 mm", "≥ 5 mm")
NOISE_EDGES_PERCENT = (1.5, 3.0, 6.0)
NOISE_BINS = ("< 1.5 %", "1.5–3 %", "3–6 %", "≥ 6 %")
SURFACE = ("at the surface", "inside")
FEW = 4
"""A number with at most so many values is a category; with more, it is cut into thirds."""

OfLesion = Callable[[StressCase, PosedLesion], str]
OfScan = Callable[[StressCase], str]


@dataclass(frozen=True)
class LesionAxis:
    """A property of lesions.

    Attributes:
        name: for the tables.
        groups: in order; a lesion in none of them is left out.
        of: a lesion's group.
    """

    name: str
    groups: tuple[str, ...]
    of: OfLesion

    def members(self, group: str) -> Callable[[StressCase, PosedLesion], bool]:
        """Whether a lesion belongs to a group."""
        return lambda case, lesion: self.of(case, lesion) == group


@dataclass(frozen=True)
class ScanAxis:
    """A property of scans, which their lesions share; as :class:`LesionAxis`."""

    name: str
    groups: tuple[str, ...]
    of: OfScan

    def members(self, group: str) -> Callable[[StressCase], bool]:
        """Whether a scan belongs to a group."""
        return lambda case: self.of(case) == group

    def of_lesions(self) -> LesionAxis:
        """The same for lesions."""
        return LesionAxis(self.name, self.groups, lambda case, _lesion: self.of(case))


def binned(value: float, edges: Sequence[float], names: Sequence[str]) -> str:
    """The bin of a value; each holds its lower edge and not its upper one.

    >>> binned(4.0, CONTRAST_EDGES, CONTRAST_BINS), binned(float("nan"), (1.0,), ("a", "b"))
    ('4–8', 'unknown')
    """
    return UNKNOWN if math.isnan(value) else names[bisect_right(edges, value)]


SIZE = LesionAxis("size", SIZE_BINS, lambda _case, lesion: size_bin(lesion.diameter_mm))
LESION_AXES = (
    SIZE,
    LesionAxis(
        "contrast to noise",
        (*CONTRAST_BINS, UNKNOWN),
        lambda _case, lesion: binned(lesion.contrast_to_noise, CONTRAST_EDGES, CONTRAST_BINS),
    ),
    LesionAxis("region", (*REGIONS, UNKNOWN), lambda _case, lesion: lesion.region),
    LesionAxis("depth", SURFACE, lambda _case, lesion: SURFACE[not lesion.at_surface]),
)


def scan_axes(cases: Sequence[StressCase]) -> tuple[ScanAxis, ...]:
    """Slices, noise and plane, then every fact of style and protocol that varies in the cohort."""
    fixed = (
        ScanAxis(
            "slice thickness", SLICE_BINS, _binned_fact("slice_mm", SLICE_EDGES_MM, SLICE_BINS),
        ),
        ScanAxis(
            "noise", (*NOISE_BINS, UNKNOWN),
            _binned_fact("noise_percent", NOISE_EDGES_PERCENT, NOISE_BINS),
        ),
        ScanAxis("plane", ("axial", "coronal", "sagittal"), lambda case: str(case.facts["plane"])),
    )  # fmt: skip
    names = dict.fromkeys(name for case in cases for name in case.facts if ": " in name)
    told = (_told_axis(name, [case.facts.get(name) for case in cases]) for name in names)
    return (*fixed, *(axis for axis in told if len(axis.groups) > 1))


def _binned_fact(name: str, edges: Sequence[float], names: Sequence[str]) -> OfScan:
    return lambda case: binned(float(case.facts.get(name, math.nan)), edges, names)


def _told_axis(name: str, values: Sequence[Fact | None]) -> ScanAxis:
    """An axis of what the simulator tells: categories as they are, numbers in thirds if many.

    Where a third of the numbers are 0, what is there by chance is: these, and halves of the rest.
    """
    there = [value for value in values if value is not None]
    numbers = [float(v) for v in there if isinstance(v, float)]
    if len(numbers) == len(there) and len(set(numbers)) > 1:
        rest = [number for number in numbers if number > 0]
        few = len(set(numbers)) <= FEW
        if min(numbers) == 0 and len(rest) <= 2 / 3 * len(numbers):
            edges = [min(rest)] if few else [min(rest), float(np.median(rest))]
            groups = ("0", "> 0") if few else ("0", *_between(edges[1:]))
            return ScanAxis(name, groups, _binned_fact(name, edges, groups))
        if not few:
            edges = sorted({float(x) for x in np.quantile(numbers, (1 / 3, 2 / 3))})
            return ScanAxis(name, _between(edges), _binned_fact(name, edges, _between(edges)))
    groups = tuple(dict.fromkeys(_words(v) for v in sorted(there, key=lambda v: (str(type(v)), v))))
    return ScanAxis(name, groups, lambda case: _words(case.facts.get(name)))


def _between(edges: Sequence[float]) -> tuple[str, ...]:
    shown = [f"{edge:.3g}" for edge in edges]
    middle = [f"{a}–{b}" for a, b in pairwise(shown)]
    return (f"< {shown[0]}", *middle, f"≥ {shown[-1]}")


def _words(value: Fact | None) -> str:
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else value


def row_of(case: StressCase, axes: Sequence[ScanAxis]) -> Mapping[str, str]:
    """A scan's groups, by axis."""
    return {axis.name: axis.of(case) for axis in axes}
