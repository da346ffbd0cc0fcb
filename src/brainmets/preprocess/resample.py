"""Change the spacing of an image, one axis after the other.

Interpolation along an image's own axes is separable, so each axis needs one small
table: for every output position the source voxels it draws on and their weights. The
weights of a position are multiples of 2⁻²¹ and add up to exactly 1, and they are summed
from both ends towards the middle, so that a mirrored image gives the mirrored result
bit for bit.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from brainmets.concurrency import on_threads
from brainmets.errors import GridMismatchError, VolumeError
from brainmets.volume import GRID_TOLERANCE_VOX, Array, Grid, Volume

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

SLACK_VOX = 1e-3
"""What a field of view may exceed whole voxels by before it gets one more."""

BLOCK_VOXELS = 1 << 18
"""Voxels worked on at a time: 1 MB as float32, which stays in a core's cache."""


def resample(volume: Volume, spacing_mm: float | tuple[float, float, float]) -> Volume:
    """Change the voxel size along the image's own axes; its centre stays where it is.

    Where voxels get smaller the interpolation is linear, with the outermost value kept up
    to the image's edge; where they get larger, each is the average under a triangle as
    wide as two of them, so that nothing finer than the new grid folds back into it.

    Args:
        volume: any real or boolean type; a mask gives the share of each voxel inside it.
        spacing_mm: the new voxel size, one for all axes or one each.

    Returns:
        float32, C-contiguous, of ``ceil(extent / spacing)`` voxels along each axis.

    Raises:
        VolumeError: a spacing that is not a positive number.
    """
    grid = resampled_grid(volume.grid, spacing_mm)
    steps = np.divide(grid.spacing_mm, volume.grid.spacing_mm)
    tables = tuple(
        _table(_averaging_weights(n_in, n_out, float(step)))
        for n_in, n_out, step in zip(volume.grid.shape, grid.shape, steps, strict=True)
    )
    return Volume(_interpolate(volume.data, tables), grid)


def resample_like(volume: Volume, grid: Grid) -> Volume:
    """Linear interpolation onto another grid with the same axes; float32, C-contiguous.

    Each value is taken at the target voxel's centre, also where target voxels are larger.
    Up to half a voxel beyond the source's outermost centres (its edge) the outermost value
    holds; farther out the result is 0.

    Raises:
        GridMismatchError: the axes of the two grids are not parallel in the same order, or
            their frames of reference differ.
    """
    between = _axis_map(volume.grid, grid)
    tables = tuple(
        _table(_linear_weights(n_in, between[axis, axis] * np.arange(n_out) + between[axis, 3]))
        for axis, (n_in, n_out) in enumerate(zip(volume.grid.shape, grid.shape, strict=True))
    )
    return Volume(_interpolate(volume.data, tables), grid)


def resampled_grid(grid: Grid, spacing_mm: float | tuple[float, float, float]) -> Grid:
    """The grid of another spacing over the same field of view, with the same centre.

    Raises:
        VolumeError: a spacing that is not a positive number.
    """
    spacing = np.broadcast_to(np.asarray(spacing_mm, np.float64), 3)
    if not (np.isfinite(spacing).all() and spacing.min() > 0):
        raise VolumeError(f"cannot resample to a spacing of {spacing_mm} mm; expected above 0")
    steps = spacing / np.asarray(grid.spacing_mm)
    steps[np.abs(steps - 1) < 1e-9] = 1  # a spacing read back from an affine is off by an ulp
    counts = np.maximum(np.ceil(np.asarray(grid.shape) / steps - SLACK_VOX), 1).astype(int)
    affine = grid.affine.copy()
    affine[:3, :3] *= steps
    middles = (np.asarray(grid.shape) - 1) / 2 - steps * (counts - 1) / 2
    affine[:3, 3] = grid.affine[:3, :3] @ middles + grid.affine[:3, 3]
    return Grid((int(counts[0]), int(counts[1]), int(counts[2])), affine, grid.frame_of_reference)


def _axis_map(source: Grid, target: Grid) -> Float64:
    """Target index → source index, 4×4; its upper left is diagonal or the grids do not fit."""
    frames = {source.frame_of_reference, target.frame_of_reference} - {None}
    between = np.linalg.inv(source.affine) @ target.affine
    drift = np.abs(between[:3, :3] - np.diag(np.diag(between)[:3])) @ np.asarray(target.shape)
    if len(frames) > 1 or drift.max() > GRID_TOLERANCE_VOX:
        raise GridMismatchError(
            f"cannot resample {source.describe()} onto {target.describe()}: their axes or frames "
            "of reference differ; bring both into the same axis order, or register them first"
        )
    return np.asarray(between, np.float64)


def _averaging_weights(n_in: int, n_out: int, step: float) -> Float64:
    """Weights (n_out, n_in) for voxels ``step`` source voxels apart about the same centre.

    Positions count from the common centre, so that the table is its own mirror image.
    """
    reach = (n_in - 1) / 2
    positions = np.clip((np.arange(n_out) - (n_out - 1) / 2) * step, -reach, reach)
    width = max(step, 1.0)
    distance = np.abs(positions[:, None] - (np.arange(n_in) - reach))
    return _to_unit_sum(np.maximum(0, 1 - distance / width))


def _linear_weights(n_in: int, positions: Float64) -> Float64:
    """Weights (positions, n_in) of linear interpolation; rows of 0 outside the source."""
    inside = (positions >= -0.5 - 1e-6) & (positions <= n_in - 0.5 + 1e-6)
    clamped = np.clip(positions, 0, n_in - 1)
    weights = _to_unit_sum(np.maximum(0, 1 - np.abs(clamped[:, None] - np.arange(n_in))))
    return weights * inside[:, None]


def _to_unit_sum(kernel: Float64) -> Float64:
    """Scale each row to a sum of exactly 1, also in float32.

    Whole numbers are summed, for which order does not matter; what rounding leaves over
    goes to the largest weight, in halves where two are equally large.
    """
    whole = np.rint(kernel * 2.0**30)
    weights = np.rint(whole * (2.0**20 / whole.sum(axis=1, keepdims=True)))
    largest = weights == weights.max(axis=1, keepdims=True)
    rest = 2.0**20 - weights.sum(axis=1, keepdims=True)
    return np.asarray((weights + largest * (rest / largest.sum(axis=1, keepdims=True))) / 2.0**20)


@dataclass(frozen=True)
class _Table:
    """The weights of one axis, as pairs of source voxels from both ends inwards.

    Attributes:
        pairs: (left index, left weight, right index, right weight), each of shape (n_out,).
        is_identity: whether the axis stays as it is.
    """

    pairs: tuple[tuple[npt.NDArray[np.intp], Float32, npt.NDArray[np.intp], Float32], ...]
    is_identity: bool

    @property
    def n_out(self) -> int:
        return len(self.pairs[0][0])


def _table(weights: Float64) -> _Table:
    """Keep only the weights above 0 of a table (n_out, n_in)."""
    n_out, n_in = weights.shape
    rows, used = np.arange(n_out), weights > 0
    first = used.argmax(axis=1)
    last = np.where(used.any(axis=1), n_in - 1 - used[:, ::-1].argmax(axis=1), first)
    pairs = []
    for inwards in range((int((last - first).max()) + 2) // 2):
        left, right = np.minimum(first + inwards, last), np.maximum(last - inwards, first)
        left_weight = np.where(first + inwards <= last - inwards, weights[rows, left], 0)
        right_weight = np.where(first + inwards < last - inwards, weights[rows, right], 0)
        pairs.append((left, _float32(left_weight), right, _float32(right_weight)))
    identity = n_in == n_out and bool((weights == np.eye(n_in)).all())
    return _Table(tuple(pairs), identity)


def _float32(values: npt.ArrayLike) -> Float32:
    return np.asarray(values, np.float32)


def _interpolate(data: Array, tables: tuple[_Table, ...]) -> Float32:
    """Run every axis through its table, the one that shrinks the image most first."""
    source = data
    growth = [table.n_out / n for table, n in zip(tables, source.shape, strict=True)]
    for axis in sorted(range(3), key=growth.__getitem__):
        if not tables[axis].is_identity:
            data = _along(data, axis, tables[axis])
    result = np.ascontiguousarray(data, dtype=np.float32)
    return result.copy() if np.may_share_memory(result, source) else result


def _along(data: Array, axis: int, table: _Table) -> Float32:
    """One axis, block by block: a block is copied to contiguous rows and fits the cache.

    Blocks share nothing, so that any number of threads gives the same bytes.
    """
    others = sorted({0, 1, 2} - {axis}, key=lambda a: -abs(data.strides[a]))
    source = data.transpose(axis, *others)
    result = np.empty((table.n_out, *source.shape[1:]), np.float32)
    thickness = max(1, BLOCK_VOXELS // (source.shape[0] * source.shape[2]))

    def fill(start: int) -> None:
        block = slice(start, start + thickness)
        rows = np.ascontiguousarray(source[:, block], dtype=np.float32)
        result[:, block] = _weighted_sum(rows, table)

    on_threads(fill, range(0, source.shape[1], thickness))
    return result.transpose(np.argsort((axis, *others)).tolist())


def _weighted_sum(rows: Float32, table: _Table) -> Float32:
    """Σ weight × row for each output row; pairs first, so that mirrored sums round alike."""
    total = np.zeros((), np.float32)
    for number, (left, left_weight, right, right_weight) in enumerate(table.pairs):
        pair = rows.take(left, axis=0)
        pair *= left_weight[:, None, None]
        other = rows.take(right, axis=0)
        other *= right_weight[:, None, None]
        pair += other
        total = pair if number == 0 else np.add(total, pair, out=total)
    return total
