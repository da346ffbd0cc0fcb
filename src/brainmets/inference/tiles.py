"""Where to look: tiles that cover the brain, and how much each voxel of one counts."""

from itertools import product
from math import prod

import numpy as np
import numpy.typing as npt

from brainmets.config import Tiling

Box = tuple[slice, slice, slice]
STRIDE = 32
"""Sides of tiles are multiples of the network's stride."""


def plan(
    shape: tuple[int, int, int], box: Box, tiling: Tiling, largest_vox: int = 0
) -> tuple[Box, ...]:
    """The tiles that cover ``box`` with the least arithmetic, evenly spread.

    All tiles have one shape: a cube of the tiling's side, or, as far as ``largest_vox`` allows,
    what needs fewer voxels in all. Neighbours overlap by at least as many voxels as those of the
    cube would. Of equal arithmetic the fewest tiles win.

    Args:
        shape: voxels of the volume the tiles are read from.
        box: what has to be covered, within that shape.
        tiling: side of the smallest tile and smallest overlap of neighbours. Along an axis on
            which the box is smaller, tiles other than the cube may be shorter than the side.
        largest_vox: voxels that a tile may have; 0, or fewer than the cube's: the cube.

    Returns:
        Tiles in C order. A tile lies within the volume where that is large enough; along
        an axis shorter than a tile it sticks out on both sides (its start is then
        negative), and :func:`read_tile` fills up with 0.
    """
    sides = _sides(box, tiling, largest_vox)
    starts = [
        _starts(n, axis, side, _step(side, tiling))
        for n, axis, side in zip(shape, box, sides, strict=True)
    ]
    return tuple(
        (slice(x, x + sides[0]), slice(y, y + sides[1]), slice(z, z + sides[2]))
        for x, y, z in product(*starts)
    )


def _sides(box: Box, tiling: Tiling, largest_vox: int) -> tuple[int, int, int]:
    """The shape of the tiles."""
    cube = tiling.tile_vox

    def options(axis: slice) -> set[int]:
        whole = -(-(axis.stop - axis.start) // STRIDE) * STRIDE
        return {min(whole, cube), *range(cube, max(whole, cube) + 1, STRIDE)}

    def worth(sides: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
        counts = [
            _count(axis.stop - axis.start, side, _step(side, tiling))
            for axis, side in zip(box, sides, strict=True)
        ]
        return prod(counts) * prod(sides), prod(counts), sides

    allowed = [s for s in product(*map(options, box)) if prod(s) <= largest_vox]
    x, y, z = min([*allowed, (cube, cube, cube)], key=worth)
    return x, y, z


def _step(side: int, tiling: Tiling) -> int:
    """From tile to tile: neighbours share as many voxels as those of the tiling's cube."""
    shared = tiling.tile_vox - int(tiling.tile_vox * (1 - tiling.overlap) + 1e-6)
    return max(1, side - shared)


def _count(extent: int, side: int, step: int) -> int:
    """Tiles along an axis."""
    return 1 + max(0, -(-(extent - side) // step))


def _starts(n: int, box: slice, side: int, step: int) -> list[int]:
    beyond = box.stop - box.start - side
    if beyond <= 0:  # one tile, the box in its middle
        start = box.start + beyond // 2
        return [min(max(start, min(0, n - side)), max(0, n - side))]
    gaps = _count(box.stop - box.start, side, step) - 1
    return [box.start + k * beyond // gaps for k in range(gaps + 1)]


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


def gaussian_weights(sides: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """How much a voxel's place in its tile counts: a Gaussian of σ = side / 8 along each axis.

    As in nnU-Net (Isensee 2021, `compute_gaussian`): the network knows less of what lies
    at its tile's border. The smallest weight, in a corner, is e⁻²⁴ for every size: none is 0.
    """
    x, y, z = (
        np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (side / 8)) ** 2) for side in sides
    )
    return np.asarray(x[:, None, None] * y[None, :, None] * z, np.float32)
