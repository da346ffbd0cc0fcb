"""Metastases painted into a head: where, how large, of what kind, with truth.

Sizes follow the real masks that brain metastasis cohorts show: many lesions below 5 mm,
few of centimetres. The truth is the tumour core: enhancing rim and what it encloses.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from brainmets.simulate.anatomy import (
    CEREBELLUM,
    FIRST_EXTRACEREBRAL,
    GREY,
    WHITE,
    Anatomy,
    Field,
    Mask,
    Structure,
)
from brainmets.simulate.contrast import FLUID
from brainmets.simulate.noise import smooth_noise

KINDS = {
    "solid": 0.36, "ring": 0.24, "cystic": 0.12, "mixed": 0.09, "garland": 0.08,
    "haemorrhagic": 0.04, "weak": 0.07,
}  # fmt: skip
HOLLOW = ("ring", "cystic", "mixed", "garland")
PATCHY, PATCHY_SHARE = "patchy", 0.6
"""A large tumour that is neither a rim nor dark inside: parts of it take up contrast agent, some
hardly; and its share of large metastases where they are asked for. None is drawn otherwise."""
LARGEST_VOX = 70
ROUGHNESS_MM = (0.2, 1.1)
"""Of a lesion's surface, at the nodes of noise about 2 mm apart; less below 6 mm."""
SINUSES = (
    Structure.SAGITTAL_SINUS,
    Structure.TRANSVERSE_SINUS,
    Structure.SIGMOID_SINUS,
    Structure.STRAIGHT_SINUS,
    Structure.CAVERNOUS_SINUS,
)


@dataclass(frozen=True)
class Plan:
    """One metastasis to be painted.

    Attributes:
        centre_vox: position in the head's array.
        diameter_mm: sphere of equal volume.
        kind: one of :data:`KINDS`, or :data:`PATCHY`.
        level: signal of the enhancing part, relative to white matter.
    """

    centre_vox: tuple[int, int, int]
    diameter_mm: float
    kind: str
    level: float


def plan_metastases(
    head: Anatomy,
    count: int,
    rng: np.random.Generator,
    *,
    large: bool = False,
    patchy: float = 0.0,
) -> tuple[Plan, ...]:
    """Draw ``count`` metastases: at the grey–white border above all, some in the cerebellum.

    Fewer are returned where there is no room for all.

    Args:
        head: where they are to lie.
        count: how many.
        rng: source of chance.
        large: the first is a large one, of 4 to 60 mL.
        patchy: how likely the large one is patchy.
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
        plan = draw((x, y, z), rng, large=large and not plans)
        if large and not plans and patchy and rng.random() < patchy:
            plan = replace(plan, kind=PATCHY)
        if len(plans) < count and all(_apart(plan, other) for other in plans):
            plans.append(plan)
    return tuple(plans)


def draw(centre: tuple[int, int, int], rng: np.random.Generator, *, large: bool = False) -> Plan:
    """A metastasis of a size and kind as real ones have; a large one has 4 to 60 mL."""
    usual = float(np.clip(rng.normal(1.95, 0.95), 0.5, 4.75))
    volume_mm3 = 10 ** (float(rng.uniform(3.6, 4.8)) if large else usual)
    diameter = (6 * volume_mm3 / np.pi) ** (1 / 3)
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    if diameter < 7 and kind in HOLLOW:
        kind = "solid"
    if diameter > 18 and kind in ("solid", "weak"):  # large tumours outgrow their blood supply
        kind = str(rng.choice(HOLLOW))
    level = rng.uniform(1.12, 1.35) if kind == "weak" else rng.uniform(1.3, 2.5)
    return Plan(centre, float(diameter), kind, float(level))


def _apart(one: Plan, other: Plan) -> bool:
    distance = np.linalg.norm(np.subtract(one.centre_vox, other.centre_vox))
    return bool(distance > 0.6 * (one.diameter_mm + other.diameter_mm) + 3)


def paint(
    image: Field,
    head: Anatomy,
    plans: tuple[Plan, ...],
    rng: np.random.Generator,
    *,
    mass_effect: bool = True,
) -> Field:
    """Paint the metastases into ``image``, in place.

    Args:
        image: signal, white matter = 1.
        head: labels of the head, before any metastasis.
        plans: the metastases.
        rng: source of chance.
        mass_effect: whether those above 9 mm push tissue aside rather than only replace it.

    Returns:
        Occupancy in [0, 1] of the tumour cores, same shape; the truth is ≥ 0.5.
    """
    occupancy = np.zeros_like(image)
    for plan in sorted(plans, key=lambda p: -p.diameter_mm):
        box = box_of(plan, image.shape)
        allowed = _allowed(head, box, plan.diameter_mm)
        distance, rim_noise = shape_of(plan, box, rng)
        if plan.diameter_mm > 9:
            image[box] = push_aside(image[box], head, box, plan, mass_effect * rng.uniform(0, 0.7))
        _oedema(image[box], head, box, distance, plan, rng)
        inside = np.clip(0.5 - distance, 0, 1) * allowed
        signal = signal_of(image[box], distance, rim_noise, plan, rng)
        image[box] += inside * (signal - image[box])
        occupancy[box] = np.maximum(occupancy[box], inside)
    return occupancy


def box_of(plan: Plan, shape: tuple[int, ...]) -> tuple[slice, slice, slice]:
    """What a metastasis can change of an array of this shape, its surroundings included."""
    reach = int(min(LARGEST_VOX, 0.9 * plan.diameter_mm + 22))
    x, y, z = (
        slice(max(0, c - reach), min(n, c + reach + 1))
        for c, n in zip(plan.centre_vox, shape, strict=True)
    )
    return x, y, z


def _allowed(head: Anatomy, box: tuple[slice, ...], diameter_mm: float) -> Mask:
    """Tumours stay inside the dura and out of sinuses; they may fill sulci.

    Those above 12 mm grow around vessels and take in plexus and falx.
    """
    labels, structures = head.labels[box], head.structures[box]
    inside = (labels > 0) & (labels < FIRST_EXTRACEREBRAL)
    barred = structures > 0 if diameter_mm <= 12 else np.isin(structures, SINUSES)
    return np.asarray(inside & ~barred)


def shape_of(
    plan: Plan, box: tuple[slice, ...], rng: np.random.Generator
) -> tuple[Field, npt.NDArray[np.float32]]:
    """Signed distance (mm, negative inside) to a lumpy ellipsoid, and noise for its rim.

    Its surface is rough by about a millimetre, as that of outlined metastases is.
    """
    axes = np.ogrid[box]
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    stretch = np.exp(rng.normal(0, 0.18, 3))
    radii = plan.diameter_mm / 2 * stretch / np.prod(stretch) ** (1 / 3)
    offsets = [a - c + rng.uniform(-0.5, 0.5) for a, c in zip(axes, plan.centre_vox, strict=True)]
    squared = sum(
        (sum(turn[k, i] * offsets[i] for i in range(3)) / radii[k]) ** 2 for k in range(3)
    )
    shape = tuple(s.stop - s.start for s in box)
    scale = max(2.5, plan.diameter_mm / rng.uniform(1.5, 4))
    noise = smooth_noise(shape, scale, rng)
    lumps = rng.uniform(0.04, 0.26) * noise if plan.diameter_mm > 4 else 0.05 * noise
    distance = (np.sqrt(squared) - 1 + lumps) * plan.diameter_mm / 2
    (other,) = rng.spawn(1)  # leaves the draws that follow as they are
    rough = other.uniform(*ROUGHNESS_MM) * min(1, plan.diameter_mm / 6)
    distance += rough * smooth_noise(shape, other.uniform(1.3, 2.5), other)
    if plan.kind == PATCHY:  # it reaches into its surroundings
        reach = other.uniform(0.05, 0.25) * plan.diameter_mm / 2
        distance += reach * smooth_noise(shape, plan.diameter_mm / other.uniform(3, 8), other)
    rim_noise = smooth_noise(shape, max(3, plan.diameter_mm / 4), rng)
    return _one_piece(distance.astype(np.float32)), rim_noise


def _one_piece(distance: Field) -> Field:
    """Without what a rough surface sheds: islands go, closed holes are filled; in place."""
    inside = distance < 0
    pieces, count = ndimage.label(inside)
    if count > 1:
        largest = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
        distance[inside & ~largest] = 0.5
        inside = largest
    distance[ndimage.binary_fill_holes(inside) & ~inside] = -0.5
    return distance


def signal_of(
    tissue: Field,
    distance: Field,
    rim_noise: npt.NDArray[np.float32],
    plan: Plan,
    rng: np.random.Generator,
) -> Field:
    """Signal of every voxel of the box as if it lay inside the tumour."""
    texture = 1 + rng.uniform(0.02, 0.12) * smooth_noise(tissue.shape, rng.uniform(2, 6), rng)
    enhancing = (plan.level * texture).astype(np.float32)
    if plan.kind in ("solid", "weak"):
        return enhancing
    if plan.kind == "haemorrhagic":
        return _haemorrhage(enhancing, rim_noise, rng)
    if plan.kind == PATCHY:
        return _patchy(enhancing, distance, rng)
    if plan.kind == "mixed":
        necrosis = np.clip(rim_noise * 3 + rng.uniform(-1.5, 1), 0, 1)
        return np.asarray(
            enhancing * (1 - necrosis) + rng.uniform(0.4, 0.95) * necrosis, np.float32
        )
    return _hollow(enhancing, distance, rim_noise, plan, rng)


def _haemorrhage(
    enhancing: Field, rim_noise: npt.NDArray[np.float32], rng: np.random.Generator
) -> Field:
    """Old blood: bright clots beside dark ones, little of which is contrast agent."""
    clot = np.clip(0.5 + 2 * rim_noise, 0, 1)
    dark = rng.uniform(0.3, 0.9)
    return np.asarray(dark + clot * (enhancing - dark), np.float32)


def _patchy(enhancing: Field, distance: Field, rng: np.random.Generator) -> Field:
    """Enhancing in patches of two sizes, less so towards the edge, with dark holes."""
    shape = distance.shape
    fine, wide = (smooth_noise(shape, rng.uniform(*mm), rng) for mm in ((1.5, 4), (5, 14)))
    pattern = rng.uniform(0.2, 0.7) * fine + rng.uniform(0.3, 0.9) * wide
    share = np.clip(rng.uniform(0.3, 0.9) + rng.uniform(0.4, 1.2) * pattern, 0, 1)
    inner = np.clip(-distance / rng.uniform(2, 8), 0, 1)
    share *= 1 - rng.uniform(0, 0.6) * (1 - inner)
    plain = rng.uniform(0.8, 1.02)
    signal = plain + share * (enhancing - plain)
    holes = np.clip(4 * smooth_noise(shape, rng.uniform(5, 12), rng) - rng.uniform(3, 8), 0, 1)
    return np.asarray(signal + holes * (rng.uniform(0.3, 0.7) - signal), np.float32)


def _hollow(
    enhancing: Field,
    distance: Field,
    rim_noise: npt.NDArray[np.float32],
    plan: Plan,
    rng: np.random.Generator,
) -> Field:
    """A rim around a core: thin and in places weak (cystic), or thick; garlands have septa.

    Where the rim's noise is largest, a cyst's wall thickens to a nodule.
    """
    cystic = plan.kind == "cystic"
    thin = rng.uniform(0.6, 2.0) if cystic else rng.uniform(1.5, 5)
    rim = np.maximum(0.4, thin * (1 + rng.uniform(0.3, 0.9) * rim_noise))
    patchy = smooth_noise(distance.shape, max(3, plan.diameter_mm / 3), rng)
    enhancing = 1 + (enhancing - 1) * np.clip(1 + rng.uniform(0, 0.4) * patchy, 0.1, 1.5)
    if cystic:
        nodule = np.clip(rim_noise - rng.uniform(0.8, 2.0), 0, 1.5)
        rim = rim + nodule * rng.uniform(0.2, 0.5) * plan.diameter_mm
        weak = rng.uniform(0.25, 1.0)  # the wall may enhance far less than the nodule
        enhancing = 1 + (enhancing - 1) * np.where(nodule > 0, 1, weak)
    core = rng.uniform(0.15, 0.55) if cystic else rng.uniform(0.35, 0.95)
    filled = np.clip(0.5 + (distance + rim), 0, 1)
    if plan.kind == "garland":
        septa = smooth_noise(distance.shape, plan.diameter_mm / rng.uniform(2, 5) + 2, rng)
        filled = np.maximum(filled, np.clip(1.5 - np.abs(septa) * rng.uniform(4, 9), 0, 1))
    core_texture = core * (1 + 0.06 * smooth_noise(distance.shape, 8, rng))
    return np.asarray(core_texture + filled * (enhancing - core_texture), np.float32)


def push_aside(
    tissue: Field, head: Anatomy, box: tuple[slice, ...], plan: Plan, share: float
) -> Field:
    """The tissue of the box displaced by a growing tumour, the skull staying where it is.

    Around a ball of volume V that displaces a share s of it, incompressible tissue at radius
    r came from (r³ − s R³)^⅓; towards the dura the shift fades to nothing.

    Args:
        tissue: signal inside the box.
        head: labels of the whole head.
        box: part of the head.
        plan: the tumour.
        share: of the tumour's volume that displaces; the rest replaces.

    Returns:
        Signal of the same shape; inside the tumour it has no meaning.
    """
    radius = plan.diameter_mm / 2
    offsets = [a - c for a, c in zip(np.ogrid[box], plan.centre_vox, strict=True)]
    distance = np.sqrt(sum(o.astype(np.float32) ** 2 for o in offsets))
    source = np.cbrt(np.maximum(distance**3 - share * radius**3, 0))
    labels = head.labels[box]
    inside = (labels > 0) & (labels < FIRST_EXTRACEREBRAL)
    freedom = np.clip(ndimage.distance_transform_edt(inside) / 8, 0, 1)
    scale = (1 + freedom * (source / np.maximum(distance, 0.5) - 1)).astype(np.float32)
    places = [
        c - s.start + o * scale for o, c, s in zip(offsets, plan.centre_vox, box, strict=True)
    ]
    return np.asarray(ndimage.map_coordinates(tissue, places, order=1, mode="nearest"), np.float32)


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
    reach = min(22.0, rng.uniform(0.3, 1.0) * plan.diameter_mm + 3)
    edge = distance - reach * (1 + 0.45 * smooth_noise(image.shape, 12, rng))
    swollen = np.clip(0.5 - edge / 3, 0, 1) * np.isin(head.labels[box], WHITE)
    swollen = ndimage.gaussian_filter(swollen.astype(np.float32), 0.8)
    image *= 1 - swollen * rng.uniform(0.06, 0.3)


def carve_cavity(
    image: Field, head: Anatomy, rng: np.random.Generator, *, wall: float | None = None
) -> None:
    """A fluid-filled cavity that is no metastasis (resection, infarct, cyst), in place.

    Args:
        image: signal, white matter = 1.
        head: labels and structures on the same voxels.
        rng: source of chance.
        wall: signal of a thin wall that takes up contrast, as after an operation; None: none.
    """
    flat = np.flatnonzero(np.isin(head.labels, WHITE))
    x, y, z = (int(i) for i in np.unravel_index(rng.choice(flat), head.labels.shape))
    plan = Plan((x, y, z), float(rng.uniform(5, 30)), "solid", 1.0)
    box = box_of(plan, image.shape)
    distance, noise = shape_of(plan, box, rng)
    fluid = np.isin(head.labels, FLUID)
    level = float(image[fluid].mean()) if fluid.any() else 0.3
    allowed = _allowed(head, box, 0)
    if wall is not None:
        lining = np.clip(1.2 - np.abs(distance) / rng.uniform(0.6, 1.2), 0, 1) * (noise > -0.6)
        image[box] += lining * allowed * (wall - image[box])
    share = np.clip(0.5 - distance - (0.7 if wall else 0), 0, 1) * allowed
    image[box] += share * (level - image[box])
