"""Grey values on one scale, whatever the scanner: Z-scores within the brain."""

import numpy as np

from brainmets.errors import VolumeError
from brainmets.volume import Volume, require_same_grid

CONSTANT = 1e-6
"""A spread below this share of the largest grey value is rounding, not anatomy."""


def normalise(volume: Volume, brain: Volume, clip_z: float) -> Volume:
    """(value - mean) / standard deviation within the brain; 0 outside it.

    Args:
        volume: any real type; left as it is.
        brain: mask on the same grid, > 0 inside.
        clip_z: scores are limited to ± this value; 0 leaves them.

    Returns:
        float32 on the same grid.

    Raises:
        GridMismatchError: image and mask lie on different grids.
        VolumeError: no voxel in the mask, or the same value in all of them.
    """
    require_same_grid(volume.grid, brain.grid, "scan and brain mask")
    inside = np.asarray(brain.data > 0)
    values = volume.data[inside].astype(np.float64)
    if not values.size:
        raise VolumeError("the brain mask is empty; check the scan, or give a mask")
    first, largest = values[0], max(values.max(), -values.min())
    values -= values.mean()
    spread = float(np.sqrt(np.square(values).mean()))
    if not spread > CONSTANT * largest:
        raise VolumeError(
            f"all {values.size} brain voxels have the value {first:.4g}; expected an image"
        )
    values /= spread
    if clip_z > 0:
        np.clip(values, -clip_z, clip_z, out=values)
    scores = np.zeros(volume.grid.shape, np.float32)
    scores[inside] = values
    return volume.with_data(scores)
