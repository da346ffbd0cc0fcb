"""Simulated metastases pasted into a part of a scan that has no label map, as augmentation.

Shapes, kinds and sizes are those of :mod:`brainmets.simulate.metastases`. Tissue is not pushed
aside, for where it may go is not known. Cf. lesion pasting in Zhang et al. 2021 (CarveMix,
MICCAI), which carves its lesions out of other patients.
"""

from dataclasses import replace

import numpy as np
from scipy import ndimage

from brainmets.simulate.anatomy import Field, Mask
from brainmets.simulate.metastases import Plan, box_of, draw, shape_of, signal_of
from brainmets.simulate.noise import smooth_noise

FLUID_PERCENTILE, WHITE_PERCENTILE = 2, 80
"""Of the brain's grey values in T1 after contrast; between them the scale of signals is set."""
FLUID = 0.3
"""Signal of fluid, relative to white matter."""
WHITE_LIKE, TISSUE_LIKE = (0.85, 1.2), (0.6, 1.25)
"""Signals; below lies fluid, above what takes up contrast."""
FEWEST_VOX = 1000
"""Fewer voxels of brain tell nothing of the scale."""
APART_VOX = 3
"""Pasted lesions keep so far from those that are there."""
TRIES = 8


def paste(
    image: Field,
    brain: Mask,
    taken: Mask,
    count: int,
    rng: np.random.Generator,
    *,
    spacing_mm: float,
) -> tuple[Field, Mask]:
    """Paint metastases where the brain has room for them.

    Args:
        image: grey values on any linear scale, shape (X, Y, Z); left as it is.
        brain: where they may lie, same shape.
        taken: lesions that are there, same shape.
        count: how many.
        rng: source of chance.
        spacing_mm: side of a voxel.

    Returns:
        The image with them, and the voxels of their cores, at least half full.
    """
    cores = np.zeros(image.shape, bool)
    scale = _scale(image, brain)
    if scale is None:
        return image, cores
    white, unit = scale
    signal = 1 + (image.astype(np.float32) - white) / unit
    for _ in range(count):
        room = brain & ~_near(taken | cores)
        plan = _place(room & _tissue(signal), rng, spacing_mm)
        if plan is not None:
            cores |= _paint(signal, room, plan, rng)
    return np.asarray(white + (signal - 1) * unit, np.float32), cores


def _scale(image: Field, brain: Mask) -> tuple[float, float] | None:
    """White matter's grey value, and how many grey values a signal of 1 is."""
    values = image[brain]
    if values.size < FEWEST_VOX:
        return None
    fluid, white = np.percentile(values.astype(np.float32), (FLUID_PERCENTILE, WHITE_PERCENTILE))
    unit = float(white - fluid) / (1 - FLUID)
    return (float(white), unit) if unit > 0 else None


def _near(lesions: Mask) -> Mask:
    if not lesions.any():
        return lesions
    return np.asarray(ndimage.binary_dilation(lesions, iterations=APART_VOX))


def _tissue(signal: Field) -> Mask:
    smooth = ndimage.gaussian_filter(signal, 1.0)
    return np.asarray((smooth > TISSUE_LIKE[0]) & (smooth < TISSUE_LIKE[1]))


def _place(room: Mask, rng: np.random.Generator, spacing_mm: float) -> Plan | None:
    """A metastasis most of which has room, its diameter in voxels; None where none fits."""
    flat = np.flatnonzero(room)
    if not flat.size:
        return None
    for _ in range(TRIES):
        x, y, z = (int(i) for i in np.unravel_index(rng.choice(flat), room.shape))
        plan = draw((x, y, z), rng)
        plan = replace(plan, diameter_mm=plan.diameter_mm / spacing_mm)
        half = max(1, round(0.4 * plan.diameter_mm))
        around = tuple(slice(max(0, c - half), c + half + 1) for c in plan.centre_vox)
        if room[around].mean() > 0.8:
            return plan
    return None


def _paint(signal: Field, room: Mask, plan: Plan, rng: np.random.Generator) -> Mask:
    """Paint one into ``signal``, in place; the scan's own noise stays on it."""
    box = box_of(plan, signal.shape)
    part = signal[box]
    distance, rim_noise = shape_of(plan, box, rng)
    if plan.diameter_mm > 5 and rng.random() < 0.65:
        _darken(part, room[box], distance, plan, rng)
    grain = part - ndimage.gaussian_filter(part, 0.8)
    least, most = np.percentile(grain, (5, 95))
    inside = np.clip(0.5 - distance, 0, 1) * room[box]
    lesion = signal_of(part, distance, rim_noise, plan, rng) + np.clip(grain, least, most)
    part += inside * (lesion - part)
    cores = np.zeros(signal.shape, bool)
    cores[box] = inside >= 0.5
    return cores


def _darken(part: Field, room: Mask, distance: Field, plan: Plan, rng: np.random.Generator) -> None:
    """Oedema: what is as bright as white matter darkens around it, in place."""
    reach = min(22.0, rng.uniform(0.3, 1.0) * plan.diameter_mm + 3)
    edge = distance - reach * (1 + 0.45 * smooth_noise(part.shape, 12, rng))
    white = (part > WHITE_LIKE[0]) & (part < WHITE_LIKE[1])
    swollen = ndimage.gaussian_filter((np.clip(0.5 - edge / 3, 0, 1) * white).astype(np.float32), 1)
    part *= 1 - room * swollen * rng.uniform(0.06, 0.3)
