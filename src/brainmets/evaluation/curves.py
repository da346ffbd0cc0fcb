"""ROC AUC and PR AUC of voxel probabilities, exact for the stored values.

Every distinct probability is a threshold; nothing is binned or interpolated. Both areas
are functions of counts: how many voxels inside and outside the reference have each value.

ROC AUC is the probability that a voxel inside has a higher value than one outside, ties counted
half (Hanley and McNeil 1982, Radiology 143:29). PR AUC is average precision: the sum over
thresholds of precision × the gain in recall (scikit-learn's ``average_precision_score``);
trapezes between the points of a precision-recall curve would be too optimistic (Davis and
Goadrich 2006, doi:10.1145/1143844.1143874).
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from brainmets.errors import VolumeError
from brainmets.evaluation.scores import Score, undefined
from brainmets.volume import Array, Volume, require_same_grid

FULL_SCALE = 65535
"""Probability 1 as a uint16."""

EMPTY_REFERENCE = "the reference is empty"

Counts = npt.NDArray[np.int64]


def curve_scores(
    reference: Volume, probability: Volume, *, domain: Volume | None = None
) -> dict[str, Score]:
    """``roc_auc`` and ``pr_auc`` over the voxels of the domain.

    Args:
        reference: > 0 is inside.
        probability: floating point from 0 to 1, or uint16 where 65535 stands for 1.
        domain: mask of the voxels that count; without it all of the grid's. The air around a
            head is easy: with it ROC AUC is nearer to 1 for any model, PR AUC is not.

    Returns:
        Both undefined if all voxels are inside, or all outside.

    Raises:
        GridMismatchError: the images do not lie on the same voxels.
        VolumeError: probabilities outside 0 to 1, NaN, or of another type.
    """
    require_same_grid(reference.grid, probability.grid, "reference and probability")
    _require_probabilities(probability.data)
    truth, values = np.greater(reference.data, 0), probability.data
    if domain is not None:
        require_same_grid(reference.grid, domain.grid, "reference and domain")
        within = np.greater(domain.data, 0)
        truth, values = truth[within], values[within]
    order: Literal["C", "F"] = "F" if values.flags.f_contiguous else "C"  # as stored: no copy
    truth, values = truth.ravel(order), values.ravel(order)
    inside, outside = _histograms(truth, values)
    reason = _one_class(inside, outside)
    if reason is not None:
        reason += " within the domain" if domain is not None and reason == EMPTY_REFERENCE else ""
        return {"roc_auc": undefined(reason), "pr_auc": undefined(reason)}
    return {"roc_auc": _roc_auc(inside, outside), "pr_auc": _pr_auc(inside, outside)}


def _require_probabilities(data: Array) -> None:
    if data.dtype == np.uint16:
        return
    if data.dtype.kind != "f":
        raise VolumeError(
            f"probabilities of type {data.dtype}; expected floating point from 0 to 1, or uint16"
        )
    lowest, highest = float(data.min()), float(data.max())  # NaN if there is one
    if not (lowest >= 0 and highest <= 1):
        raise VolumeError(
            f"probabilities between {lowest:.9g} and {highest:.9g}; expected 0 to 1. "
            "Give the model's probabilities, not logits or percentages"
        )


def _one_class(inside: Counts, outside: Counts) -> str | None:
    if not inside.any():
        return EMPTY_REFERENCE if outside.any() else "the domain is empty"
    return None if outside.any() else "the reference fills the whole domain"


def _histograms(truth: npt.NDArray[np.bool_], values: Array) -> tuple[Counts, Counts]:
    """Voxels inside and outside the reference for each value, largest value first."""
    codes = _codes(values)
    if codes is not None:
        every = np.bincount(codes, minlength=FULL_SCALE + 1)
        inside = np.bincount(codes[truth], minlength=FULL_SCALE + 1)
        return inside[::-1], (every - inside)[::-1]
    return _sorted_histograms(np.sort(values[truth])[::-1], np.sort(values[~truth])[::-1])


def _codes(values: Array) -> npt.NDArray[np.uint16] | None:
    """``values`` as uint16, if that puts every two values apart that are different."""
    if values.dtype == np.uint16:
        return values
    scale = np.asarray(FULL_SCALE, np.promote_types(values.dtype, np.float32))
    codes = np.rint(values * scale).astype(np.uint16)
    value_of = np.zeros(FULL_SCALE + 1, values.dtype)
    value_of[codes] = values
    return codes if np.array_equal(value_of[codes], values) else None


def _sorted_histograms(inside: Array, outside: Array) -> tuple[Counts, Counts]:
    """Histograms from values sorted downwards: at each value inside, and at those between.

    Values outside that lie between two neighbouring values inside are counted together:
    only how many lie above, at and below each value inside matters.
    """
    starts = np.flatnonzero(np.r_[True, inside[1:] != inside[:-1]][: inside.size])
    ascending, distinct = outside[::-1], inside[starts]
    above = outside.size - np.searchsorted(ascending, distinct, side="right")
    upto = outside.size - np.searchsorted(ascending, distinct, side="left")
    inside_counts = np.zeros(2 * starts.size + 1, np.int64)
    inside_counts[1::2] = np.diff(np.r_[starts, inside.size])
    borders = np.r_[0, np.column_stack([above, upto]).ravel(), outside.size]
    return inside_counts, np.diff(borders)


def _roc_auc(inside: Counts, outside: Counts) -> Score:
    """From histograms, largest value first; pairs are counted twice, to stay whole numbers."""
    below = outside.sum() - np.cumsum(outside)
    pairs = int(inside @ (2 * below + outside))
    return Score(pairs / (2 * int(inside.sum()) * int(outside.sum())))


def _pr_auc(inside: Counts, outside: Counts) -> Score:
    used = inside > 0
    right, wrong = np.cumsum(inside)[used], np.cumsum(outside)[used]
    precision = right / (right + wrong)
    return Score(float(inside[used] @ precision / inside.sum()))
