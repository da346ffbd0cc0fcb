"""Weights as whole numbers, rounded together: what one loses by it the others make up for.

Rounded one by one, the weights of a kernel are off at random, and every value it gives is off by as
much. Values that lie side by side are alike, so that most of it can be taken back: once a weight is
rounded, those not yet rounded move to where the kernel gives what it gave before, on average over
the values it meets (Frantar et al. 2023, GPTQ, arXiv:2210.17323; Hassibi and Stork 1993).
"""

import numpy as np
import numpy.typing as npt

from brainmets.network.openvino_graph import WHOLE_NUMBERS

UNSURE = (0.02, 0.98)
"""Probabilities between which an outline can move."""
MOST_PLACES = 4000
"""Of a tile that are unsure, spread evenly."""
EVERY = 1009
"""Of all other voxels of a tile, one in so many."""
DAMPING = 0.01
"""Of the mean product, added to each square: what was never met is not moved for."""

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
