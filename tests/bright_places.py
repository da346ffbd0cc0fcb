"""Prepared scans with bright balls in noise."""

import numpy as np

from brainmets.preprocess.prepare import Prepared, bounding_box
from brainmets.volume import Grid, Volume

SHAPE = (60, 56, 52)


def scan_of(image, brain=None, spacing=1.0):
    """A prepared scan; the brain is all but two voxels along each side."""
    if brain is None:
        brain = np.zeros(image.shape, bool)
        brain[2:-2, 2:-2, 2:-2] = True
    grid = Grid(image.shape, np.diag([spacing, spacing, spacing, 1.0]))
    seen = np.where(brain, image, 0).astype(np.float32)
    return Prepared(Volume(seen, grid), Volume(brain, grid), bounding_box(brain), grid)


def ball(centre, diameter_mm, spacing=1.0, shape=SHAPE):
    away = sum((axis - c) ** 2 for axis, c in zip(np.ogrid[tuple(map(slice, shape))], centre,
                                                  strict=True))  # fmt: skip
    return np.sqrt(away) * spacing <= diameter_mm / 2


def noise(seed=0, shape=SHAPE):
    return 0.1 * np.random.default_rng(seed).standard_normal(shape)
