"""Whether two masks of one scan hold the same lesions."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from brainmets.volume import Array

CLOSE_SHARE, CLOSE_VOXELS = 0.05, 2
"""How far the volumes of the same lesion may lie apart: the larger of the two."""


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
    shared = np.zeros((count + 1, others + 1), np.int64)
    np.add.at(shared, (first.ravel(), second.ravel()), 1)
    sizes = shared.sum(1)[1:], shared.sum(0)[1:]
    union = sizes[0][:, None] + sizes[1] - shared[1:, 1:]
    pairs = [(int(i), int(j)) for i, j in np.argwhere(shared[1:, 1:] >= 0.5 * union)]
    changes = tuple(int(sizes[1][j] - sizes[0][i]) for i, j in pairs)
    close = all(
        abs(change) <= max(CLOSE_VOXELS, CLOSE_SHARE * sizes[0][i])
        for change, (i, _) in zip(changes, pairs, strict=True)
    )
    return Sameness(
        dice(first > 0, second > 0), (count, others), changes,
        bool(count == others == len(pairs) and close),
    )  # fmt: skip


def dice(one: Array, other: Array) -> float:
    """Dice of two masks; 1 where both are empty."""
    total = np.count_nonzero(one) + np.count_nonzero(other)
    return float(2 * np.count_nonzero(one & other) / total) if total else 1.0
