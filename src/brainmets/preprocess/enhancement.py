"""Whether contrast agent seems to have been given, told from the image alone.

After contrast, deep veins, choroid plexus, the straight sinus and arteries at the base are much
brighter than white matter. Without it nothing thin inside the brain is, save for fat,
fresh blood and inflow. Only what lies deep counts: fat of scalp and marrow, and dura that a brain
mask takes in, are bright without contrast too.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from brainmets.preprocess.prepare import bounding_box
from brainmets.volume import Volume, nearest_ras_order, require_same_grid, spacing_of

DEPTH_MM = 10.0
"""Only voxels at least this far inside the brain mask are looked at."""
WHITE_DEPTH_MM = 15.0
"""White matter is judged from voxels this deep, most of which it makes up."""
THIN_MM = 13.5
"""What a box of this side does not fit into is thin: vessels and plexus."""
BRIGHTEST_SHARE = 0.001
"""Share of the deep voxels that must be thin and bright."""
SEEN = 0.7
"""Least enhancement where contrast was given. Chosen on simulated pairs of heads with and without;
``benchmarks/contrast_absent.py`` gives its errors on others."""
GRID_MM = 1.5
"""Voxels so fine that several fit into this are averaged: noise is bright and thin too."""
ROUNDING = 1e-6

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def enhancement(scan: Volume, brain: Volume) -> float:
    """How much brighter than white matter the brightest thin things deep in the brain are.

    Per mille 999 of, at each voxel at least 10 mm inside the mask, the smaller of its white
    top-hat (box of about 13.5 mm) and its excess over white matter, both in units of white matter
    minus fluid. So scaling the image or adding a constant to it changes nothing.

    Args:
        scan: grey values.
        brain: mask of brain and CSF on the same grid, > 0 inside.

    Returns:
        About 0.1 to 0.7 without contrast, mostly 0.7 to 3 with it; NaN where the brain has no voxel
        deep enough or no contrast between white matter and fluid.

    Raises:
        GridMismatchError: the two do not lie on the same voxels.
    """
    require_same_grid(scan.grid, brain.grid, "scan and brain mask")
    order = nearest_ras_order(scan.grid)
    values, mask = order.forward(scan.data), order.forward(np.greater(brain.data, 0))
    spacing_mm = np.asarray(spacing_of(scan.grid.affine))[list(order.axes)]
    if not mask.any():
        return math.nan
    box = bounding_box(mask)
    times = np.maximum(1, np.floor(GRID_MM / spacing_mm + ROUNDING)).astype(int)
    image, inside = _averaged(values[box], times), _averaged(mask[box], times) > 0.5
    return _enhancement(image, inside, spacing_mm * times)


def _enhancement(image: Floats, inside: Mask, spacing_mm: npt.NDArray[np.float64]) -> float:
    depth = _depth(inside, spacing_mm)
    white_ones = image[depth > WHITE_DEPTH_MM]
    if not white_ones.size:
        return math.nan
    fluid, white = float(np.percentile(image[inside], 2)), float(np.percentile(white_ones, 65))
    if white <= fluid:
        return math.nan
    sides = np.maximum(1, 2 * np.rint((THIN_MM / spacing_mm - 1) / 2).astype(int) + 1)
    deep = bounding_box(depth > DEPTH_MM)
    part = tuple(
        slice(max(0, edge.start - side), edge.stop + side)
        for edge, side in zip(deep, sides.tolist(), strict=True)
    )
    filled = np.where(inside[part], image[part], np.float32(fluid))
    thin = filled - ndimage.grey_opening(filled, size=sides.tolist())
    both = np.minimum(thin, filled - white)[depth[part] > DEPTH_MM]
    return float(np.quantile(both, 1 - BRIGHTEST_SHARE)) / (white - fluid)


def _depth(inside: Mask, spacing_mm: npt.NDArray[np.float64]) -> Floats:
    """Distance in mm to the outside, to about 1 mm: blocks of two voxels share one."""
    twice = np.where(spacing_mm < DEPTH_MM / 5, 2, 1)
    shape = inside.shape
    even = np.pad(inside, [(0, n % t) for n, t in zip(shape, twice, strict=True)])
    coarse = np.pad(_averaged(even, twice) > 0.5, 1)
    away = ndimage.distance_transform_edt(coarse, sampling=spacing_mm * twice)
    depth: Floats = np.asarray(away, np.float32)[1:-1, 1:-1, 1:-1]
    for axis, times in enumerate(twice.tolist()):
        depth = np.repeat(depth, times, axis=axis)
    return depth[tuple(slice(n) for n in shape)]


def _averaged(data: npt.NDArray[np.generic], times: npt.NDArray[np.int_]) -> Floats:
    """Means of blocks of ``times`` voxels; what is left over at the far ends is dropped."""
    steps = times.tolist()
    counts = [n // t for n, t in zip(data.shape, steps, strict=True)]
    total = np.zeros(counts, np.float32)
    for first in np.ndindex(*steps):
        ends = [slice(f, f + n * t, t) for f, n, t in zip(first, counts, steps, strict=True)]
        total += data[tuple(ends)].astype(np.float32)
    return total / np.float32(times.prod())
