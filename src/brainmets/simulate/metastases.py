"""Metastases painted into a head: where, how large, of what kind, with truth.

Sizes follow the real masks that brain metastasis cohorts show: many lesions below 5 mm,
few of centimetres. The truth is the tumour core: enhancing rim and what it encloses.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from brainmets.simulate.anatomy import CEREBELLUM, FIRST_EXTRACEREBRAL, Anatomy, Field, Mask
from brainmets.simulate.contrast import FLUID, GREY, WHITE, smooth_noise

KINDS = {"solid": 0.42, "ring": 0.26, "cystic": 0.1, "mixed": 0.14, "weak": 0.08}
LARGEST_VOX = 70


@dataclass(frozen=True)
class Plan:
    """One metastasis to be painted.

    Attributes:
        centre_vox: position in the head's array.
        diameter_mm: sphere of equal volume.
        kind: one of ``solid``, ``ring``, ``cystic``, ``mixed``, ``weak``.
        level: signal of the enhancing part, relative to white matter.
    """

    centre_vox: tuple[int, int, int]
    diameter_mm: float
    kind: str
    level: float


def plan_metastases(head: Anatomy, count: int, rng: np.random.Generator) -> tuple[Plan, ...]:
    """Draw ``count`` metastases: at the grey–white border above all, some in the cerebellum.

    Fewer are returned where there is no room for all.
    """
    grey, white = np.isin(head.labels, GREY), np.isin(head.labels, WHITE)
    border = grey & ndimage.binary_dilation(white) | white & ndimage.binary_dilation(grey)
    weight = 0.25 * (grey | white | np.isin(head.labels, (10, 11, 12, 16, 49, 50, 51))) + border
    weight[np.isin(head.labels, CEREBELLUM)] *= 1.3
    weight[head.structures > 0] = 0
    flat = np.cumsum(weight, dtype=np.float64)
    plans: list[Plan] = []
    for _ in range(4 * count):
        index = np.searchsorted(flat, rng.uniform(0, flat[-1]))
        x, y, z = (int(i) for i in np.unravel_index(index, weight.shape))
        plan = _draw((x, y, z), rng)
        if len(plans) < count and all(_apart(plan, other) for other in plans):
            plans.append(plan)
    return tuple(plans)


def _draw(centre: tuple[int, int, int], rng: np.random.Generator) -> Plan:
    volume_mm3 = 10 ** float(np.clip(rng.normal(1.95, 0.95), 0.5, 4.75))
    diameter = (6 * volume_mm3 / np.pi) ** (1 / 3)
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    if diameter < 7 and kind in ("ring", "cystic", "mixed"):
        kind = "solid"
    level = rng.uniform(1.12, 1.35) if kind == "weak" else rng.uniform(1.35, 2.5)
    return Plan(centre, float(diameter), kind, float(level))


def _apart(one: Plan, other: Plan) -> bool:
    distance = np.linalg.norm(np.subtract(one.centre_vox, other.centre_vox))
    return bool(distance > 0.6 * (one.diameter_mm + other.diameter_mm) + 3)


def paint(image: Field, head: Anatomy, plans: tuple[Plan, ...], rng: np.random.Generator) -> Field:
    """Paint the metastases into ``image``, in place.

    Returns:
        Occupancy in [0, 1] of the tumour cores, same shape; the truth is ≥ 0.5.
    """
    occupancy = np.zeros_like(image)
    for plan in sorted(plans, key=lambda p: -p.diameter_mm):
        box = _box(plan, image.shape)
        allowed = _allowed(head, box)
        distance, rim_noise = _shape(plan, box, rng)
        _oedema(image[box], head, box, distance, plan, rng)
        inside = np.clip(0.5 - distance, 0, 1) * allowed
        signal = _signal(image[box], distance, rim_noise, plan, rng)
        image[box] += inside * (signal - image[box])
        occupancy[box] = np.maximum(occupancy[box], inside)
    return occupancy


def _box(plan: Plan, shape: tuple[int, ...]) -> tuple[slice, slice, slice]:
    reach = int(min(LARGEST_VOX, 0.9 * plan.diameter_mm + 22))
    x, y, z = (
        slice(max(0, c - reach), min(n, c + reach + 1))
        for c, n in zip(plan.centre_vox, shape, strict=True)
    )
    return x, y, z


def _allowed(head: Anatomy, box: tuple[slice, ...]) -> Mask:
    """Tumours stay inside the dura and out of sinuses; they may fill sulci."""
    labels = head.labels[box]
    inside = (labels > 0) & (labels < FIRST_EXTRACEREBRAL)
    return np.asarray(inside & (head.structures[box] == 0))


def _shape(
    plan: Plan, box: tuple[slice, ...], rng: np.random.Generator
) -> tuple[Field, npt.NDArray[np.float32]]:
    """Signed distance (mm, negative inside) to a lumpy ellipsoid, and noise for its rim."""
    axes = np.ogrid[box]
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    stretch = np.exp(rng.normal(0, 0.16, 3))
    radii = plan.diameter_mm / 2 * stretch / np.prod(stretch) ** (1 / 3)
    offsets = [a - c + rng.uniform(-0.5, 0.5) for a, c in zip(axes, plan.centre_vox, strict=True)]
    squared = sum(
        (sum(turn[k, i] * offsets[i] for i in range(3)) / radii[k]) ** 2 for k in range(3)
    )
    shape = tuple(s.stop - s.start for s in box)
    scale = max(2.5, plan.diameter_mm / rng.uniform(1.5, 4))
    noise = smooth_noise(shape, scale, rng)
    lumps = rng.uniform(0.02, 0.22) * noise if plan.diameter_mm > 4 else 0.05 * noise
    distance = (np.sqrt(squared) - 1 + lumps) * plan.diameter_mm / 2
    return distance.astype(np.float32), smooth_noise(shape, max(3, plan.diameter_mm / 4), rng)


def _signal(
    tissue: Field,
    distance: Field,
    rim_noise: npt.NDArray[np.float32],
    plan: Plan,
    rng: np.random.Generator,
) -> Field:
    texture = 1 + rng.uniform(0.02, 0.12) * smooth_noise(tissue.shape, rng.uniform(2, 6), rng)
    enhancing = plan.level * texture
    if plan.kind in ("solid", "weak"):
        return np.asarray(enhancing, np.float32)
    if plan.kind == "mixed":
        necrosis = np.clip(rim_noise * 3 + rng.uniform(-1.5, 1), 0, 1)
        return np.asarray(
            enhancing * (1 - necrosis) + rng.uniform(0.4, 0.95) * necrosis, np.float32
        )
    thin = rng.uniform(0.8, 2.2) if plan.kind == "cystic" else rng.uniform(1.5, 5)
    rim = np.maximum(0.6, thin * (1 + 0.5 * rim_noise))
    core = rng.uniform(0.2, 0.55) if plan.kind == "cystic" else rng.uniform(0.35, 0.95)
    filled = np.clip(0.5 + (distance + rim), 0, 1)
    core_texture = core * (1 + 0.06 * smooth_noise(tissue.shape, 8, rng))
    return np.asarray(core_texture + filled * (enhancing - core_texture), np.float32)


def _oedema(
    image: Field,
    head: Anatomy,
    box: tuple[slice, ...],
    distance: Field,
    plan: Plan,
    rng: np.random.Generator,
) -> None:
    """Darken white matter around the tumour in finger-like reach, in place."""
    if plan.diameter_mm < 5 or rng.random() < 0.35:
        return
    reach = min(18.0, rng.uniform(0.3, 1.0) * plan.diameter_mm + 3)
    edge = distance - reach * (1 + 0.45 * smooth_noise(image.shape, 12, rng))
    swollen = np.clip(0.5 - edge / 3, 0, 1) * np.isin(head.labels[box], WHITE)
    swollen = ndimage.gaussian_filter(swollen.astype(np.float32), 0.8)
    image *= 1 - swollen * rng.uniform(0.06, 0.3)


def carve_cavity(image: Field, head: Anatomy, rng: np.random.Generator) -> None:
    """A fluid-filled cavity that is no metastasis (resection, infarct, cyst), in place."""
    flat = np.flatnonzero(np.isin(head.labels, WHITE))
    x, y, z = (int(i) for i in np.unravel_index(rng.choice(flat), head.labels.shape))
    plan = Plan((x, y, z), float(rng.uniform(5, 30)), "solid", 1.0)
    box = _box(plan, image.shape)
    distance, _ = _shape(plan, box, rng)
    fluid = np.isin(head.labels, FLUID)
    level = float(image[fluid].mean()) if fluid.any() else 0.3
    share = np.clip(0.5 - distance, 0, 1) * _allowed(head, box)
    image[box] += share * (level - image[box])
