"""From the scanner's grid to the network's input, and back."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from brainmets.config import Recipe
from brainmets.errors import VolumeError
from brainmets.preprocess.normalise import normalise
from brainmets.preprocess.resample import resample, resample_like
from brainmets.volume import (
    Grid,
    Volume,
    apply,
    nearest_ras_order,
    reorient,
    require_same_grid,
    to_nearest_ras,
)

Mask = npt.NDArray[np.bool_]
Box = tuple[slice, slice, slice]

FEWEST_BRAIN_VOXELS = 1000
"""Fewer than this is no brain at any spacing a recipe allows (125 mL at 5 mm)."""


@dataclass(frozen=True)
class Prepared:
    """A scan as the network sees it, and what is needed to come back.

    Attributes:
        volume: float32 Z-scores, 0 outside the brain, nearest-RAS order, recipe spacing.
        brain: bool, on the same grid; the mask already grown by the recipe's margin.
        box: bounding box of the brain, in voxels of that grid.
        source: the scanner's grid.
    """

    volume: Volume
    brain: Volume
    box: Box
    source: Grid


def prepare(volume: Volume, brain_mask: Volume, recipe: Recipe, *, grow: bool = True) -> Prepared:
    """Turn a scan to nearest-RAS order, resample, and score within the brain.

    Args:
        volume: the scan.
        brain_mask: > 0 inside the brain, on the scan's grid.
        recipe: spacing, margin and limit of the Z-scores.
        grow: whether the mask gets the recipe's margin; not for scans that come without
            a skull, since there is nothing around the mask to see.

    Raises:
        GridMismatchError: scan and mask lie on different grids.
        VolumeError: an empty or tiny brain mask, or the same grey value throughout it.
    """
    require_same_grid(volume.grid, brain_mask.grid, "scan and brain mask")
    inside = brain_mask.with_data(np.asarray(brain_mask.data > 0))
    brain = resample(to_nearest_ras(inside), recipe.spacing_mm)
    brain = brain.with_data(brain.data >= 0.5)
    _require_brain(brain)
    if grow:
        brain = grown(brain, recipe.brain_margin_mm)
    image = resample(to_nearest_ras(volume), recipe.spacing_mm)
    scores = normalise(image, brain, recipe.clip_z)
    return Prepared(scores, brain, bounding_box(brain.data), volume.grid)


def restore(probability: Volume, prepared: Prepared) -> Volume:
    """Bring probabilities back onto the scanner's voxels, exactly.

    Values are taken at the voxels' centres by linear interpolation, also where the scan's
    slices are thick: an average over a slice of 5 mm would push a lesion of 3 mm below any
    threshold, while the slice that shows it best keeps its value here.

    Args:
        probability: on the grid of ``prepared.volume``; 0 outside ``prepared.box``, and
            taken for 0 there.
        prepared: what :func:`prepare` returned for the scan.

    Returns:
        float32 on ``prepared.source``; 0 outside the brain's box.

    Raises:
        GridMismatchError: the probabilities lie on another grid.
    """
    require_same_grid(probability.grid, prepared.volume.grid, "probabilities and prepared scan")
    order = nearest_ras_order(prepared.source)
    result = np.zeros(prepared.source.shape, np.float32)
    target = reorient(Volume(result, prepared.source), order)
    source = _crop(probability, _widened(prepared.box, probability.grid.shape))
    box = _reach(source.grid, target.grid)
    order.forward(result)[box] = resample_like(source, _crop(target, box).grid).data
    return Volume(result, prepared.source)


def bounding_box(mask: npt.NDArray[np.generic]) -> Box:
    """The smallest box that holds every voxel of ``mask`` other than 0.

    >>> bounding_box(np.eye(3)[:, :2, None] > 0)
    (slice(0, 2, None), slice(0, 2, None), slice(0, 1, None))

    Raises:
        VolumeError: there is none.
    """
    box = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if not used.size:
            raise VolumeError("the mask is empty; check the scan, or give a mask")
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    return box[0], box[1], box[2]


def grown(mask: Volume, margin_mm: float) -> Volume:
    """The mask and every voxel whose centre lies within ``margin_mm`` of one of its own.

    A ball is a stack of columns: the mask is widened along the last axis once for each
    column height, and the columns are laid side by side. That is exact, and several times
    faster than a distance transform for margins of a few voxels.
    """
    spacing = mask.grid.spacing_mm
    reach = [
        min(int(margin_mm / s + 1e-6), n) for s, n in zip(spacing, mask.grid.shape, strict=True)
    ]
    inside = np.asarray(mask.data, bool)
    if max(reach) == 0 or not inside.any():
        return mask.with_data(inside.copy())
    box = _widened(bounding_box(inside), mask.grid.shape, reach)
    result = np.zeros_like(inside)
    result[box] = _with_ball(inside[box], reach, spacing, margin_mm)
    return mask.with_data(result)


def _with_ball(mask: Mask, reach: list[int], spacing: tuple[float, ...], radius_mm: float) -> Mask:
    heights: dict[int, list[tuple[int, int]]] = {}
    for i, j in product(*(range(-r, r + 1) for r in reach[:2])):
        left = radius_mm**2 - (i * spacing[0]) ** 2 - (j * spacing[1]) ** 2
        if left >= -1e-6:
            height = min(int(np.sqrt(max(left, 0)) / spacing[2] + 1e-6), reach[2])
            heights.setdefault(height, []).append((i, j))
    result = np.zeros_like(mask)
    column, tall = mask.copy(), 0
    for height in sorted(heights):
        while tall < height:
            tall += 1
            column[:, :, tall:] |= mask[:, :, :-tall]
            column[:, :, :-tall] |= mask[:, :, tall:]
        for i, j in heights[height]:
            (to_i, from_i), (to_j, from_j) = _shift(i), _shift(j)
            result[to_i, to_j] |= column[from_i, from_j]
    return result


def _shift(by: int) -> tuple[slice, slice]:
    """Where to, where from: slices that move an array by ``by`` and drop what falls off."""
    if by >= 0:
        return slice(by, None), slice(None, -by or None)
    return slice(None, by), slice(-by, None)


def _require_brain(brain: Volume) -> None:
    count = int(np.count_nonzero(brain.data))
    if count == 0:
        raise VolumeError("the brain mask is empty; check the scan, or give a mask")
    if count < FEWEST_BRAIN_VOXELS:
        volume_ml = count * brain.grid.voxel_volume_mm3 / 1000
        raise VolumeError(
            f"the brain mask holds only {volume_ml:.3g} mL ({count} voxels), expected at least "
            f"{FEWEST_BRAIN_VOXELS} voxels; check the scan, or give a mask"
        )


def _widened(box: Box, shape: tuple[int, ...], by: list[int] | None = None) -> Box:
    """The box with ``by`` more voxels (1 where not given) on each side, within the shape."""
    x, y, z = (
        slice(max(0, side.start - more), min(n, side.stop + more))
        for side, n, more in zip(box, shape, by or [1, 1, 1], strict=True)
    )
    return x, y, z


def _crop(volume: Volume, box: Box) -> Volume:
    affine = volume.grid.affine.copy()
    affine[:3, 3] = apply(affine, np.array([box[0].start, box[1].start, box[2].start]))
    data = volume.data[box]
    shape = (data.shape[0], data.shape[1], data.shape[2])
    return Volume(data, Grid(shape, affine, volume.grid.frame_of_reference))


def _reach(source: Grid, target: Grid) -> Box:
    """The target's voxels whose centres lie within the source, one more on each side."""
    between = np.linalg.inv(target.affine) @ source.affine
    ends = apply(between, np.array([[-0.5] * 3, np.asarray(source.shape) - 0.5]))
    starts = np.clip(np.floor(ends.min(axis=0)), 0, np.asarray(target.shape) - 1).astype(int)
    stops = np.clip(np.ceil(ends.max(axis=0)) + 1, starts + 1, target.shape).astype(int)
    x, y, z = (slice(int(a), int(b)) for a, b in zip(starts, stops, strict=True))
    return x, y, z
