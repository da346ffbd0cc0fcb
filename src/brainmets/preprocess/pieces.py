"""How large the pieces of a labelled image are."""

import numpy as np
import numpy.typing as npt

SLAB_VOX = 1 << 20
"""Counted at a time: numpy's count makes a copy of 8 bytes a voxel."""


def sizes_of(pieces: npt.NDArray[np.integer], count: int) -> npt.NDArray[np.int64]:
    """Voxels of each label from 0 to ``count``, as ``numpy.bincount`` gives them.

    A large image is counted slab by slab: copied as a whole it takes several times as long.

    Args:
        pieces: labels, of any shape.
        count: the largest that there can be.

    >>> sizes_of(np.array([[0, 2], [2, 3]]), 4)
    array([1, 0, 2, 1, 0])
    """
    sizes = np.zeros(count + 1, np.int64)
    slab = max(1, max(SLAB_VOX, count) * len(pieces) // max(1, pieces.size))
    for first in range(0, len(pieces), slab):
        sizes += np.bincount(pieces[first : first + slab].ravel(), minlength=count + 1)
    return sizes
