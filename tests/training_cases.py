"""Small prepared cases and cohorts for the tests of training."""

from pathlib import Path

import numpy as np

from brainmets.cohort import Case
from brainmets.io import nifti
from brainmets.preprocess.brain import Brain
from brainmets.training.store import LEVELS_MM, PreparedCase
from phantoms import Ball, make_grid, make_head

BALLS = (Ball((8, 2, 0), 6, 90), Ball((-9, -4, 3), 4, 90))


def prepared_case(shape=(40, 44, 36), lesions=((20, 20, 18),), *, radius=3, seed=0, name="a"):
    """A case as the store gives it: noise, bright balls, and all voxels inside the brain."""
    rng = np.random.default_rng(seed)
    image = rng.standard_normal(shape).astype(np.float32)
    labels = np.zeros(shape, np.uint8)
    index = np.stack(np.indices(shape), -1)
    for number, centre in enumerate(lesions, start=1):
        labels[((index - centre) ** 2).sum(-1) <= radius**2] = number
    image[labels > 0] += 4
    depth = np.full(shape, -127, np.int8)
    return PreparedCase(
        name,
        f"key-{name}",
        image.astype(np.float16),
        labels,
        depth,
        tuple(lesions),
        ((0.0, 1.0),) * len(LEVELS_MM),
    )


def all_is_brain(volume) -> Brain:
    """In place of the built-in extractor, which rightly sees no brain in a head of 5 cm."""
    mask = volume.with_data(np.ones(volume.data.shape, bool))
    return Brain(mask, mask, "builtin", "", None, ())


def write_case(folder: Path, name: str, *, balls=BALLS, seed=0, row=None) -> Case:
    """A phantom head of 40³ mm on disk, with reference and brain mask."""
    grid = make_grid((40, 40, 40), 1.0)
    head = make_head(grid, balls, brain_radius_mm=(17, 18, 16), seed=seed)
    paths = [folder / f"{name}-{kind}.nii.gz" for kind in ("t1c", "seg", "brain")]
    mask = head.lesions.with_data((head.lesions.data > 0).astype(np.uint8))
    for volume, path in zip((head.scan, mask, head.brain), paths, strict=True):
        nifti.write(volume, path)
    return Case(name, *paths, row or {})
