"""What training minimises."""

from torch import Tensor
from torch.nn import functional


def dice_and_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Soft Dice loss over the batch plus weighted binary cross-entropy.

    Dice after Milletari et al. 2016 (arXiv:1606.04797) with a smoothing of one voxel in
    numerator and denominator, so that an empty target gives a finite gradient.

    Args:
        logits: (N, 1, X, Y, Z), float32.
        target: 0 or 1, same shape.
        weight: of each voxel in both terms, same shape.
    """
    probability = logits.sigmoid()
    overlap = (weight * probability * target).sum()
    total = (weight * (probability + target)).sum()
    dice = (2 * overlap + 1) / (total + 1)
    entropy = functional.binary_cross_entropy_with_logits(logits, target, weight)
    return 1 - dice + entropy
