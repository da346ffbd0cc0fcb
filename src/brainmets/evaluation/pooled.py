"""Lesions of all cases together: detection and agreement, with intervals by patient.

Every score here is a function of sums over cases, so it can be computed for any draw of
patients from one matrix product.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from brainmets.evaluation.case import CaseScores
from brainmets.evaluation.lesionwise import SIZE_BINS
from brainmets.evaluation.matching import iou
from brainmets.evaluation.scores import Score, undefined
from brainmets.evaluation.statistics import Interval, interval

FloatArray = npt.NDArray[np.float64]


class Tally(NamedTuple):
    """Sums over the lesions of a case, or of several.

    Attributes:
        scans: cases.
        reference: lesions that are there.
        found: of these, those that were found.
        dice: summed over those.
        predicted: lesions that were announced.
        right: of these, those that match a lesion.
        pairs: of the one-to-one pairing.
        iou: summed over those.
        unpaired: announced lesions without a partner in that pairing.
    """

    scans: Any
    reference: Any
    found: Any
    dice: Any
    predicted: Any
    right: Any
    pairs: Any
    iou: Any
    unpaired: Any


def _f1(t: Tally) -> Any:
    sensitivity, precision = t.found / t.reference, t.right / t.predicted
    both = 2 * sensitivity * precision / (sensitivity + precision)
    one_sided = np.where(t.reference + t.predicted > 0, 0.0, np.nan)
    return np.where((t.found > 0) & (t.right > 0), both, one_sided)


NO_LESION = "neither reference nor prediction has a lesion"
POOLED: Mapping[str, tuple[Callable[[Tally], Any], str]] = {
    "lesion_sensitivity": (lambda t: t.found / t.reference, "the reference has no lesion"),
    "lesion_precision": (lambda t: t.right / t.predicted, "the prediction has no lesion"),
    "lesion_f1": (_f1, NO_LESION),
    "false_positives_per_scan": (
        lambda t: (t.predicted - t.right) / t.scans,
        "there is no case",
    ),
    "matched_lesion_dice": (lambda t: t.dice / t.found, "no lesion was found"),
    "one_to_one_panoptic_quality": (
        lambda t: 2 * t.iou / (t.reference + t.pairs + t.unpaired),
        NO_LESION,
    ),
}
"""Scores of a tally, and why there is none where one divides by 0."""


def tally(case: CaseScores, size: str | None = None) -> Tally:
    """The sums of one case, of all its lesions or of those of a size bin.

    A pair of the one-to-one pairing belongs to its reference lesion's bin.
    """
    reference = [r for r in case.lesions.reference if size in (None, r.size_bin)]
    prediction = [p for p in case.lesions.prediction if size in (None, p.size_bin)]
    labels = {r.lesion.label for r in reference}
    pairs = [pair for pair in case.pairs if pair.reference_label in labels]
    paired = {pair.prediction_label for pair in case.pairs}
    return Tally(
        scans=1,
        reference=len(reference),
        found=sum(r.matched for r in reference),
        dice=sum(r.dice.value for r in reference if r.matched),
        predicted=len(prediction),
        right=sum(p.matched for p in prediction),
        pairs=len(pairs),
        iou=sum(iou(pair) for pair in pairs),
        unpaired=sum(p.lesion.label not in paired for p in prediction),
    )


def scores_by_size(case: CaseScores) -> dict[str, dict[str, Score]]:
    """Counts and the scores of POOLED of one case, for each of SIZE_BINS."""
    return {name: _of_one(tally(case, name)) for name in SIZE_BINS}


def _of_one(t: Tally) -> dict[str, Score]:
    sums = Tally(*(np.float64(n) for n in t))
    scores = {
        "reference_lesions": Score(float(t.reference)),
        "predicted_lesions": Score(float(t.predicted)),
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        for name, (statistic, reason) in POOLED.items():
            value = float(statistic(sums))
            scores[name] = undefined(reason) if np.isnan(value) else Score(value)
    return scores


def pooled_scores(
    cases: Sequence[CaseScores], owner: Sequence[int], weights: FloatArray
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Pooled scores over all lesions, and by size bin.

    Args:
        cases: their scores.
        owner: the number of each case's patient.
        weights: of patients, from :func:`brainmets.evaluation.statistics.draw`.

    Returns:
        Counts and the scores of POOLED, each with value, reason and interval.
    """
    every = _described([tally(case) for case in cases], owner, weights)
    by_size = {
        name: _described([tally(case, name) for case in cases], owner, weights)
        for name in SIZE_BINS
    }
    return every, by_size


def _described(
    tallies: Sequence[Tally], owner: Sequence[int], weights: FloatArray
) -> dict[str, Any]:
    sums = np.zeros((weights.shape[1], len(Tally._fields)))
    for number, one in zip(owner, tallies, strict=True):
        sums[number] += one
    total = Tally(*sums.sum(axis=0))
    return {
        "reference_lesions": int(total.reference),
        "found": int(total.found),
        "predicted_lesions": int(total.predicted),
        "false_positives": int(total.predicted - total.right),
        **{
            name: _scored(statistic, reason, sums, weights)
            for name, (statistic, reason) in POOLED.items()
        },
    }


def _scored(
    statistic: Callable[[Tally], Any], reason: str, sums: FloatArray, weights: FloatArray
) -> dict[str, Any]:
    def of_weights(w: FloatArray) -> FloatArray:
        return np.asarray(statistic(Tally(*np.moveaxis(w @ sums, -1, 0))))

    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(of_weights(np.ones(len(sums))))
        have_one = ~np.isnan(np.asarray(statistic(Tally(*sums.T))))
        bounds = interval(of_weights, weights, patients=int(have_one.sum()))
    return described(value, reason, bounds)


def described(value: float, reason: str | None, bounds: Interval) -> dict[str, Any]:
    """A value with its reason, if it is undefined, and its interval."""
    return {
        "value": value,
        "reason": reason if np.isnan(value) else None,
        "interval": ends(bounds),
    }


def ends(bounds: Interval) -> dict[str, Any]:
    """An interval without the counts, which stand beside it."""
    keys = ("low", "high", "confidence", "method", "patients", "reason")
    return {key: getattr(bounds, key) for key in keys}
