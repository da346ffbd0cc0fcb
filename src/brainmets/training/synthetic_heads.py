"""Whole heads of random contrast, painted from label maps: what the extractor learns from.

Domain randomisation after Billot B, et al. SynthSeg. Med Image Anal 2023;86:102789 and
Hoopes A, et al. SynthStrip. NeuroImage 2022;260:119474: geometry, contrast, artefacts
and field of view are drawn far wider than scanners produce them. Seven images in ten have a
plausible contrast (T1 with gadolinium most often), the others none at all.

Tensors are (x, y, z) in nearest-RAS order; images are painted at :data:`FINE_MM` and
averaged to :data:`COARSE_MM`, so that edges carry partial volume as in a scan.
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
from torch import Generator, Tensor
from torch.nn import functional

from brainmets.errors import ReadError
from brainmets.io.nifti import read_labels
from brainmets.network.synthstrip import scale_intensity
from brainmets.volume import to_nearest_ras

FINE_MM = 1.5
COARSE_MM = 3.0
WINDOW = (64, 80, 64)
"""Voxels of :data:`COARSE_MM` in a training image: 192 × 240 × 192 mm."""
FURTHEST_MM = 15.0
"""Distances to the surface are clamped to this."""
FIRST_EXTRACEREBRAL = 500
"""Labels from here on lie outside brain and CSF in SynthSeg's label maps."""
HINDBRAIN = (7, 8, 16, 46, 47)
"""Cerebellum and brain stem, which end where the spinal canal begins."""

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


@dataclass(frozen=True)
class Head:
    """One subject, ready to be painted.

    Attributes:
        tissue: uint8 index into :data:`NAMES`, 1 mm voxels.
        distance: signed distance (mm) to brain + CSF on every second voxel of a box.
        box_start: the box's first voxel in ``tissue``.
        centre: centre of the brain in voxels of ``tissue``.
    """

    tissue: Tensor
    distance: Tensor
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
    labels = volume.data.astype(np.int16)
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
    coarse = functional.avg_pool3d(fine[None, None], 2)[0, 0]
    start, centre = low.tolist(), where.mean(0).tolist()
    return Head(
        torch.from_numpy(_tissue_table()[np.clip(labels, 0, 999)]),
        coarse,
        (start[0], start[1], start[2]),
        (centre[0], centre[1], centre[2]),
    )


def brain_of(labels: npt.NDArray[np.int16]) -> npt.NDArray[np.bool_]:
    """Brain + CSF of a label map (1 mm, nearest-RAS order), as one solid object.

    Stray voxels go, gaps up to 6 mm wide are closed, and the spinal canal ends 5 mm below
    the lowest voxel of brain stem and cerebellum.
    """
    brain = (labels > 0) & (labels < FIRST_EXTRACEREBRAL)
    lowest = np.flatnonzero(np.isin(labels, HINDBRAIN).any(axis=(0, 1)))
    if len(lowest):
        brain[:, :, : max(int(lowest[0]) - 5, 0)] = False
    core, _ = label(binary_erosion(brain))
    box = find_objects((core == np.bincount(core[core > 0]).argmax()).astype(np.int8))[0]
    wide = tuple(slice(max(s.start - 5, 0), s.stop + 5) for s in box)
    solid = np.zeros_like(brain)
    solid[wide] = _closed(brain[wide], core[wide])
    return solid


def _closed(brain: npt.NDArray[np.bool_], core: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    largest = core == np.bincount(core[core > 0]).argmax()
    padded = np.pad(brain & binary_dilation(largest, iterations=3), 4)
    grown = distance_transform_edt(~padded) <= 3
    closed = binary_fill_holes(distance_transform_edt(grown) > 3)
    return np.asarray((closed | padded)[4:-4, 4:-4, 4:-4])


def signed_distance(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Distance (voxels) from each voxel's centre to the mask's surface, negative inside."""
    outside, inside = distance_transform_edt(~mask), distance_transform_edt(mask)
    return np.where(mask, 0.5 - inside, outside - 0.5).astype(np.float32)


def _tissue_table() -> npt.NDArray[np.uint8]:
    table = np.full(1000, NAMES.index("other brain"), np.uint8)
    table[FIRST_EXTRACEREBRAL:] = NAMES.index("other")
    for index, labels in enumerate(TISSUES.values()):
        table[list(labels)] = index
    return table


class Dice:
    """Random draws from one seeded generator."""

    def __init__(self, seed: int) -> None:
        """Start the sequence of ``seed``."""
        self.generator = Generator().manual_seed(seed)

    def uniform(self, low: float, high: float) -> float:
        """A number between ``low`` and ``high``."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform(0, 1) < probability

    def index(self, count: int) -> int:
        """An integer in 0…count-1."""
        return int(torch.randint(count, (), generator=self.generator))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self.generator)

    def field(self, shape: tuple[int, ...], cell: int, channels: int = 1) -> Tensor:
        """Smooth noise of unit variance at its nodes, one node each ``cell`` voxels."""
        nodes = [max(2, math.ceil(n / cell) + 1) for n in shape]
        coarse = self.normal(1, channels, *nodes)
        return functional.interpolate(coarse, shape, mode="trilinear", align_corners=True)[0]


def draw(heads: list[Head], dice: Dice, *, only_t1: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """One training example.

    Args:
        heads: the subjects to draw from.
        dice: where chance comes from.
        only_t1: T1 contrast, as scans to be measured have it; otherwise any.

    Returns:
        Image in 0…1, signed distance in mm, and which voxels lie in the field of view,
        each of shape :data:`WINDOW`.
    """
    head = heads[dice.index(len(heads))]
    tissue, fine_distance, distance = _pose(head, dice)
    image = _paint(tissue, fine_distance, dice, only_t1=only_t1)
    image = _acquire(image, dice)
    seen = _field_of_view(distance, dice)
    return scale_intensity(image * seen) * _gain(dice), distance, seen


def variant(example: tuple[Tensor, Tensor, Tensor], dice: Dice) -> tuple[Tensor, Tensor, Tensor]:
    """An example mirrored (left–right), with other noise, grey-value curve and coil shading."""
    image, distance, seen = (part.flip(0) for part in example)
    image = image ** math.exp(dice.uniform(-0.5, 0.5))
    image = image * torch.exp(dice.uniform(0, 0.4) * dice.field(image.shape, 24)[0])
    image = (image + dice.uniform(0, 0.06) * dice.normal(*image.shape)).abs()
    return scale_intensity(image * seen) * _gain(dice), distance, seen


def _gain(dice: Dice) -> float:
    return dice.uniform(0.6, 1.0) if dice.chance(0.3) else 1.0


def _fine_shape() -> tuple[int, int, int]:
    times = round(COARSE_MM / FINE_MM)
    return WINDOW[0] * times, WINDOW[1] * times, WINDOW[2] * times


def _pose(head: Head, dice: Dice) -> tuple[Tensor, Tensor, Tensor]:
    """Turn, scale, bend and shift a head.

    Returns:
        Tissue (nearest) on the fine grid; distance (linear) on the fine and coarse grids.
    """
    matrix, zoom = _random_matrix(dice)
    points = _voxel_positions(_fine_shape()) * FINE_MM  # mm from the window's centre
    if dice.chance(0.8):
        points += dice.field(_fine_shape(), 24, 3) * dice.uniform(0, 4)
    limits = (15.0, 30.0, 35.0)
    shift = torch.tensor([dice.uniform(-m, m) for m in limits])
    start = torch.tensor(head.centre) - matrix @ shift
    points = (matrix @ points.view(3, -1)).view_as(points) + start.view(3, 1, 1, 1)
    tissue = _nearest(head.tissue, points)
    middle = functional.avg_pool3d(points[None], 2)[0]
    in_box = (middle - torch.tensor(head.box_start).view(3, 1, 1, 1) - 0.5) / 2
    distance = (_linear(head.distance, in_box) * zoom).clamp(-FURTHEST_MM, FURTHEST_MM)
    fine = functional.interpolate(distance[None, None], _fine_shape(), mode="trilinear")[0, 0]
    return tissue, fine, distance


def _random_matrix(dice: Dice) -> tuple[Tensor, float]:
    """Window mm → head mm, and how much larger the head appears than it is."""
    widest = 40.0 if dice.chance(0.15) else 18.0
    turn = torch.eye(3)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        angle = math.radians(dice.uniform(-widest, widest))
        plane = torch.eye(3)
        plane[one, one] = plane[other, other] = math.cos(angle)
        plane[one, other], plane[other, one] = -math.sin(angle), math.sin(angle)
        turn = turn @ plane
    overall = dice.uniform(0.82, 1.15)
    zooms = torch.tensor([overall * dice.uniform(0.93, 1.07) for _ in range(3)])
    mirror = torch.tensor([-1.0 if dice.chance(0.5) else 1.0, 1.0, 1.0])
    return torch.diag(mirror / zooms) @ turn, float(zooms.prod() ** (1 / 3))


def _voxel_positions(shape: tuple[int, ...]) -> Tensor:
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _nearest(source: Tensor, points: Tensor) -> Tensor:
    """``source`` at the voxels nearest to ``points`` (3, …); 0 outside."""
    places, inside = torch.zeros((), dtype=torch.int32), torch.ones((), dtype=torch.bool)
    for size, position in zip(source.shape, points.round().int(), strict=True):
        inside = inside & (position >= 0) & (position < size)
        places = places * size + position.clamp(0, size - 1)
    return source.flatten()[places] * inside


def _linear(source: Tensor, points: Tensor) -> Tensor:
    """``source`` at voxel positions ``points`` (3, …); beyond its edge the edge's value."""
    size = torch.tensor(source.shape, dtype=torch.float32).view(3, 1, 1, 1)
    grid = (2 * (points + 0.5) / size - 1).flip(0).permute(1, 2, 3, 0)
    return functional.grid_sample(
        source[None, None], grid[None], padding_mode="border", align_corners=False
    )[0, 0]


# --- contrast -----------------------------------------------------------------


def _random_contrast(dice: Dice) -> dict[str, float]:
    contrast = {name: dice.uniform(0, 1) for name in NAMES}
    contrast["air"] = 0.0 if dice.chance(0.8) else dice.uniform(0, 1)
    return contrast


def _t1_contrast(dice: Dice) -> dict[str, float]:
    """T1, with gadolinium as a rule; grey and white may be nearly alike (thick spin echo)."""
    white = dice.uniform(0.4, 0.7)
    grey = white - dice.uniform(0.0, 0.08 if dice.chance(0.4) else 0.3)
    csf = grey * dice.uniform(0.2, 0.75)
    return {
        "air": 0.0,
        "white": white,
        "grey": grey,
        "deep grey": dice.uniform(grey, white),
        "csf": csf,
        "cerebellar grey": grey * dice.uniform(0.9, 1.1),
        "cerebellar white": white * dice.uniform(0.9, 1.05),
        "stem": white * dice.uniform(0.85, 1.05),
        "other brain": grey,
        "soft": dice.uniform(0.25, 0.7),
        "skin": dice.uniform(0.6, 1.6),
        "bone": dice.uniform(0.0, 0.25),
        "spots": dice.uniform(0.1, 1.4),
        "sinus": dice.uniform(0.0, 1.0),
        "vessel": dice.uniform(0.1, 1.5),
        "eye": dice.uniform(0.05, 0.5),
        "other": dice.uniform(0.0, 1.0),
    }


def _t2_contrast(dice: Dice) -> dict[str, float]:
    """T2 (bright CSF) or FLAIR (dark CSF)."""
    contrast = _t1_contrast(dice)
    white = dice.uniform(0.25, 0.5)
    grey = white + dice.uniform(0.02, 0.3)
    csf = dice.uniform(0.7, 1.2) if dice.chance(0.6) else dice.uniform(0.02, 0.2)
    contrast |= {"white": white, "cerebellar white": white, "stem": white, "csf": csf}
    contrast |= {"grey": grey, "cerebellar grey": grey, "other brain": grey}
    contrast |= {"deep grey": dice.uniform(white, grey), "eye": csf, "soft": dice.uniform(0.1, 0.5)}
    return contrast


def _contrast(dice: Dice) -> tuple[dict[str, float], bool]:
    kind = dice.uniform(0, 1)
    if kind < 0.3:
        return _random_contrast(dice), False
    return (_t1_contrast if kind < 0.87 else _t2_contrast)(dice), True


def _paint(tissue: Tensor, distance: Tensor, dice: Dice, *, only_t1: bool) -> Tensor:
    contrast, plausible = (_t1_contrast(dice), True) if only_t1 else _contrast(dice)
    image = torch.tensor([contrast[name] for name in NAMES])[tissue.int()]
    image = _mottle_soft_tissue(image, tissue, dice)
    if plausible or dice.chance(0.4):
        image = _paint_layers(image, tissue, distance, contrast, dice)
    spread = torch.tensor([dice.uniform(0, 0.1) for _ in NAMES])
    spread[0] = dice.uniform(0, 0.03)
    image = image + spread[tissue.int()] * dice.normal(*image.shape)
    for _ in range(dice.index(4)):
        image = _add_lesion(image, distance, dice)
    if dice.chance(0.03):  # a head whose skull is off already
        image = image * (distance < dice.uniform(0, 3))
    if dice.chance(0.3):
        image = image * (tissue > 0)
    return image


def _mottle_soft_tissue(image: Tensor, tissue: Tensor, dice: Dice) -> Tensor:
    """Break one label into fat, muscle, bone and air, as faces and necks are made."""
    if dice.chance(0.15):
        return image
    for name in ("soft", "spots", "skin", "bone"):
        if name in ("skin", "bone") and dice.chance(0.6):
            continue
        coarse, fine = dice.field(image.shape, 10)[0], dice.field(image.shape, 4)[0]
        pattern = coarse + dice.uniform(0, 1) * fine
        chosen = (tissue == NAMES.index(name)) & (pattern > dice.uniform(-0.3, 0.8))
        image = torch.where(chosen, dice.uniform(0, 1.4), image)
    return image


def _paint_layers(
    image: Tensor, tissue: Tensor, distance: Tensor, contrast: dict[str, float], dice: Dice
) -> Tensor:
    """Marrow within bone, and the bright rim of dura, sinuses and surface vessels."""
    bone = tissue == NAMES.index("bone")
    if dice.chance(0.7):
        start = dice.uniform(1.5, 3)
        layer = (distance > start) & (distance < start + dice.uniform(1.5, 5))
        marrow = bone & layer & (dice.field(image.shape, 16)[0] > dice.uniform(-1.5, 0.5))
        image = torch.where(marrow, dice.uniform(0.2, 1.3), image)
    if dice.chance(0.6):
        rim = (distance > dice.uniform(-1, 0.5)) & (distance < dice.uniform(1.0, 3.0))
        rim &= dice.field(image.shape, 12)[0] > dice.uniform(-1.5, 1)
        image = torch.where(rim, dice.uniform(0.3, 1.4), image)
    if dice.chance(0.5):  # cortical veins and Virchow-Robin spaces
        csf = tissue == NAMES.index("csf")
        veins = csf & (dice.field(image.shape, 4)[0] > dice.uniform(0.8, 1.6))
        image = torch.where(veins, dice.uniform(0.6, 1.4), image)
    if dice.chance(0.5):  # cisterns and subarachnoid space in which partial volume hides CSF
        csf = tissue == NAMES.index("csf")
        mixed = 0.5 * (contrast["csf"] + contrast["grey"])
        image = torch.where(csf & (dice.field(image.shape, 20)[0] > 0), mixed, image)
    return image


def _add_lesion(image: Tensor, distance: Tensor, dice: Dice) -> Tensor:
    """A bright, dark or ring-shaped blob in the brain or at its surface."""
    shape = image.shape
    inside = (distance < 1).flatten().nonzero()
    if not len(inside):
        return image
    place = int(inside[dice.index(len(inside)), 0])
    centre = torch.tensor([place // (shape[1] * shape[2]), place // shape[2] % shape[1], 0.0])
    centre[2] = place % shape[2]
    radius = math.exp(dice.uniform(math.log(2), math.log(20)))
    low = (centre - 1.6 * radius).floor().clamp_min(0).int().tolist()
    high = (centre + 1.6 * radius).ceil().int().tolist()
    box = tuple(slice(a, min(b + 1, n)) for a, b, n in zip(low, high, shape, strict=True))
    axes = [torch.arange(s.start, s.stop) - c for s, c in zip(box, centre, strict=True)]
    away = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    away = away * (1 + 0.2 * dice.field(tuple(away.shape), max(2, round(radius / 2)))[0])
    patch, brain = image[box].clone(), distance[box] < 0.5
    patch[brain & (away < radius)] = dice.uniform(0, 1.4)
    if dice.chance(0.4):
        patch[brain & (away < radius * dice.uniform(0.4, 0.85))] = dice.uniform(0, 1)
    image = image.clone()
    image[box] = patch
    return image


# --- scanner ------------------------------------------------------------------


def _acquire(image: Tensor, dice: Dice) -> Tensor:
    """Coil shading, slices, noise and gamma; from the fine grid to the coarse one."""
    image = image * torch.exp(dice.uniform(0, 0.4) * dice.field(image.shape, 48)[0])
    image = _slices(image, dice)
    noise = dice.uniform(0, 0.07) if dice.chance(0.7) else 0.0
    image = (image + noise * dice.normal(*image.shape)).abs()
    if dice.chance(0.6):
        top = image.max().clamp_min(1e-6)
        image = top * (image / top) ** math.exp(dice.uniform(-0.4, 0.4))
    return image


def _slices(image: Tensor, dice: Dice) -> Tensor:
    """Average to :data:`COARSE_MM`, or along one axis to slices of up to 7 mm."""
    image = image[None, None]
    if dice.chance(0.5):
        axis = dice.index(3)
        shape = list(image.shape[2:])
        shape[axis] = round(shape[axis] * FINE_MM / dice.uniform(COARSE_MM, 7))
        image = functional.interpolate(image, shape, mode="area")
    if dice.chance(0.5):  # the softer averaging of a scan resampled before
        kernel = [3 if n == f else 1 for n, f in zip(image.shape[2:], _fine_shape(), strict=True)]
        image = functional.avg_pool3d(
            image, kernel, stride=1, padding=[k // 2 for k in kernel], count_include_pad=False
        )
    halves = [2 if n == f else 1 for n, f in zip(image.shape[2:], _fine_shape(), strict=True)]
    image = functional.avg_pool3d(image, halves)
    return functional.interpolate(image, WINDOW, mode="trilinear", align_corners=False)[0, 0]


def _field_of_view(distance: Tensor, dice: Dice) -> Tensor:
    """Which coarse voxels the scan covers: at times an edge cuts neck, face or crown."""
    seen = torch.ones(WINDOW)
    brain = distance < 0
    if not brain.any():
        return seen
    places = brain.nonzero()
    for axis, size in enumerate(WINDOW):
        low, high = int(places[:, axis].min()), int(places[:, axis].max())
        if dice.chance(0.3):
            cut = low - round(dice.uniform(-5, 15))
            seen.narrow(axis, 0, max(cut, 0)).zero_()
        if dice.chance(0.3):
            start = min(high + 1 + round(dice.uniform(-5, 15)), size)
            seen.narrow(axis, start, size - start).zero_()
    return seen
