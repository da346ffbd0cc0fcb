"""Whether two masks of one scan hold the same lesions."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from brainmets.evaluation.lesionwise import overlaps
from brainmets.evaluation.matching import iou
from brainmets.lesions import CLOSE_SHARE, CLOSE_VOXELS
from brainmets.volume import Array

SAME_IOU = 0.5
"""What two lesions share at least to be one."""


@dataclass(frozen=True)
class Sameness:
    """What differs between two masks.

    Attributes:
        dice: of all lesion voxels; 1 where neither mask has any.
        lesions: how many each mask has.
        changes: in voxels, of the lesions that are matched one to one at an IoU of 0.5 or more.
        is_same: every lesion is matched, and its volume changes by at most 5 % or 2 voxels.
    """

    dice: float
    lesions: tuple[int, int]
    changes: tuple[int, ...]
    is_same: bool


def compare(one: Array, other: Array) -> Sameness:
    """Compare the 26-connected lesions of two masks on one grid.

    Args:
        one: > 0 in lesions.
        other: the same shape.
    """
    (first, count), (second, others) = (
        ndimage.label(mask > 0, np.ones((3, 3, 3))) for mask in (one, other)
    )
    pairs = [pair for pair in overlaps(first, second) if iou(pair) >= SAME_IOU]
    changes = tuple(pair.prediction_vox - pair.reference_vox for pair in pairs)
    close = all(
        abs(change) <= max(CLOSE_VOXELS, CLOSE_SHARE * pair.reference_vox)
        for change, pair in zip(changes, pairs, strict=True)
    )
    return Sameness(
        dice(first > 0, second > 0), (count, others), changes,
        count == others == len(pairs) and close,
    )  # fmt: skip


def dice(one: Array, other: Array) -> float:
    """Dice of two masks; 1 where both are empty."""
    total = np.count_nonzero(one) + np.count_nonzero(other)
    return float(2 * np.count_nonzero(one & other) / total) if total else 1.0
