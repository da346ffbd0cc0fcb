"""Veins and arteries that no label map shows: thin, bright after contrast, and everywhere.

Cut across, a vessel looks like a small metastasis; only its course tells them apart. Each
vessel is a random walk of known radius, drawn with its partial volume. Most follow sulci and
fissures; bridging veins run over the convexity, branches of the middle cerebral artery
fill the Sylvian fissure, subependymal veins line the ventricles, and some cross the tissue.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from brainmets.simulate.anatomy import (
    CSF,
    FIRST_EXTRACEREBRAL,
    GREY,
    LATERAL_VENTRICLES,
    WHITE,
    Anatomy,
    Field,
    Mask,
    Structure,
)

STEP_VOX = 0.6
Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Family:
    """Vessels of one kind.

    Attributes:
        starts: where walks begin, shape (walkers, 3), voxels.
        guide: what walks keep to, in [0, 1]; None: they cross everything.
        radii_mm: least and largest radius, each octave as likely.
        steps: of :data:`STEP_VOX` at most.
    """

    starts: Points
    guide: Field | None
    radii_mm: tuple[float, float]
    steps: int = 90


def paint_vessels(
    image: Field, head: Anatomy, blood: float, rng: np.random.Generator, *, flow_voids: float
) -> None:
    """Paint vessels into ``image`` of shape (X, Y, Z), 1 mm, in place.

    Args:
        image: signal, white matter = 1.
        head: labels and structures on the same voxels.
        blood: signal of enhancing blood.
        rng: source of chance.
        flow_voids: share of vessels that are dark because blood flows through the slice.
    """
    amount, weighted = np.zeros_like(image), np.zeros_like(image)
    for family in _families(head, rng):
        ways = walk(family.starts, family.guide, rng, family.steps)
        count = len(family.starts)
        least, most = family.radii_mm
        radius = least * (most / least) ** rng.random(count)
        level = np.full(count, blood) * rng.uniform(0.75, 1.15, count)
        dark = rng.random(count) < flow_voids
        level[dark] = rng.uniform(0.2, 0.8)
        _splat(amount, ways, np.pi * radius**2 * STEP_VOX)
        _splat(weighted, ways, np.pi * radius**2 * STEP_VOX * level)
    amount, weighted = (ndimage.gaussian_filter(a, 0.65) for a in (amount, weighted))
    vessel = amount > 1e-3
    share = np.minimum(amount[vessel], 1)
    image[vessel] += share * (weighted[vessel] / amount[vessel] - image[vessel])


def _families(head: Anatomy, rng: np.random.Generator) -> tuple[Family, ...]:
    labels = head.labels
    fluid = _soft(labels == CSF)
    convexity = (labels == CSF) & ndimage.binary_dilation(
        labels >= FIRST_EXTRACEREBRAL, iterations=3
    )
    arteries = head.structures == Structure.BASAL_ARTERY
    ventricle = np.isin(labels, LATERAL_VENTRICLES)
    wall = _soft(ndimage.binary_dilation(ventricle, iterations=2) & ~ventricle)
    brain = np.isin(labels, WHITE + GREY)
    white = np.isin(labels, WHITE)

    def starts(where: Mask, least: int, most: int) -> Points:
        return _starts(where, int(rng.uniform(least, most)), rng)

    return (
        Family(starts(fluid > 0.6, 150, 420), fluid, (0.45, 1.5)),
        Family(starts(convexity, 20, 110), fluid, (0.7, 2.0)),
        Family(starts(arteries, 15, 70), fluid, (0.5, 1.3)),
        Family(starts(wall > 0.6, 4, 18), wall, (0.35, 0.9)),
        Family(starts(brain, 20, 90), None, (0.25, 0.6)),
        Family(starts(white, 0, 6), None, (0.4, 0.9), steps=45),
    )


def _soft(mask: Mask) -> Field:
    return np.asarray(ndimage.gaussian_filter(mask.astype(np.float32), 1.0), np.float32)


def _starts(where: Mask, count: int, rng: np.random.Generator) -> Points:
    flat = np.flatnonzero(where)
    if not len(flat):
        return np.zeros((0, 3))
    return np.stack(np.unravel_index(rng.choice(flat, count), where.shape), 1).astype(float)


def walk(starts: Points, guide: Field | None, rng: np.random.Generator, steps: int = 90) -> Points:
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


def _unit(vectors: Points) -> Points:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def _splat(volume: Field, ways: Points, mass: Points) -> None:
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
