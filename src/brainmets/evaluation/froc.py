"""Free-response curves: lesions found against false positives per scan, over all thresholds.

Everything is computed from *candidates*: places that a model announced, each with a score
and the reference lesions it hits. Lowering the threshold admits candidates and moves none.

A model's decision rule (:class:`brainmets.config.DecisionRule`) takes components of voxels
≥ ``low`` and keeps those that reach ``high``. So the candidates are its components with
``high`` lowered to ``low``, each scored by its largest probability: the curve is what the
model would do for every ``high``, and passes through what it did.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from brainmets.config import DecisionRule
from brainmets.errors import ConfigError
from brainmets.evaluation.curves import FULL_SCALE
from brainmets.evaluation.lesionwise import overlaps
from brainmets.evaluation.scores import Score, ratio, undefined
from brainmets.lesions import find
from brainmets.volume import Volume, require_same_grid

Float64Array = npt.NDArray[np.float64]

LUNA_FALSE_POSITIVES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per scan whose mean sensitivity LUNA16 reports (Setio et al. 2017)."""

NO_LESIONS = "no scan has a lesion"


@dataclass(frozen=True)
class Candidate:
    """A place that was announced.

    Attributes:
        score: the larger, the surer.
        hits: the reference lesions it stands for; none: a false positive.
    """

    score: float
    hits: frozenset[int] = frozenset()


@dataclass(frozen=True)
class ScanCandidates:
    """The candidates of one scan.

    Attributes:
        candidates: in any order.
        lesions: how many lesions the reference has, hit or not.

    Raises:
        ConfigError: a score is NaN, or more lesions are hit than there are.
    """

    candidates: tuple[Candidate, ...]
    lesions: int

    def __post_init__(self) -> None:
        """Check that the numbers can be."""
        if any(math.isnan(c.score) for c in self.candidates):
            raise ConfigError("a candidate's score is NaN; give each candidate a number")
        hit = len(frozenset[int]().union(*(c.hits for c in self.candidates)))
        if hit > self.lesions:
            raise ConfigError(
                f"candidates hit {hit} lesions of a scan that has {self.lesions}; "
                "count every reference lesion"
            )


@dataclass(frozen=True)
class Froc:
    """A free-response curve, a step for each score that occurs.

    Attributes:
        thresholds: (n,), falling; the first is infinite, where nothing is announced.
        false_positives: (n,), per scan, of candidates ≥ the threshold.
        sensitivity: (n,), share of all lesions that are hit; NaN without lesions.
        scans: how many.
        lesions: how many.
    """

    thresholds: Float64Array
    false_positives: Float64Array
    sensitivity: Float64Array
    scans: int
    lesions: int


@dataclass(frozen=True)
class OperatingPoint:
    """The best that is reached with a number of false positives.

    Attributes:
        allowed: false positives per scan that were allowed.
        threshold: the highest that gives it; infinite: announce nothing.
        false_positives: per scan, at this threshold.
        sensitivity: at this threshold.
    """

    allowed: float
    threshold: float
    false_positives: float
    sensitivity: Score


def candidates_of(reference: Volume, probability: Volume, rule: DecisionRule) -> ScanCandidates:
    """The candidates of one scan: what the rule would announce with ``high`` at ``low``.

    Args:
        reference: label image, each value > 0 one lesion.
        probability: floating point from 0 to 1, or uint16 where 65535 stands for 1.
        rule: ``low`` and ``smallest_mm3`` are used.

    Raises:
        GridMismatchError: the images do not lie on the same voxels.
    """
    if probability.data.dtype == np.uint16:
        probability = probability.with_data(probability.data / np.float32(FULL_SCALE))
    found = find(probability, replace(rule, high=rule.low))
    return scan_candidates(reference, found, probability)


def scan_candidates(reference: Volume, prediction: Volume, probability: Volume) -> ScanCandidates:
    """The candidates of one scan: each predicted lesion, scored by its largest probability.

    Args:
        reference: label image, each value > 0 one lesion.
        prediction: label image of the lesions at the lowest threshold of interest.
        probability: on the same grid.

    Returns:
        A candidate per predicted lesion; it hits the lesions it shares a voxel with,
        whatever rule matches lesions elsewhere: other rules may pair a lesion anew when
        the threshold falls, and then no curve exists.

    Raises:
        GridMismatchError: the images do not lie on the same voxels.
    """
    require_same_grid(reference.grid, prediction.grid, "reference and prediction")
    require_same_grid(prediction.grid, probability.grid, "prediction and probability")
    hits: dict[int, set[int]] = {}
    for pair in overlaps(reference.data, prediction.data):
        hits.setdefault(pair.prediction_label, set()).add(pair.reference_label)
    inside = np.greater(prediction.data, 0)
    labels, at = np.unique(prediction.data[inside], return_inverse=True)
    highest = np.full(labels.shape, -math.inf)
    np.maximum.at(highest, at, probability.data[inside])
    return ScanCandidates(
        tuple(
            Candidate(float(top), frozenset(hits.get(int(label), ())))
            for label, top in zip(labels, highest, strict=True)
        ),
        len(np.unique(reference.data[np.greater(reference.data, 0)])),
    )


def froc(scans: Sequence[ScanCandidates]) -> Froc:
    """The free-response curve of several scans, lesions pooled.

    Raises:
        ConfigError: no scans.
    """
    if not scans:
        raise ConfigError("a free-response curve needs at least one scan; got none")
    lesions = sum(scan.lesions for scan in scans)
    wrong = [c.score for scan in scans for c in scan.candidates if not c.hits]
    right = [score for scan in scans for score in best_of_each_lesion(scan)]
    thresholds = np.array([math.inf, *sorted({*wrong, *right}, reverse=True)])
    found = _at_least(right, thresholds)
    share = found / lesions if lesions else np.full(thresholds.shape, math.nan)
    return Froc(thresholds, _at_least(wrong, thresholds) / len(scans), share, len(scans), lesions)


def operating_point(curve: Froc, false_positives: float) -> OperatingPoint:
    """The point of highest sensitivity with at most so many false positives per scan.

    It is a point that a threshold gives; nothing is interpolated between thresholds.
    """
    if not false_positives >= 0:
        raise ConfigError(f"{false_positives} false positives; expected a number of 0 or more")
    at = int(np.searchsorted(curve.false_positives, false_positives, side="right")) - 1
    at = max(at, 0)
    # Of the thresholds with this count the highest that already finds as many lesions.
    if curve.lesions:
        at = int(np.searchsorted(curve.sensitivity, curve.sensitivity[at]))
    return OperatingPoint(
        false_positives,
        float(curve.thresholds[at]),
        float(curve.false_positives[at]),
        Score(float(curve.sensitivity[at])) if curve.lesions else undefined(NO_LESIONS),
    )


def mean_sensitivity(curve: Froc, false_positives: Sequence[float] = LUNA_FALSE_POSITIVES) -> Score:
    """Mean sensitivity over several operating points."""
    values = [operating_point(curve, allowed).sensitivity.value for allowed in false_positives]
    if not curve.lesions:
        return undefined(NO_LESIONS)
    return ratio(sum(values), len(values), "no operating point was asked for")


def area(curve: Froc, up_to: float = 8.0) -> Score:
    """Mean sensitivity over 0 … ``up_to`` false positives per scan: the area, scaled to 0 … 1.

    The curve is a staircase; beyond its last point it stays level, as no threshold gives
    more. ``up_to`` belongs to the score: areas up to other limits cannot be compared.
    """
    if not up_to > 0:
        raise ConfigError(f"the area reaches up to {up_to} false positives; expected above 0")
    if not curve.lesions:
        return undefined(NO_LESIONS)
    edges = np.append(np.minimum(curve.false_positives, up_to), up_to)
    return Score(float((np.diff(edges) * curve.sensitivity).sum() / up_to))


def free_response_auc(scans: Sequence[ScanCandidates]) -> Score:
    """The probability that a lesion is scored higher than the surest false positive of a scan.

    The area under the alternative free-response curve (AFROC1 of Chakraborty 2013, Br J
    Radiol 86:20120426): over all pairs of a lesion and a scan, ties counting half; a
    lesion that was not hit and a scan without false positives score below everything.
    Unlike :func:`area` it needs no limit. 0.5 is what announcing nothing gives.
    """
    lesions = [score for scan in scans for score in best_of_each_lesion(scan)]
    lesions += [-math.inf] * (sum(scan.lesions for scan in scans) - len(lesions))
    if not lesions:
        return undefined(NO_LESIONS)
    noise = np.sort(
        [max((c.score for c in s.candidates if not c.hits), default=-math.inf) for s in scans]
    )
    below = np.searchsorted(noise, lesions, side="left")
    not_above = np.searchsorted(noise, lesions, side="right")
    return Score(float((below + not_above).sum() / (2 * len(lesions) * noise.size)))


def best_of_each_lesion(scan: ScanCandidates) -> list[float]:
    """For each lesion that is hit the largest score of a candidate that hits it."""
    best: dict[int, float] = {}
    for candidate in scan.candidates:
        for lesion in candidate.hits:
            best[lesion] = max(candidate.score, best.get(lesion, -math.inf))
    return list(best.values())


def _at_least(scores: Sequence[float], thresholds: Float64Array) -> Float64Array:
    """How many scores reach each threshold."""
    rising = np.sort(np.asarray(scores, np.float64))
    return np.asarray(rising.size - np.searchsorted(rising, thresholds, side="left"), np.float64)
