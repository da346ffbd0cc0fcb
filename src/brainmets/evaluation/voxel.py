"""Voxel by voxel agreement of two masks.

Definitions as in Taha and Hanbury 2015, BMC Med Imaging 15:29; Matthews' correlation as in
Chicco and Jurman 2020, BMC Genomics 21:6; kappa as in Cohen 1960, Educ Psychol Meas 20:37.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from brainmets.evaluation.scores import Score, ratio
from brainmets.volume import Volume, require_same_grid

WHY_SPECIFICITY_IS_HIGH = (
    "Specificity and accuracy are near 1 for any model, an empty mask included: metastases fill "
    "about a thousandth of a head, so almost every voxel is a true negative. Both also depend on "
    "the domain, the more air the higher. Compare Dice, precision and sensitivity instead."
)


EMPTY_DOMAIN = "the domain is empty"


@dataclass(frozen=True)
class Counts:
    """Voxels by reference and prediction, within one domain."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int


def target(mask: Volume, labels: Collection[int] | None = None) -> Volume:
    """The part of a mask that is to be found, as a bool mask.

    Args:
        mask: label image.
        labels: the labels that count (BraTS: 1 and 3, the tumour core without its
            oedema); None: all above 0.
    """
    if labels is None:
        return mask.with_data(np.greater(mask.data, 0))
    inside = np.zeros_like(mask.data, bool)  # in the order of the mask's own axes, unlike np.isin
    for label in labels:
        inside |= np.equal(mask.data, label)
    return mask.with_data(inside)


def count(reference: Volume, prediction: Volume, *, domain: Volume | None = None) -> Counts:
    """Compare two masks (> 0 is inside) on one grid.

    Args:
        reference: what is held to be true.
        prediction: what is tested.
        domain: mask of the voxels that count. Without it all voxels of the grid do, and
            true negatives, so specificity too, depend on how much air the scan shows.

    Raises:
        GridMismatchError: the images do not lie on the same voxels.
    """
    require_same_grid(reference.grid, prediction.grid, "reference and prediction")
    truth, found = np.greater(reference.data, 0), np.greater(prediction.data, 0)
    voxels = truth.size
    if domain is not None:
        require_same_grid(reference.grid, domain.grid, "reference and domain")
        within = np.greater(domain.data, 0)
        truth, found, voxels = truth & within, found & within, int(np.count_nonzero(within))
    both = int(np.count_nonzero(truth & found))
    only_found = int(np.count_nonzero(found)) - both
    only_truth = int(np.count_nonzero(truth)) - both
    return Counts(both, only_found, only_truth, voxels - both - only_found - only_truth)


def voxel_scores(counts: Counts, *, within: str = "") -> dict[str, Score]:
    """Dice, IoU, precision, sensitivity and specificity, each with a reason if undefined.

    Args:
        counts: of one domain.
        within: the domain in the words of reasons, such as "within the domain"; none for a whole
            grid, of which masks are empty that are empty at all.
    """
    tp, fp = counts.true_positive, counts.false_positive
    fn, tn = counts.false_negative, counts.true_negative
    nothing = None if tp + fp + fn + tn else EMPTY_DOMAIN
    both_empty = nothing or _reason("reference and prediction are both empty", within)
    no_prediction = nothing or _reason("the prediction is empty", within)
    no_reference = nothing or _reason("the reference is empty", within)
    full = nothing or "the reference fills the whole domain"
    return {
        "dice": ratio(2 * tp, 2 * tp + fp + fn, both_empty),
        "iou": ratio(tp, tp + fp + fn, both_empty),
        "precision": ratio(tp, tp + fp, no_prediction),
        "sensitivity": ratio(tp, tp + fn, no_reference),
        "specificity": ratio(tn, tn + fp, full),
    }


def agreement_scores(counts: Counts, *, within: str = "") -> dict[str, Score]:
    """Accuracy, Matthews' correlation (MCC) and Cohen's kappa.

    All three use the true negatives and so depend on the domain. MCC is undefined when
    a mask is empty or full, since it then correlates with nothing; kappa only when both
    masks are empty or both are full, since chance then agrees as often as they do.

    Args:
        counts: of one domain.
        within: as for :func:`voxel_scores`.
    """
    nothing = None if sum(vars(counts).values()) else EMPTY_DOMAIN
    empty = _reason("empty", within)
    tp, fp = counts.true_positive, counts.false_positive
    fn, tn = counts.false_negative, counts.true_negative
    rows, columns = (tp + fn) * (tn + fp), (tp + fp) * (tn + fn)  # whole numbers: never overflow
    by_chance = (tp + fn) * (tn + fn) + (tp + fp) * (tn + fp)
    return {
        "accuracy": ratio(tp + tn, tp + fp + fn + tn, EMPTY_DOMAIN),
        "mcc": ratio(
            tp * tn - fp * fn,
            math.sqrt(rows) * math.sqrt(columns),
            nothing or f"reference or prediction is {empty} or fills the whole domain",
        ),
        "kappa": ratio(
            2 * (tp * tn - fp * fn),
            by_chance,
            nothing or f"reference and prediction are both {empty} or both fill the whole domain",
        ),
    }


def _reason(words: str, within: str) -> str:
    return f"{words} {within}" if within else words


def volume_scores(reference: Volume, prediction: Volume) -> dict[str, Score]:
    """Volumes of two masks (> 0 is inside) and their difference, over the whole grid.

    ``volume_error_mm3`` is predicted - reference, so more than 0 is too large;
    ``relative_volume_error`` the same as a share of the reference, undefined without one;
    ``absolute_volume_error_mm3`` leaves out the sign, so that cases cannot cancel out.
    """
    there, found = _volume_mm3(reference), _volume_mm3(prediction)
    return {
        "reference_mm3": Score(there),
        "predicted_mm3": Score(found),
        "volume_error_mm3": Score(found - there),
        "absolute_volume_error_mm3": Score(abs(found - there)),
        "relative_volume_error": ratio(found - there, there, "the reference is empty"),
    }


def _volume_mm3(mask: Volume) -> float:
    return int(np.count_nonzero(np.greater(mask.data, 0))) * mask.grid.voxel_volume_mm3
