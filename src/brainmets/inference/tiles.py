"""Where to look: cubic tiles that cover the brain, and how much each voxel of one counts."""

from itertools import product

import numpy as np
import numpy.typing as npt

from brainmets.config import Tiling

Box = tuple[slice, slice, slice]


def plan(shape: tuple[int, int, int], box: Box, tiling: Tiling) -> tuple[Box, ...]:
    """The fewest tiles that cover ``box`` with at least the wanted overlap, evenly spread.

    Args:
        shape: voxels of the volume the tiles are read from.
        box: what has to be covered, within that shape.
        tiling: side of a tile and smallest overlap of neighbours.

    Returns:
        Tiles in C order. A tile lies within the volume where that is large enough; along
        an axis shorter than a tile it sticks out on both sides (its start is then
        negative), and :func:`read_tile` fills up with 0.
    """
    starts = [_starts(n, side, tiling) for n, side in zip(shape, box, strict=True)]
    return tuple(
        (
            slice(x, x + tiling.tile_vox),
            slice(y, y + tiling.tile_vox),
            slice(z, z + tiling.tile_vox),
        )
        for x, y, z in product(*starts)
    )


def _starts(n: int, side: slice, tiling: Tiling) -> list[int]:
    tile = tiling.tile_vox
    step = max(1, int(tile * (1 - tiling.overlap) + 1e-6))
    beyond = side.stop - side.start - tile
    if beyond <= 0:  # one tile, the box in its middle
        start = side.start + beyond // 2
        return [min(max(start, min(0, n - tile)), max(0, n - tile))]
    gaps = -(-beyond // step)
    return [side.start + k * beyond // gaps for k in range(gaps + 1)]


def clip(tile: Box, box: Box) -> tuple[Box, Box]:
    """The part of ``tile`` that lies in ``box``: in the volume's voxels, and in the tile's."""
    inside = [
        slice(max(t.start, b.start), min(t.stop, b.stop)) for t, b in zip(tile, box, strict=True)
    ]
    x, y, z = (
        slice(part.start - t.start, part.stop - t.start)
        for part, t in zip(inside, tile, strict=True)
    )
    return (inside[0], inside[1], inside[2]), (x, y, z)


def read_tile(data: npt.NDArray[np.float32], tile: Box) -> npt.NDArray[np.float32]:
    """A copy of the voxels under ``tile``, with 0 where it sticks out of the volume."""
    whole = (slice(0, data.shape[0]), slice(0, data.shape[1]), slice(0, data.shape[2]))
    there, here = clip(tile, whole)
    result = np.zeros([side.stop - side.start for side in tile], np.float32)
    result[here] = data[there]
    return result


def gaussian_weights(tile_vox: int) -> npt.NDArray[np.float32]:
    """How much a voxel's place in its tile counts: a Gaussian of σ = tile / 8.

    As in nnU-Net (Isensee 2021, `compute_gaussian`): the network knows less of what lies
    at its tile's border. The smallest weight, in a corner, is e⁻²⁴ for every size: none is 0.
    """
    offset = (np.arange(tile_vox) - (tile_vox - 1) / 2) / (tile_vox / 8)
    line = np.exp(-0.5 * offset**2)
    return np.asarray(line[:, None, None] * line[None, :, None] * line, np.float32)
