"""What training minimises."""

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

HARDEST_SHARE = 0.01
"""Of a patch's voxels, those whose cross-entropy counts: a lesion of 20 mm has so many in 96³."""
SLIGHT = 0.01
"""Voxels of smoothing within a lesion's region: one would let small lesions off a quarter."""

MISSED, FOCUS = 0.7, 0.75
"""Of the focal Tversky loss: weight of misses, and 1 / γ."""


def dice_and_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Soft Dice loss over the batch plus weighted binary cross-entropy.

    Dice after Milletari et al. 2016 (arXiv:1606.04797) with a smoothing of one voxel in
    numerator and denominator, so that an empty target gives a finite gradient.

    Args:
        logits: (N, 1, X, Y, Z), float32.
        target: 0 or 1, same shape.
        weight: of each voxel in both terms, same shape.
    """
    return soft_dice(logits, target, weight) + cross_entropy(logits, target, weight)


def soft_dice(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Soft Dice loss over the batch; see :func:`dice_and_cross_entropy`."""
    probability = logits.sigmoid()
    overlap = (weight * probability * target).sum()
    total = (weight * (probability + target)).sum()
    return 1 - (2 * overlap + 1) / (total + 1)


def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over voxels of weight times entropy."""
    return functional.binary_cross_entropy_with_logits(logits, target, weight)


def dice_and_hardest(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Soft Dice loss over the batch plus the cross-entropy of each patch's hardest voxels.

    Dice has no slope where a lesion is missed with certainty, and a mean over all voxels next to
    none: 40 voxels of 96³. The mean over the hardest hundredth has (Wu et al. 2016,
    arXiv:1605.06885; nnU-Net's top-k loss takes a tenth).

    Args:
        logits: (N, 1, X, Y, Z), float32.
        target: 0 or 1, same shape.
        weight: of each voxel in both terms, same shape.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, target, weight, reduction="none")
    each = entropy.flatten(1)
    hardest = each.topk(max(1, round(HARDEST_SHARE * each.shape[1])), sorted=False).values
    return soft_dice(logits, target, weight) + hardest.mean()


def focal_tversky(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Focal Tversky loss over the batch: misses count more than false alarms.

    (1 − T)^¾ with T = (TP + 1) / (TP + 0.7 FN + 0.3 FP + 1), after Abraham and Khan 2019
    (arXiv:1810.07842), whose α is 0.7 and γ 4/3.

    Args:
        logits: (N, 1, X, Y, Z), float32.
        target: 0 or 1, same shape.
        weight: of each voxel, same shape.
    """
    probability = logits.sigmoid()
    found = (weight * probability * target).sum()
    missed = (weight * (1 - probability) * target).sum()
    false = (weight * probability * (1 - target)).sum()
    index = (found + 1) / (found + MISSED * missed + (1 - MISSED) * false + 1)
    return (1 - index).clamp_min(1e-6) ** FOCUS  # the root has no slope at 0


def blob_dice(logits: Tensor, target: Tensor, weight: Tensor, regions: Tensor) -> Tensor:
    """Soft Dice loss of each lesion with the patch's other lesions left out, averaged over lesions.

    Blob loss (Kofler et al. 2023, arXiv:2205.08209) with Dice: for each lesion its own voxels and
    the background count. A false alarm counts once for every lesion of the patch.

    Args:
        logits: (N, 1, X, Y, Z), float32.
        target: 0 or 1, same shape.
        weight: of each voxel, same shape.
        regions: number of the lesion that a voxel belongs to, same shape; 0 or anything elsewhere.

    Returns:
        A scalar; 0 where no patch holds a lesion.
    """
    probability = logits.sigmoid()
    most = int(regions.max()) + 1
    patch = torch.arange(len(regions), device=regions.device).view(-1, 1, 1, 1, 1)
    labels = torch.where(target > 0, regions.long(), 0)
    place = (labels + patch * most).flatten()
    overlap, total = (
        logits.new_zeros(len(regions) * most).index_add(0, place, values.flatten()).view(-1, most)
        for values in (weight * probability * target, weight * (probability + target))
    )
    there = (torch.bincount(place, minlength=len(regions) * most) > 0).view(-1, most)
    there[:, 0] = False
    dice = (2 * overlap + SLIGHT) / (total + total[:, :1] + SLIGHT)
    return (1 - dice)[there].mean() if there.any() else logits.sum() * 0


def component_dice(logits: Tensor, target: Tensor, weight: Tensor, regions: Tensor) -> Tensor:
    """Soft Dice loss within the region of each lesion, averaged over the lesions.

    After Jaus et al. 2024 (arXiv:2410.18684), who score so, and arXiv:2511.17146, which trains
    with it: a missed lesion of 10 voxels costs as much as a missed one of 10,000.

    Args:
        logits: (N, 1, X, Y, Z), float32.
        target: 0 or 1, same shape.
        weight: of each voxel, same shape.
        regions: from :func:`surroundings`, same shape; 0 belongs to no lesion. A region whose
            lesion the mask hides does not count.

    Returns:
        A scalar; 0 where no patch holds a lesion.
    """
    probability = logits.sigmoid()
    most = int(regions.max()) + 1
    patch = torch.arange(len(regions), device=regions.device).view(-1, 1, 1, 1, 1)
    place = (regions.long() + patch * most).flatten()
    overlap, total = (
        logits.new_zeros(len(regions) * most).index_add(0, place, values.flatten())
        for values in (weight * probability * target, weight * (probability + target))
    )
    there = torch.bincount(place[target.flatten() > 0], minlength=len(regions) * most) > 0
    there = there.view(-1, most)
    there[:, 0] = False
    dice = (2 * overlap + SLIGHT) / (total + SLIGHT)
    return (1 - dice)[there.flatten()].mean() if there.any() else logits.sum() * 0


def surroundings(target: npt.NDArray[np.bool_]) -> npt.NDArray[np.int16]:
    """For each voxel the lesion that is nearest: 1, 2, …; all 0 where there is none.

    Distances are taken between cubes of two voxels, which is three times faster: half-way between
    two lesions a voxel may be given to one that is up to 3.5 voxels further. A lesion's own
    voxels are its own.

    Args:
        target: (X, Y, Z); lesions are its 26-connected components.
    """
    if not target.any():
        return np.zeros(target.shape, np.int16)
    labels, _ = ndimage.label(target, np.ones((3, 3, 3)))
    even = np.pad(np.asarray(labels, np.int16), [(0, n % 2) for n in target.shape])
    x, y, z = (n // 2 for n in even.shape)
    cubes = even.reshape(x, 2, y, 2, z, 2).max((1, 3, 5))
    nearest = ndimage.distance_transform_edt(
        cubes == 0, return_distances=False, return_indices=True
    )
    around = cubes[tuple(nearest)].repeat(2, 0).repeat(2, 1).repeat(2, 2)
    x, y, z = target.shape
    return np.asarray(np.where(labels > 0, labels, around[:x, :y, :z]), np.int16)
