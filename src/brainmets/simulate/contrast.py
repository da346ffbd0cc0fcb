"""From tissue classes to a contrast-enhanced T1 image, before any metastasis.

Signal is relative to white matter = 1. The ranges follow the order of tissues in T1
gradient echo (MPRAGE, SPGR: grey matter clearly darker) and T1 spin echo (grey and
white nearly equal), wide enough to cover 1.5 and 3 T.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch.nn import functional

from brainmets.simulate.anatomy import (
    CEREBELLUM,
    FIRST_EXTRACEREBRAL,
    Anatomy,
    Field,
    Labels,
    Mask,
    Structure,
)

Span = tuple[float, float]

GRADIENT_ECHO: dict[str, Span] = {
    "grey": (0.66, 0.85),
    "deep grey": (0.8, 0.95),
    "csf": (0.15, 0.38),
    "stem": (0.9, 1.02),
}
SPIN_ECHO: dict[str, Span] = {
    "grey": (0.84, 1.0),
    "deep grey": (0.88, 1.02),
    "csf": (0.3, 0.58),
    "stem": (0.92, 1.03),
}
EXTRACEREBRAL: dict[int, Span] = {
    0: (0.0, 0.04),
    502: (0.2, 2.0),
    506: (0.2, 0.45),
    507: (0.6, 1.5),
    508: (0.3, 1.2),
    509: (0.02, 0.3),
    511: (0.6, 1.8),
    512: (0.5, 1.2),
    514: (0.6, 2.0),
    515: (0.05, 0.5),
    516: (0.5, 2.2),
    530: (0.6, 2.0),
}
GREY = (3, 42, 8, 47, 17, 18, 53, 54)
WHITE = (2, 41, 7, 46, 28, 60)
DEEP_GREY = (10, 11, 12, 13, 26, 49, 50, 51, 52, 58)
FLUID = (24, 4, 5, 14, 15, 43, 44)


@dataclass(frozen=True)
class Style:
    """What one examination looks like.

    Attributes:
        spin_echo: spin echo rather than gradient echo.
        contrast: contrast agent was given; without it nothing enhances.
    """

    spin_echo: bool
    contrast: bool


def smooth_noise(
    shape: tuple[int, ...], scale_vox: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Gaussian noise of unit variance at the nodes of a coarse grid, interpolated linearly."""
    nodes = tuple(max(2, round(n / scale_vox) + 1) for n in shape)
    coarse = torch.from_numpy(rng.standard_normal(nodes, dtype=np.float32))
    fine = functional.interpolate(coarse[None, None], shape, mode="trilinear", align_corners=True)
    return np.asarray(fine[0, 0].numpy(), np.float32)


def rotation(degrees: Sequence[float]) -> npt.NDArray[np.float64]:
    """3×3 rotation about x, then y, then z (extrinsic), angles in degrees."""
    return np.asarray(Rotation.from_euler("xyz", degrees, degrees=True).as_matrix())


def warp(anatomy: Anatomy, rng: np.random.Generator) -> Anatomy:
    """The head cut below the brain, turned, scaled, mirrored by chance, deformed smoothly.

    Nearest-neighbour sampling of both maps at 1 mm.
    """
    anatomy = _cut_neck(anatomy, float(rng.uniform(6, 55)))
    shape = anatomy.labels.shape
    matrix = _random_affine(rng)
    centre = (np.asarray(shape) - 1) / 2
    offset = centre - matrix @ centre
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    index = []
    for row in range(3):
        position = sum(matrix[row, c] * axes[c].astype(np.float32) for c in range(3)) + offset[row]
        position = position + rng.uniform(1, 3.5) * smooth_noise(shape, 45, rng)
        index.append(np.clip(np.rint(position), -1, shape[row]).astype(np.int32) + 1)
    labels, structures = (np.pad(a, 1)[tuple(index)] for a in (anatomy.labels, anatomy.structures))
    return Anatomy(labels, structures)


def _cut_neck(anatomy: Anatomy, below_mm: float) -> Anatomy:
    """Fields of view end somewhere between the skull base and the chin."""
    lowest = np.nonzero(np.isin(anatomy.labels, CEREBELLUM).any(axis=(0, 1)))[0][0]
    start = max(0, int(lowest - below_mm))
    return Anatomy(anatomy.labels[:, :, start:], anatomy.structures[:, :, start:])


def _random_affine(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    scale = np.diag(rng.uniform(0.93, 1.1, 3) * (rng.choice([-1, 1]), 1, 1))
    return np.asarray(rotation(list(rng.uniform(-12, 12, 3))) @ scale)


def brain_and_csf(labels: Labels) -> Mask:
    """What a brain extractor should keep: everything inside the dura, holes filled."""
    inside = (labels > 0) & (labels < FIRST_EXTRACEREBRAL)
    return np.asarray(ndimage.binary_fill_holes(inside))


def render(head: Anatomy, style: Style, rng: np.random.Generator) -> Field:
    """Signal of every voxel, tissue and all that enhances, partial volume included."""
    image = _tissue(head.labels, style, rng)
    blood = rng.uniform(1.35, 2.6) if style.contrast else rng.uniform(0.3, 1.05)
    _paint_structures(image, head, style, blood, rng)
    image *= 1 + rng.uniform(0.01, 0.035) * smooth_noise(image.shape, 6, rng)
    image = ndimage.gaussian_filter(image, rng.uniform(0.45, 0.75))
    _paint_vessels(image, head.labels, blood, style, rng)
    return image


def _tissue(labels: Labels, style: Style, rng: np.random.Generator) -> Field:
    spans = SPIN_ECHO if style.spin_echo else GRADIENT_ECHO
    means = np.full(1024, rng.uniform(0.6, 1.1), np.float32)
    for codes, span in (
        (WHITE, (0.97, 1.03)),
        (GREY, spans["grey"]),
        (DEEP_GREY, spans["deep grey"]),
        (FLUID, spans["csf"]),
        ((16, 85), spans["stem"]),
    ):
        means[list(codes)] = rng.uniform(*span)
        means[list(codes)] += rng.normal(0, 0.012, len(codes))
    for code, span in EXTRACEREBRAL.items():
        means[code] = rng.uniform(*span)
    return means[labels]


def _paint_structures(
    image: Field, head: Anatomy, style: Style, blood: float, rng: np.random.Generator
) -> None:
    """Each structure enhances in its own measure, or by chance hardly at all."""
    texture = smooth_noise(image.shape, 5, rng)
    flow_void = style.spin_echo and rng.random() < 0.6
    arterial = rng.uniform(0.15, 0.6) if flow_void else blood * rng.uniform(0.8, 1.2)
    meninges = rng.uniform(1.05, 1.9) if style.contrast else rng.uniform(0.4, 1.0)
    levels = {
        Structure.SAGITTAL_SINUS: blood,
        Structure.TRANSVERSE_SINUS: blood,
        Structure.STRAIGHT_SINUS: blood,
        Structure.SIGMOID_SINUS: blood * rng.uniform(0.8, 1.1),
        Structure.CAVERNOUS_SINUS: blood * rng.uniform(0.6, 1.0),
        Structure.SAGITTAL_SINUS_EDGE: _sometimes(blood, meninges, rng),
        Structure.TRANSVERSE_SINUS_EDGE: _sometimes(blood, meninges, rng),
        Structure.FALX: meninges,
        Structure.TENTORIUM: meninges * rng.uniform(0.9, 1.15),
        Structure.CONVEXITY_DURA: meninges * rng.uniform(0.6, 1.0),
        Structure.CHOROID_PLEXUS: blood * rng.uniform(0.6, 1.05),
        Structure.PITUITARY: blood * rng.uniform(0.7, 1.0),
        Structure.BASAL_ARTERY: arterial,
    }
    patchy = {
        Structure.FALX,
        Structure.TENTORIUM,
        Structure.CONVEXITY_DURA,
        Structure.CHOROID_PLEXUS,
    }
    for structure, level in levels.items():
        where = head.structures == structure
        if structure in patchy:
            where &= texture > rng.uniform(-2.5, 0.3)
        image[where] = level * (1 + 0.08 * texture[where])


def _sometimes(bright: float, otherwise: float, rng: np.random.Generator) -> float:
    return bright if rng.random() < 0.5 else otherwise


def _paint_vessels(
    image: Field, labels: Labels, blood: float, style: Style, rng: np.random.Generator
) -> None:
    """Veins and arteries as random walks: most follow sulci and fissures, some cross tissue."""
    fluid = ndimage.gaussian_filter(np.isin(labels, FLUID[:1]).astype(np.float32), 1.0)
    brain = np.isin(labels, WHITE + GREY)
    amount, weighted = np.zeros_like(image), np.zeros_like(image)
    in_sulci = _starts(fluid > 0.6, int(rng.uniform(150, 420)), rng)
    in_tissue = _starts(brain, int(rng.uniform(20, 90)), rng)
    for starts, guide, radii in (
        (in_sulci, fluid, (0.45, 1.5)),
        (in_tissue, None, (0.25, 0.6)),
    ):
        ways = _walk(starts, guide, rng)
        radius = np.exp(rng.uniform(np.log(radii[0]), np.log(radii[1]), len(starts)))
        level = np.full(len(starts), blood) * rng.uniform(0.75, 1.15, len(starts))
        if style.spin_echo:
            level[rng.random(len(starts)) < 0.35] = rng.uniform(0.2, 0.8)
        _splat(amount, ways, np.pi * radius**2 * STEP_VOX)
        _splat(weighted, ways, np.pi * radius**2 * STEP_VOX * level)
    amount, weighted = (ndimage.gaussian_filter(a, 0.65) for a in (amount, weighted))
    vessel = amount > 1e-3
    share = np.minimum(amount[vessel], 1)
    image[vessel] += share * (weighted[vessel] / amount[vessel] - image[vessel])


STEP_VOX = 0.6


def _starts(where: Mask, count: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    flat = np.flatnonzero(where)
    if not len(flat):
        return np.zeros((0, 3))
    return np.stack(np.unravel_index(rng.choice(flat, count), where.shape), 1).astype(float)


def _walk(
    starts: npt.NDArray[np.float64], guide: Field | None, rng: np.random.Generator, steps: int = 90
) -> npt.NDArray[np.float64]:
    """Points of shape (walkers, steps, 3); a walker that leaves its guide stays where it is."""
    heading = _unit(rng.standard_normal(starts.shape))
    ways = [starts]
    for _ in range(steps - 1):
        tries = _unit(heading[None] + 0.45 * rng.standard_normal((6, *starts.shape)))
        ahead = ways[-1] + STEP_VOX * tries
        worth = (tries * heading).sum(-1) * 0.3
        if guide is not None:
            index = np.rint(ways[-1] + 2 * STEP_VOX * tries).astype(int)
            worth = worth + guide[tuple(np.clip(index, 0, np.asarray(guide.shape) - 1).T)].T
        best = worth.argmax(axis=0)
        walker = np.arange(len(starts))
        heading = tries[best, walker]
        alive = (worth[best, walker] > 0.35) | (guide is None)
        ways.append(np.where(alive[:, None], ahead[best, walker], ways[-1]))
    return np.stack(ways, 1)


def _unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def _splat(volume: Field, ways: npt.NDArray[np.float64], mass: npt.NDArray[np.float64]) -> None:
    """Spread each point's mass (mm³) over its eight neighbours, in place.

    A walker that stands still adds nothing more.
    """
    moved = np.ones(ways.shape[:2], bool)
    moved[:, 1:] = (np.diff(ways, axis=1) != 0).any(-1)
    points, masses = ways[moved], np.broadcast_to(mass[:, None], moved.shape)[moved]
    base = np.floor(points).astype(int)
    part = points - base
    for corner in np.ndindex(2, 2, 2):
        index = base + corner
        inside = ((index >= 0) & (index < volume.shape)).all(axis=1)
        share = np.prod(np.where(corner, part, 1 - part), axis=1) * masses
        np.add.at(volume, tuple(index[inside].T), share[inside].astype(np.float32))
