"""A small head as a label map with FreeSurfer codes: ellipsoids, for tests of the simulator."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from brainmets.io import nifti
from brainmets.volume import Volume
from phantoms import make_grid, within

SHAPE = (89, 101, 89)


@lru_cache(maxsize=1)
def label_map(spacing_mm=1.0) -> Volume:
    """Half an adult head: air, skin, skull, CSF, both hemispheres, ventricles, cerebellum, stem.

    Args:
        spacing_mm: of the voxels; anything but 1 is to be refused.
    """
    grid = make_grid(SHAPE, spacing_mm)
    one = make_grid(SHAPE, 1.0)
    x = (np.arange(SHAPE[0]) - (SHAPE[0] - 1) / 2)[:, None, None] * np.ones(SHAPE)
    right = x > 0
    labels = np.zeros(SHAPE, np.int16)

    def fill(centre, radii, left_code, right_code=None, mask=True):
        where = within(one, centre, radii) & mask
        labels[where] = np.where(right[where], right_code or left_code, left_code)

    fill((0, 0, 0), (42, 48, 42), 511)
    fill((0, 0, 2), (39, 45, 39), 515)
    fill((0, 0, 4), (35, 41, 35), 24)
    above = np.indices(SHAPE)[2] > 34
    apart = np.abs(x) > 2
    fill((0, 2, 5), (32, 38, 32), 3, 42, above & apart)
    fill((0, 2, 5), (28, 34, 28), 2, 41, above & apart)
    for side in (-1, 1):
        fill((9 * side, 0, 8), (4, 13, 5), 4, 43)
        fill((9 * side, 2, 1), (5, 7, 4), 10, 49)
    fill((0, -18, -21), (20, 14, 9), 8, 47)
    fill((0, -18, -21), (17, 11, 6), 7, 46)
    fill((0, 4, -20), (6, 6, 12), 16)
    labels.flags.writeable = False
    return Volume(labels, grid)


def write_label_map(path: Path, **options) -> Path:
    """:func:`label_map` on disk."""
    nifti.write(label_map(**options), path)
    return path
