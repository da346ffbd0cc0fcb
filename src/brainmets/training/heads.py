"""Head label maps as the extractor learns from them: tissues, and the distance to the brain.

The brain's surface is that of *brain + CSF*, all that lies inside the dura.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import (
    binary_dilation,
    binary_erosion,
    binary_fill_holes,
    distance_transform_edt,
    find_objects,
    label,
)
from torch import Tensor
from torch.nn import functional

from brainmets.errors import ReadError
from brainmets.io.nifti import read_labels
from brainmets.volume import to_nearest_ras

FURTHEST_MM = 15.0
"""Distances to a surface are clamped to this."""
FIRST_EXTRACEREBRAL = 500
"""Labels from here on lie outside brain and CSF in SynthSeg's label maps."""
HINDBRAIN = (7, 8, 16, 46, 47)
"""Cerebellum and brain stem, which end where the spinal canal begins."""
GAP_MM = 1.0
"""Gaps in the label maps' brain up to twice as wide are closed."""

TISSUES: dict[str, tuple[int, ...]] = {
    "air": (0,),
    "white": (2, 41),
    "grey": (3, 42, 17, 53, 18, 54, 26, 58),
    "deep grey": (10, 49, 11, 50, 12, 51, 13, 52, 28, 60),
    "csf": (24, 4, 5, 14, 15, 43, 44),
    "cerebellar grey": (8, 47),
    "cerebellar white": (7, 46),
    "stem": (16,),
    "other brain": (),
    "soft": (507,),
    "skin": (511,),
    "bone": (515,),
    "spots": (516,),
    "sinus": (509,),
    "vessel": (502, 514),
    "eye": (506, 508, 530),
    "other": (),
}
"""Classes that share a contrast; labels not named fall to "other brain" or "other"."""
NAMES = tuple(TISSUES)

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Head:
    """One subject, ready to be painted.

    Attributes:
        tissue: uint8 index into :data:`NAMES`, 1 mm voxels, shape (X, Y, Z).
        distance: signed distance (mm) to brain + CSF, on every second voxel of a box, shape
            (1, x, y, z).
        outward: the way out of brain + CSF, unit vectors on the same voxels, shape
            (3, x, y, z); 0 where the distance is clamped or has no slope.
        box_start: the box's first voxel in ``tissue``.
        centre: centre of the brain in voxels of ``tissue``.
    """

    tissue: Tensor
    distance: Tensor
    outward: Tensor
    box_start: tuple[int, int, int]
    centre: tuple[float, float, float]


def read_heads(paths: list[Path]) -> list[Head]:
    """Read label maps (1 mm, FreeSurfer labels, extracerebral tissue from 500 on).

    Raises:
        ReadError: a map without brain or not of 1 mm.
    """
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(_read_head, paths))


def _read_head(path: Path) -> Head:
    volume = to_nearest_ras(read_labels(path))
    labels = np.ascontiguousarray(volume.data, np.int16)
    if not (labels > 0).any() or not np.allclose(volume.grid.spacing_mm, 1, atol=0.01):
        raise ReadError(f"{path.name}: expected a whole-head label map of 1 mm with a brain in it")
    brain = brain_of(labels)
    where = np.argwhere(brain)
    margin = round(FURTHEST_MM) + 3
    low = np.maximum(where.min(0) - margin, 0)
    high = np.minimum(where.max(0) + margin + 1, brain.shape)
    high -= (high - low) % 2
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    fine = torch.from_numpy(signed_distance(brain[box]))
    coarse = functional.avg_pool3d(fine[None, None], 2)[0]
    slopes = torch.stack(torch.gradient(coarse[0].clamp(-FURTHEST_MM, FURTHEST_MM)))
    start, centre = low.tolist(), where.mean(0).tolist()
    return Head(
        torch.from_numpy(_tissue_table()[np.clip(labels, 0, 999)]),
        coarse,
        functional.normalize(slopes, dim=0),
        (start[0], start[1], start[2]),
        (centre[0], centre[1], centre[2]),
    )


def brain_of(labels: npt.NDArray[np.int16]) -> Mask:
    """Brain + CSF of a label map (1 mm, nearest-RAS order), as one solid object.

    Stray voxels go, gaps up to 2 mm wide are closed, and the spinal canal ends 5 mm below
    the lowest voxel of brain stem and cerebellum.
    """
    brain = (labels > 0) & (labels < FIRST_EXTRACEREBRAL)
    lowest = np.flatnonzero(np.isin(labels, HINDBRAIN).any(axis=(0, 1)))
    if len(lowest):
        brain[:, :, : max(int(lowest[0]) - 5, 0)] = False
    return one_object(brain, GAP_MM)


def one_object(mask: Mask, gap_mm: float) -> Mask:
    """The largest piece, without stray voxels, closed by a ball of ``gap_mm`` (1 mm voxels)."""
    core, _ = label(binary_erosion(mask))
    box = find_objects((core == np.bincount(core[core > 0]).argmax()).astype(np.int8))[0]
    wide = tuple(slice(max(s.start - 5, 0), s.stop + 5) for s in box)
    solid = np.zeros_like(mask)
    solid[wide] = _closed(mask[wide], core[wide], gap_mm)
    return solid


def _closed(mask: Mask, core: npt.NDArray[np.integer], gap_mm: float) -> Mask:
    largest = core == np.bincount(core[core > 0]).argmax()
    edge = math.ceil(gap_mm) + 1
    padded = np.pad(mask & binary_dilation(largest, iterations=3), edge)
    grown = distance_transform_edt(~padded) <= gap_mm
    closed = binary_fill_holes(distance_transform_edt(grown) > gap_mm)
    return np.asarray((closed | padded)[(slice(edge, -edge),) * 3])


def signed_distance(mask: Mask) -> npt.NDArray[np.float32]:
    """Distance (voxels) from each voxel's centre to the mask's surface, negative inside."""
    outside, inside = distance_transform_edt(~mask), distance_transform_edt(mask)
    return np.where(mask, 0.5 - inside, outside - 0.5).astype(np.float32)


def _tissue_table() -> npt.NDArray[np.uint8]:
    table = np.full(1000, NAMES.index("other brain"), np.uint8)
    table[FIRST_EXTRACEREBRAL:] = NAMES.index("other")
    for index, labels in enumerate(TISSUES.values()):
        table[list(labels)] = index
    return table
