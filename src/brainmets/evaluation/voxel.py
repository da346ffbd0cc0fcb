"""Voxel by voxel agreement of two masks.

Definitions as in Taha and Hanbury 2015, BMC Med Imaging 15:29.
"""

from dataclasses import dataclass

import numpy as np

from brainmets.evaluation.scores import Score, ratio
from brainmets.volume import Volume, require_same_grid


@dataclass(frozen=True)
class Counts:
    """Voxels by reference and prediction, within one domain."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int


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


def voxel_scores(counts: Counts) -> dict[str, Score]:
    """Dice, IoU, precision, sensitivity and specificity, each with a reason if undefined."""
    tp, fp = counts.true_positive, counts.false_positive
    fn, tn = counts.false_negative, counts.true_negative
    both_empty = "reference and prediction are both empty"
    return {
        "dice": ratio(2 * tp, 2 * tp + fp + fn, both_empty),
        "iou": ratio(tp, tp + fp + fn, both_empty),
        "precision": ratio(tp, tp + fp, "the prediction is empty"),
        "sensitivity": ratio(tp, tp + fn, "the reference is empty"),
        "specificity": ratio(tn, tn + fp, "the reference fills the whole domain"),
    }
