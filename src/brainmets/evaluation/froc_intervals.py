"""Free-response curves with intervals: patients drawn with all their scans and candidates.

Sensitivity at a number of false positives is not smooth in the data, so its intervals
are percentiles; the free-response AUC is a mean over pairs and gets BCa.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from brainmets.evaluation.froc import (
    LUNA_FALSE_POSITIVES,
    Froc,
    ScanCandidates,
    area,
    best_of_each_lesion,
    free_response_auc,
    froc,
    mean_sensitivity,
    operating_point,
)
from brainmets.evaluation.pooled import described
from brainmets.evaluation.scores import Score
from brainmets.evaluation.statistics import (
    Interval,
    OfWeights,
    interval,
    percentile_interval,
)

FloatArray = npt.NDArray[np.float64]
STEPS = 8
"""Points of the drawn curve for each false positive per scan."""

MOST_STEPS = 800
"""Steps of the drawn curve in all, however far it reaches."""

MOST_NUMBERS = 5_000_000
"""Numbers held at once while resampling: 40 MB an array."""


def froc_summary(
    scans: Sequence[ScanCandidates],
    owner: Sequence[int],
    weights: FloatArray,
    false_positives: Sequence[float] = LUNA_FALSE_POSITIVES,
) -> dict[str, Any]:
    """Curve, operating points and areas of several scans, with 95 % intervals by patient.

    Args:
        scans: their candidates; at least one scan.
        owner: the number of each scan's patient.
        weights: of patients, from :func:`brainmets.evaluation.statistics.draw`.
        false_positives: per scan, the operating points; the largest is also where curve
            and area end.

    Returns:
        ``operating_points``, ``mean_sensitivity`` over them, ``area_to_N`` and
        ``free_response_auc``, each with value, reason and interval; ``curve`` for plots.
    """
    curve, limit = froc(scans), max(false_positives)
    steps = min(max(STEPS, round(STEPS * min(limit, MOST_STEPS))), MOST_STEPS)
    levels = np.linspace(0, limit, steps + 1)
    at = np.r_[levels, false_positives]
    drawn = resampled(scans, owner, weights, at)
    patients = len({o for o, scan in zip(owner, scans, strict=True) if scan.lesions})
    on_curve, on_points = np.split(drawn, [levels.size], axis=1)
    band = [percentile_interval(column, patients) for column in on_curve.T]
    middles = (on_curve[:, 1:] + on_curve[:, :-1]) / 2
    return {
        "scans": curve.scans,
        "lesions": curve.lesions,
        "operating_points": [
            _point(curve, allowed, percentile_interval(column, patients))
            for allowed, column in zip(false_positives, on_points.T, strict=True)
        ],
        "mean_sensitivity": _plain(
            mean_sensitivity(curve, false_positives),
            percentile_interval(on_points.mean(axis=1), patients),
        ),
        f"area_to_{limit:g}": _plain(
            area(curve, limit), percentile_interval(middles.mean(axis=1), patients)
        ),
        "free_response_auc": _plain(
            free_response_auc(scans),
            interval(
                free_response_auc_of(scans, owner, weights.shape[1]), weights, patients=patients
            ),
        ),
        "curve": {
            "false_positives_per_scan": levels.tolist(),
            "sensitivity": [operating_point(curve, x).sensitivity.value for x in levels],
            "low": [b.low for b in band],
            "high": [b.high for b in band],
        },
    }


def resampled(
    scans: Sequence[ScanCandidates], owner: Sequence[int], weights: FloatArray, at: FloatArray
) -> FloatArray:
    """Sensitivity at numbers of false positives per scan, for each draw of patients.

    Args:
        scans: their candidates.
        owner: the number of each scan's patient.
        weights: shape (resamples, patients).
        at: false positives per scan, shape (n,).

    Returns:
        Shape (resamples, n); NaN where no scan or no lesion was drawn.
    """
    patients = weights.shape[1]
    right = [sorted(best_of_each_lesion(scan)) for scan in scans]
    wrong = [sorted(c.score for c in scan.candidates if not c.hits) for scan in scans]
    thresholds = np.unique([score for group in (*right, *wrong) for score in group])[::-1]
    counts = np.zeros((2, patients, thresholds.size + 1))  # the first threshold is infinite
    sizes = np.zeros((2, patients))
    for number, scan, hits, noise in zip(owner, scans, right, wrong, strict=True):
        for side, group in enumerate((hits, noise)):
            reached = len(group) - np.searchsorted(group, thresholds, side="left")
            counts[side, number, 1:] += reached
        sizes[:, number] += scan.lesions, 1
    batch = max(1, MOST_NUMBERS // (thresholds.size + 1))
    parts = [
        _sensitivities(weights[start : start + batch], counts, sizes, at)
        for start in range(0, len(weights), batch)
    ]
    return np.concatenate(parts)


def _sensitivities(
    weights: FloatArray, counts: FloatArray, sizes: FloatArray, at: FloatArray
) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        hits, noise = (
            (weights @ counts[side]) / (weights @ sizes[side])[:, None] for side in (0, 1)
        )
    rows = [np.searchsorted(row, at, side="right") - 1 for row in noise]
    return np.take_along_axis(hits, np.maximum(rows, 0), axis=1)


def free_response_auc_of(
    scans: Sequence[ScanCandidates], owner: Sequence[int], patients: int
) -> OfWeights:
    """The free-response AUC, a mean over pairs of a lesion and a scan, as a function of weights."""
    wins, numbers = np.zeros((2, patients, patients))
    noise = np.array(
        [max((c.score for c in s.candidates if not c.hits), default=-np.inf) for s in scans]
    )
    owners = np.asarray(owner, np.intp)
    for number, scan in zip(owner, scans, strict=True):
        hit = best_of_each_lesion(scan)
        values = np.array(hit + [-np.inf] * (scan.lesions - len(hit)))[:, None]
        won = (values > noise).sum(axis=0) + 0.5 * (values == noise).sum(axis=0)
        np.add.at(wins[number], owners, won)
        np.add.at(numbers[number], owners, float(scan.lesions))

    def of_weights(w: FloatArray) -> FloatArray:
        top, all_pairs = (np.einsum("...i,...i->...", w @ m, w) for m in (wins, numbers))
        return np.asarray(top / all_pairs)

    return of_weights


def _point(curve: Froc, allowed: float, bounds: Interval) -> dict[str, Any]:
    point = operating_point(curve, allowed)
    return {
        "allowed": allowed,
        "threshold": point.threshold if np.isfinite(point.threshold) else None,
        "false_positives_per_scan": point.false_positives,
        "sensitivity": _plain(point.sensitivity, bounds),
    }


def _plain(score: Score, bounds: Interval) -> dict[str, Any]:
    return described(score.value, score.reason, bounds)
