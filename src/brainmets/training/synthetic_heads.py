"""Whole heads of random contrast, painted from label maps: what the extractor learns from.

Domain randomisation after Billot B, et al. SynthSeg. Med Image Anal 2023;86:102789 and
Hoopes A, et al. SynthStrip. NeuroImage 2022;260:119474: geometry, contrast, artefacts
and field of view are drawn far wider than scanners produce them.

Tensors are (x, y, z) in nearest-RAS order. Each voxel shows the mean of two points within
it, so that edges carry partial volume as in a scan.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from brainmets.network.synthstrip import scale_intensity
from brainmets.training.chance import Chance
from brainmets.training.head_contrast import Scene, paint
from brainmets.training.head_scanner import acquire
from brainmets.training.heads import FURTHEST_MM, NAMES, Head

SHIFT_MM = (15.0, 25.0, 35.0)
"""How far the brain's centre may lie from the window's, to each side."""


@dataclass(frozen=True)
class Frame:
    """The window that a training image shows.

    Attributes:
        shape: voxels.
        spacing_mm: their side.
        wander: whether its centre is any point of the brain's surface, for windows that hold
            a part of the head only; else it is near the brain's centre.
    """

    shape: tuple[int, int, int]
    spacing_mm: float
    wander: bool = False


@dataclass(frozen=True)
class Example:
    """One training image and what should be found in it.

    Attributes:
        image: grey values in 0…1, shape ``frame.shape``.
        distance: signed distance (mm) to brain + CSF, shape ``frame.shape``.
        seen: 1 in the field of view, 0 outside, shape ``frame.shape``.
    """

    image: Tensor
    distance: Tensor
    seen: Tensor


def draw(heads: list[Head], frame: Frame, chance: Chance, *, only_t1: bool = False) -> Example:
    """One training example.

    Args:
        heads: the subjects to draw from.
        frame: the window to fill.
        chance: where chance comes from.
        only_t1: T1 contrast, as scans to be measured have it; otherwise any.
    """
    head = heads[chance.index(len(heads))]
    scene = _pose(head, frame, chance)
    image = paint(scene, chance, only_t1=only_t1)
    image = acquire(image, frame.spacing_mm, chance)
    seen = _field_of_view(scene.distance < 0, frame, chance)
    shown = scale_intensity(image * seen) * _gain(chance)
    return Example(shown, scene.distance, seen)


def _gain(chance: Chance) -> float:
    return chance.uniform(0.6, 1.0) if chance.happens(0.3) else 1.0


def _pose(head: Head, frame: Frame, chance: Chance) -> Scene:
    """Turn, scale, bend and shift a head; in every second one the brain draws back from the dura.

    Two points within each voxel are looked up, on a random diagonal about its centre.
    """
    matrix, zoom = _random_matrix(chance)
    points = _voxel_positions(frame.shape) * frame.spacing_mm  # mm from the window's centre
    if chance.happens(0.8):
        cell = 36 / frame.spacing_mm
        points += chance.field(frame.shape, cell, 3) * chance.uniform(0, 4)
    start = _window_centre(head, frame, matrix, chance)
    points = (matrix @ points.view(3, -1)).view_as(points) + start.view(3, 1, 1, 1)
    signs = torch.tensor([1.0 if chance.happens(0.5) else -1.0 for _ in range(3)])
    diagonal = (matrix @ signs * frame.spacing_mm / 4).view(3, 1, 1, 1)
    in_box = (points - torch.tensor(head.box_start).view(3, 1, 1, 1) - 0.5) / 2
    distance = _linear(head.distance, in_box)[0]
    if chance.happens(0.5):
        outward = _linear(head.outward, in_box)
        pull = _pull(distance, frame, chance)
        across = (outward * diagonal).sum(0)
        tissue = torch.stack([
            _pulled(head, points + side * diagonal, distance + side * across, outward, pull)
            for side in (1, -1)
        ])  # fmt: skip
    else:
        tissue = torch.stack([_nearest(head.tissue, points + d) for d in (diagonal, -diagonal)])
    distance = (distance * zoom).clamp(-FURTHEST_MM, FURTHEST_MM)
    return Scene(tissue, distance, frame.spacing_mm)


def _pull(brain_mm: Tensor, frame: Frame, chance: Chance) -> Tensor:
    """How far (mm of the head) the brain has drawn back from its dura at each voxel.

    Most at the surface, unevenly; nothing at :data:`FURTHEST_MM`. Negative: a full brain.
    """
    amount = chance.uniform(-1.5, 5)
    unevenness = 1 + 0.6 * chance.field(frame.shape, 60 / frame.spacing_mm)[0]
    fading = (1 - brain_mm.abs() / (FURTHEST_MM - 1)).clamp_min(0)
    return amount * unevenness.clamp(0, 2) * fading


def _pulled(head: Head, points: Tensor, brain_mm: Tensor, outward: Tensor, pull: Tensor) -> Tensor:
    """Tissue at ``points`` after the brain has drawn back; fluid fills what it leaves."""
    outside = brain_mm >= 0
    source = points + outward * torch.where(outside, 0, pull)
    tissue = _nearest(head.tissue, source)
    left = ~outside & (brain_mm + pull >= 0)
    return torch.where(left, torch.tensor(NAMES.index("csf"), dtype=tissue.dtype), tissue)


def _window_centre(head: Head, frame: Frame, matrix: Tensor, chance: Chance) -> Tensor:
    """Where the window's centre lies, in voxels of ``head.tissue``."""
    if frame.wander:
        surface = (head.distance[0].abs() < 2).nonzero()
        place = surface[chance.index(len(surface))]
        return torch.tensor(head.box_start) + 2.0 * place + 0.5
    shift = torch.tensor([chance.uniform(-most, most) for most in SHIFT_MM])
    return torch.tensor(head.centre) - matrix @ shift


def _random_matrix(chance: Chance) -> tuple[Tensor, float]:
    """Window mm → head mm, and how much larger the head appears than it is."""
    widest = 40.0 if chance.happens(0.3) else 18.0
    turn = torch.eye(3)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        angle = math.radians(chance.uniform(-widest, widest))
        plane = torch.eye(3)
        plane[one, one] = plane[other, other] = math.cos(angle)
        plane[one, other], plane[other, one] = -math.sin(angle), math.sin(angle)
        turn = turn @ plane
    overall = chance.uniform(0.85, 1.15)
    zooms = torch.tensor([overall * chance.uniform(0.93, 1.07) for _ in range(3)])
    mirror = torch.tensor([-1.0 if chance.happens(0.5) else 1.0, 1.0, 1.0])
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
    """``source`` (channels, …) at voxel positions ``points`` (3, …); edges go on outside."""
    size = torch.tensor(source.shape[1:], dtype=torch.float32).view(3, 1, 1, 1)
    grid = (2 * (points + 0.5) / size - 1).flip(0).permute(1, 2, 3, 0)
    return functional.grid_sample(
        source[None], grid[None], padding_mode="border", align_corners=False
    )[0]


def _field_of_view(brain: Tensor, frame: Frame, chance: Chance) -> Tensor:
    """Which voxels the scan covers: at times an edge cuts neck, face or crown."""
    seen = torch.ones(frame.shape)
    if frame.wander or not brain.any():
        return seen
    places = brain.nonzero()
    for axis, size in enumerate(frame.shape):
        low, high = int(places[:, axis].min()), int(places[:, axis].max())
        if chance.happens(0.18):
            cut = low - round(chance.uniform(-25, 40) / frame.spacing_mm)
            seen.narrow(axis, 0, min(max(cut, 0), size)).zero_()
        if chance.happens(0.18):
            start = high + 1 + round(chance.uniform(-25, 40) / frame.spacing_mm)
            start = min(max(start, 0), size)
            seen.narrow(axis, start, size - start).zero_()
    return seen
