"""In which part of the brain a voxel of a simulated scan lies."""

import numpy as np

from brainmets.simulate.anatomy import BRAINSTEM, CEREBELLUM, DEEP_GREY, WHITE, Anatomy
from brainmets.simulate.scanner import Protocol, acquire_truth
from brainmets.volume import Volume

CORTEX = (3, 42, 17, 18, 53, 54)
"""Cerebral cortex; hippocampus and amygdala with it."""
REGIONS = {
    "cortex": CORTEX,
    "white matter": tuple(code for code in WHITE if code not in CEREBELLUM),
    "deep grey": DEEP_GREY,
    "cerebellum or brainstem": (*CEREBELLUM, BRAINSTEM),
}
"""Names and their FreeSurfer codes; a voxel's region is its place's here, counted from 1."""


def regions_of(head: Anatomy, protocol: Protocol) -> Volume:
    """Regions on the scan's grid: uint8, 0 where none of them fills half the voxel.

    Args:
        head: as it was scanned.
        protocol: how it was scanned.
    """
    masks = [
        acquire_truth(np.isin(head.labels, codes).astype(np.float32), protocol)
        for codes in REGIONS.values()
    ]
    layers = [np.uint8(n) * (mask.data > 0) for n, mask in enumerate(masks, start=1)]
    return masks[0].with_data(np.maximum.reduce(layers).astype(np.uint8))
