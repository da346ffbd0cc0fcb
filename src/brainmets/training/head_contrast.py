"""Grey values for a head's tissues, its dura and vessels, and what disease adds.

Three images in four have a plausible contrast (T1, most often with gadolinium; T2; FLAIR),
the others none at all. Boundaries drawn by distance are soft over one voxel, as a voxel
that lies across one is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from brainmets.training.chance import Chance
from brainmets.training.heads import NAMES


@dataclass(frozen=True)
class Scene:
    """A head in its pose.

    Attributes:
        tissue: indices into ``NAMES`` of two points in each voxel, shape (2, x, y, z).
        distance: signed distance (mm) to brain + CSF, shape (x, y, z).
        spacing_mm: side of the voxels.
    """

    tissue: Tensor
    distance: Tensor
    spacing_mm: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the image to be painted."""
        _, x, y, z = self.tissue.shape
        return x, y, z

    def share(self, name: str) -> Tensor:
        """How much of each voxel is this tissue: 0, ½ or 1."""
        return (self.tissue == NAMES.index(name)).float().mean(0)

    def within(self, low_mm: float, high_mm: float) -> Tensor:
        """How much of each voxel lies between two distances from brain + CSF."""
        return self.below(high_mm) * (1 - self.below(low_mm))

    def below(self, distance_mm: float) -> Tensor:
        """How much of each voxel lies nearer than a distance to brain + CSF, or inside it."""
        return ((distance_mm - self.distance) / self.spacing_mm + 0.5).clamp(0, 1)


def paint(scene: Scene, chance: Chance, *, only_t1: bool) -> Tensor:
    """An image of a head before the scanner, about 0…1.5, shape ``scene.shape``."""
    contrast, plausible = (_t1(chance), True) if only_t1 else _any_contrast(chance)
    image = torch.tensor([contrast[name] for name in NAMES])[scene.tissue.int()].mean(0)
    image = _mottle_soft_tissue(image, scene, contrast, chance)
    if plausible or chance.happens(0.4):
        image = _paint_layers(image, scene, contrast, chance)
    spread = torch.tensor([chance.uniform(0, 0.08) for _ in NAMES])
    spread[0] = chance.uniform(0, 0.02)
    image = image + spread[scene.tissue[0].int()] * chance.normal(*scene.shape)
    for _ in range(chance.index(4)):
        image = _add_lesion(image, scene, contrast, chance)
    if chance.happens(0.02):  # a head whose skull is off already
        image = image * scene.below(chance.uniform(0, 3))
    if chance.happens(0.3):
        image = image * (1 - scene.share("air"))
    return image


def _random(chance: Chance) -> dict[str, float]:
    contrast = {name: chance.uniform(0, 1) for name in NAMES}
    contrast["air"] = 0.0 if chance.happens(0.8) else chance.uniform(0, 1)
    return contrast


def _t1(chance: Chance) -> dict[str, float]:
    """T1, with gadolinium as a rule; grey and white may be nearly alike (thick spin echo)."""
    white = chance.uniform(0.4, 0.75)
    grey = white - chance.uniform(0.0, 0.08 if chance.happens(0.4) else 0.3)
    csf = grey * chance.uniform(0.15, 0.75)
    return {
        "air": 0.0,
        "white": white,
        "grey": grey,
        "deep grey": chance.uniform(grey, white),
        "csf": csf,
        "cerebellar grey": grey * chance.uniform(0.9, 1.1),
        "cerebellar white": white * chance.uniform(0.9, 1.05),
        "stem": white * chance.uniform(0.85, 1.05),
        "other brain": grey,
        "soft": chance.uniform(0.2, 0.8),
        "skin": chance.uniform(0.4, 1.6),
        "bone": chance.uniform(0.0, 0.25),
        "spots": chance.uniform(0.1, 1.4),
        "sinus": chance.uniform(0.0, 1.0),
        "vessel": chance.uniform(0.1, 1.5),
        "eye": chance.uniform(0.05, 0.5),
        "other": chance.uniform(0.0, 1.0),
    }


def _t2(chance: Chance) -> dict[str, float]:
    """T2 (bright CSF) or FLAIR (dark CSF)."""
    contrast = _t1(chance)
    white = chance.uniform(0.2, 0.5)
    grey = white + chance.uniform(0.02, 0.3)
    csf = chance.uniform(0.7, 1.2) if chance.happens(0.6) else chance.uniform(0.02, 0.2)
    contrast |= {"white": white, "cerebellar white": white, "stem": white, "csf": csf}
    contrast |= {"grey": grey, "cerebellar grey": grey, "other brain": grey}
    contrast |= {"deep grey": chance.uniform(white, grey), "eye": csf}
    return contrast | {"soft": chance.uniform(0.1, 0.6), "skin": chance.uniform(0.2, 1.0)}


def _any_contrast(chance: Chance) -> tuple[dict[str, float], bool]:
    kind = chance.uniform(0, 1)
    if kind < 0.25:
        return _random(chance), False
    return (_t1 if kind < 0.8 else _t2)(chance), True


def _mix(image: Tensor, share: Tensor, value: float) -> Tensor:
    """``image`` with ``value`` in the given share of each voxel."""
    return torch.lerp(image, torch.full((), value), share)


def _mottle_soft_tissue(
    image: Tensor, scene: Scene, contrast: dict[str, float], chance: Chance
) -> Tensor:
    """Break one label into fat, muscle, bone and air, as faces and necks are made."""
    if chance.happens(0.15):
        return image
    for name in ("soft", "spots", "skin", "bone"):
        if name in ("skin", "bone") and chance.happens(0.6):
            continue
        wide, narrow = (chance.field(scene.shape, mm / scene.spacing_mm)[0] for mm in (15, 6))
        pattern = wide + chance.uniform(0, 1) * narrow
        chosen = (pattern > chance.uniform(-0.3, 0.8)).float() * scene.share(name)
        image = image + chosen * (chance.uniform(0, 1.4) - contrast[name])
    return image


def _paint_layers(
    image: Tensor, scene: Scene, contrast: dict[str, float], chance: Chance
) -> Tensor:
    """Marrow within bone, dura, sinuses, surface vessels, and CSF that partial volume hides."""
    spacing, shape = scene.spacing_mm, scene.shape
    if chance.happens(0.7):
        start = chance.uniform(1.5, 4.5)  # beyond dura and the skull's inner table
        layer = scene.within(start, start + chance.uniform(1.5, 5)) * scene.share("bone")
        patches = chance.field(shape, 24 / spacing)[0] > chance.uniform(-1.5, 0.5)
        image = _mix(image, layer * patches, chance.uniform(0.2, 1.3))
    for widest, often, cell in ((2.5, 0.6, 18.0), (7.0, 0.35, 30.0)):  # dura; sinuses
        if chance.happens(often):
            start = chance.uniform(-1, 0.5)
            rim = scene.within(start, start + chance.uniform(0.8, widest))
            patches = chance.field(shape, cell / spacing)[0]
            patches = patches > chance.uniform(-1.5, 1) + (widest > 3)
            image = _mix(image, rim * patches, chance.uniform(0.3, 1.5))
    csf = scene.share("csf")
    if chance.happens(0.5):  # cortical veins and Virchow-Robin spaces
        veins = csf * (chance.field(shape, 6 / spacing)[0] > chance.uniform(0.8, 1.6))
        image = _mix(image, veins, chance.uniform(0.6, 1.4))
    if chance.happens(0.4):  # cisterns and subarachnoid space in which partial volume hides CSF
        mixed = 0.5 * (contrast["csf"] + contrast["grey"])
        image = _mix(image, csf * (chance.field(shape, 30 / spacing)[0] > 0), mixed)
    return image


def _add_lesion(image: Tensor, scene: Scene, contrast: dict[str, float], chance: Chance) -> Tensor:
    """A tumour (bright, dark or ring-shaped), a resection cavity, or oedema around either."""
    inside = (scene.distance < 1).flatten().nonzero()
    if not len(inside):
        return image
    place = int(inside[chance.index(len(inside)), 0])
    _, y, z = scene.shape
    centre = (place // (y * z), place // z % y, place % z)
    radius = chance.log_uniform(2, 28) / scene.spacing_mm
    box, away = _ball(scene.shape, centre, radius, chance)
    brain = scene.below(0.5)[box]
    patch = image[box]
    if chance.happens(0.4):  # oedema, or the swelling that a scar leaves
        soft = ((1.5 * radius - away) / (0.5 * radius)).clamp(0, 1) * chance.uniform(0.2, 0.6)
        patch = _mix(patch, soft * brain, chance.uniform(0, 1.1))
    level = contrast["csf"] if chance.happens(0.25) else chance.uniform(0, 1.4)
    patch = _mix(patch, (radius - away + 0.5).clamp(0, 1) * brain, level)
    if chance.happens(0.4):
        core = radius * chance.uniform(0.4, 0.85)
        patch = _mix(patch, (core - away + 0.5).clamp(0, 1) * brain, chance.uniform(0, 1))
    image = image.clone()
    image[box] = patch
    return image


def _ball(
    shape: tuple[int, ...], centre: tuple[int, ...], radius: float, chance: Chance
) -> tuple[tuple[slice, ...], Tensor]:
    """A box about a point, and each voxel's distance from the point, unevenly stretched."""
    box = tuple(
        slice(max(0, int(c - 1.8 * radius)), min(n, int(c + 1.8 * radius) + 2))
        for c, n in zip(centre, shape, strict=True)
    )
    axes = [
        torch.arange(side.start, side.stop) - float(c) for side, c in zip(box, centre, strict=True)
    ]
    away = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    lumps = chance.field(tuple(away.shape), max(2, round(radius / 2)))[0]
    return box, away * (1 + 0.2 * lumps)
