"""Weights in few bits, rounded together: what one loses by it the others make up for.

Rounded one by one, the weights of a kernel are off at random, and every value it gives is off by as
much. Values that lie side by side are alike, so that most of it can be taken back.

For whole numbers of 8 bits it is known which values a kernel meets: once a weight is rounded, those
not yet rounded move to where the kernel gives what it gave before, on average over these (Frantar
et al. 2023, GPTQ, arXiv:2210.17323; Hassibi and Stork 1993). For bfloat16 nothing is asked of the
values but that they are alike: what is lost is carried on to the next weight of the same 3³.
"""

import numpy as np
import numpy.typing as npt

WHOLE_NUMBERS = 127
"""Up to which the weights go in 8 bits."""
UNSURE = (0.02, 0.98)
"""Probabilities between which an outline can move."""
MOST_PLACES = 4000
"""Of a tile that are unsure, spread evenly."""
EVERY = 1009
"""Of all other voxels of a tile, one in so many."""
DAMPING = 0.01
"""Of the mean product, added to each square: what was never met is not moved for."""

KEPT_BITS = 16
"""Of a float32's, those that bfloat16 has: sign, exponent and 7 bits of mantissa."""

Array = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Places = tuple[npt.NDArray[np.intp], ...]


def places(probability: Array) -> Places:
    """Where it counts what a kernel gives: where outlines can move, and here and there elsewhere.

    Args:
        probability: (X, Y, Z).

    Returns:
        Three index arrays.
    """
    flat = probability.ravel()
    unsure = np.flatnonzero((flat > UNSURE[0]) & (flat < UNSURE[1]))
    step = -(-len(unsure) // MOST_PLACES) or 1
    chosen = np.union1d(unsure[::step], np.arange(0, flat.size, EVERY))
    return np.unravel_index(chosen, probability.shape)


def kernels_met(values: Array, where: Places) -> Float64:
    """The 3³ values of every channel around places; beyond the border lies 0.

    Args:
        values: (channels, X, Y, Z).
        where: N places.

    Returns:
        (N, channels · 27), in the order of a kernel's weights.
    """
    x, y, z = where
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1), (1, 1)))
    shifts = np.ndindex(3, 3, 3)
    met = np.stack([padded[:, x + i, y + j, z + k] for i, j, k in shifts], -1)
    return np.asarray(met.transpose(1, 0, 2).reshape(len(x), -1), np.float64)


def rounded(rows: Float64, moments: Float64) -> Float64:
    """Whole numbers from -127 to 127 that give nearly what ``rows`` give.

    Args:
        rows: (outputs, N), within ±127.
        moments: (N, N) sum of products of the values that the weights are multiplied with.
    """
    scale = float(np.trace(moments)) / len(moments) or 1.0
    products = moments + DAMPING * scale * np.eye(len(moments))
    order = np.argsort(-np.diag(products), kind="stable")  # what counts most is rounded first
    inverse = np.linalg.inv(products[np.ix_(order, order)])
    upper = np.linalg.cholesky(inverse).T
    left = rows[:, order].astype(np.float64)
    whole = np.empty_like(left)
    for n in range(left.shape[1]):
        whole[:, n] = np.clip(np.rint(left[:, n]), -WHOLE_NUMBERS, WHOLE_NUMBERS)
        off = (left[:, n] - whole[:, n]) / upper[n, n]
        left[:, n + 1 :] -= np.outer(off, upper[n, n + 1 :])
    found = np.empty_like(whole)
    found[:, order] = whole
    return found


def to_bfloat16(kernel: Float64) -> Float64:
    """A kernel whose weights are numbers of bfloat16, and sum up to what they did.

    From the largest to the smallest of each 3³, the error so far is added before a weight is
    rounded to the nearest: what is left of the sum is the last and smallest weight's error.

    Args:
        kernel: (outputs, inputs, …).
    """
    flat = kernel.reshape(*kernel.shape[:2], -1)
    order = np.argsort(-np.abs(flat), axis=-1, kind="stable")
    falling = np.take_along_axis(flat, order, -1)
    whole = np.empty_like(falling)
    lost = np.zeros(kernel.shape[:2])
    for n in range(falling.shape[-1]):
        wanted = falling[..., n] + lost
        whole[..., n] = _nearest_bfloat16(wanted)
        lost = wanted - whole[..., n]
    found = np.empty_like(whole)
    np.put_along_axis(found, order, whole, -1)
    return found.reshape(kernel.shape)


def _nearest_bfloat16(values: Float64) -> Float64:
    """Of two that are as near the even one; float32 in between changes next to nothing."""
    bits = values.astype(np.float32).view(np.uint32)
    half = np.uint32((1 << (KEPT_BITS - 1)) - 1) + ((bits >> np.uint32(KEPT_BITS)) & np.uint32(1))
    kept = (bits + half) & np.uint32(~((1 << KEPT_BITS) - 1) & 0xFFFFFFFF)
    return kept.view(np.float32).astype(np.float64)
