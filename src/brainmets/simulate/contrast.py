"""From tissue classes to a contrast-enhanced T1 image, before any metastasis.

Signal is relative to white matter = 1. The ranges follow the order of tissues in T1
gradient echo (MPRAGE, SPGR: grey matter clearly darker) and T1 spin echo (grey and
white nearly equal), wide enough to cover 1.5 and 3 T.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.transform import Rotation

from brainmets.simulate.ageing import darken_white_matter, ventricle_pull
from brainmets.simulate.anatomy import (
    CEREBELLUM,
    DEEP_GREY,
    FIRST_EXTRACEREBRAL,
    GREY,
    WHITE,
    Anatomy,
    Field,
    Labels,
    Mask,
    Structure,
)
from brainmets.simulate.noise import smooth_noise
from brainmets.simulate.vessels import paint_vessels

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
FLUID = (24, 4, 5, 14, 15, 43, 44)
DURAL_SINUSES = frozenset(structure for structure in Structure if "SINUS" in structure.name)


class Ingredient(StrEnum):
    """What can be left out, to see what it is worth in training."""

    SINUSES = "sinuses"
    VESSELS = "vessels"
    MASS_EFFECT = "mass-effect"


@dataclass(frozen=True)
class Style:
    """What one examination looks like.

    Attributes:
        spin_echo: spin echo rather than gradient echo.
        contrast: contrast agent was given; without it nothing enhances.
        without: what is left out.
    """

    spin_echo: bool
    contrast: bool
    without: frozenset[Ingredient] = frozenset()


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
    pull = ventricle_pull(anatomy.labels, float(np.clip(rng.normal(1, 2.5), -1.5, 6)))
    for row in range(3):
        position = sum(matrix[row, c] * axes[c].astype(np.float32) for c in range(3)) + offset[row]
        position = position + rng.uniform(1, 3.5) * smooth_noise(shape, 45, rng) + pull[row]
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
    if rng.random() < 0.4:
        darken_white_matter(image, head.labels, rng)
    blood = rng.uniform(1.35, 2.6) if style.contrast else rng.uniform(0.3, 1.05)
    _paint_structures(image, head, style, blood, rng)
    image *= 1 + rng.uniform(0.01, 0.035) * smooth_noise(image.shape, 6, rng)
    image = ndimage.gaussian_filter(image, rng.uniform(0.45, 0.75))
    voids = 0.35 if style.spin_echo else 0.04
    # what is left out is drawn all the same, so that the seed gives the same metastases
    without = Ingredient.VESSELS in style.without
    paint_vessels(image.copy() if without else image, head, blood, rng, flow_voids=voids)
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
        Structure.DEEP_VEIN: blood * rng.uniform(0.8, 1.1),
        Structure.PINEAL: blood * rng.uniform(0.45, 1.0),
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
        if structure in DURAL_SINUSES and Ingredient.SINUSES in style.without:
            continue
        image[where] = level * (1 + 0.08 * texture[where])


def _sometimes(bright: float, otherwise: float, rng: np.random.Generator) -> float:
    return bright if rng.random() < 0.5 else otherwise
