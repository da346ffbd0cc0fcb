"""What chance does to a patch: turned, deformed, lit unevenly, blurred, noisy, cut deeper or less.

:func:`vary` draws numbers only, from one seeded generator. :func:`augment` does the arithmetic, in
float32 on the device that trains. So a batch is a function of (seed, step), whoever computes it;
between devices it differs by rounding, and by the noise, whose generator is the device's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from brainmets.config import Training
from brainmets.training.store import DEPTH_STEP_MM, LEVELS_MM
from brainmets.volume import Array

Float32 = npt.NDArray[np.float32]
LARGEST_TURN_DEG, LARGEST_SCALE, LARGEST_STRETCH = 15.0, 1.18, 1.05
NODES, WAVE_NODES, FIELD_NODES = 6, 5, 4
"""Along each side of a patch: of the deformation, of the mask's end, and of the receive field."""
LARGEST_SHIFT = 0.1
"""Standard deviation of a node's shift, in node distances: far too little to fold."""
DARK_Z = -4.0
"""A Z-score below nearly all that occur; gamma and the receive field act on what lies above it."""
RANGE_Z = 12.0


@dataclass(frozen=True)
class Variation:
    """What is done to one patch.

    Attributes:
        flips: axes that are mirrored.
        matrix: (3, 3), from voxels of the patch to voxels of the case, about the patch's centre;
            None: the patch is cut as it lies.
        shifts: (3, n, n, n) voxels of the case by which nodes are moved besides; None: by nothing.
        level_mm: where the brain mask ends, outside the brain's surface.
        waves_mm: (n, n, n) by how much further it ends at nodes.
        gain: what Z-scores are multiplied by.
        offset: what is added to them.
        gamma: exponent; 1: none.
        field: (n, n, n) logarithm of the receive field at nodes; None: even.
        blur_vox: standard deviations of a Gaussian along each axis; 0: none.
        coarse: factors by which voxels are made longer and then cut again; 1: none.
        noise: standard deviation.
        seed: of the noise.
    """

    flips: tuple[int, ...]
    matrix: npt.NDArray[np.float64] | None
    shifts: Float32 | None
    level_mm: float
    waves_mm: Float32
    gain: float
    offset: float
    gamma: float
    field: Float32 | None
    blur_vox: tuple[float, float, float]
    coarse: tuple[float, float, float]
    noise: float
    seed: int

    def reach(self, side: int) -> npt.NDArray[np.float64]:
        """How far from its centre a patch of ``side`` looks, in voxels of the case by axis."""
        half = np.full(3, (side - 1) / 2)
        turned = half if self.matrix is None else np.abs(self.matrix) @ half
        return turned + (0 if self.shifts is None else np.abs(self.shifts).max((1, 2, 3)))


def vary(training: Training, rng: np.random.Generator) -> Variation:
    """Draw what is done to one patch."""
    matrix, shifts = None, None
    if rng.random() < training.deform_share:
        matrix = _matrix(rng)
        if rng.random() < 0.5:
            spread = rng.uniform(0, LARGEST_SHIFT) * (training.patch_vox - 1) / (NODES - 1)
            shifts = _nodes(rng, (3, NODES, NODES, NODES), spread)
    return Variation(
        flips=tuple(int(a) for a in np.flatnonzero(rng.random(3) < 0.5)),
        matrix=matrix,
        shifts=shifts,
        level_mm=float(rng.uniform(LEVELS_MM[0], LEVELS_MM[-1])),
        waves_mm=_nodes(rng, (WAVE_NODES,) * 3, rng.uniform(0, 1.2)),
        gain=float(rng.uniform(0.8, 1.25)),
        offset=float(rng.uniform(-0.2, 0.2)),
        gamma=float(np.exp(rng.uniform(-0.35, 0.35))) if rng.random() < 0.4 else 1.0,
        field=_nodes(rng, (FIELD_NODES,) * 3, 0.1) if rng.random() < 0.3 else None,
        blur_vox=_by_axis(rng, 0, (0.8, 2.5), (0.3, 0.8)) if rng.random() < 0.3 else (0, 0, 0),
        coarse=_by_axis(rng, 1, (1.5, 4), (1, 1.8)) if rng.random() < 0.15 else (1, 1, 1),
        noise=float(rng.uniform(0, 0.25)) if rng.random() < 0.4 else 0.0,
        seed=int(rng.integers(2**31)),
    )


def _nodes(rng: np.random.Generator, shape: tuple[int, ...], spread: float) -> Float32:
    return np.asarray(spread * rng.standard_normal(shape, dtype=np.float32), np.float32)


def _matrix(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Turns about the three axes, one scale, and a little stretch along each axis."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(rng.uniform(-1, 1, 3) * LARGEST_TURN_DEG)):
        turn = np.eye(3)
        one, other = (axis + 1) % 3, (axis + 2) % 3
        turn[[one, other], [one, other]] = math.cos(angle)
        turn[one, other], turn[other, one] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    scale = LARGEST_SCALE ** rng.uniform(-1, 1) * LARGEST_STRETCH ** rng.uniform(-1, 1, 3)
    return np.asarray(matrix * scale)


def _by_axis(
    rng: np.random.Generator,
    none: float,
    along_one: tuple[float, float],
    along_all: tuple[float, float],
) -> tuple[float, float, float]:
    """Much along one axis, as thick slices have it, or a little along all."""
    values = np.full(3, float(none))
    if rng.random() < 0.5:
        values[rng.integers(3)] = rng.uniform(*along_one)
    else:
        values[:] = rng.uniform(*along_all)
    return float(values[0]), float(values[1]), float(values[2])


@dataclass(frozen=True)
class Crop:
    """What a patch is made from; arrays share one shape (X, Y, Z), at least the patch's.

    They are no tensors, each of which would take an open file on its way between processes.

    Attributes:
        image: float16 scores as stored.
        labels: uint8 lesions.
        depth: int8 as stored.
        regions: int16 nearest lesion, where the loss asks for it.
        centre: of the patch, in voxels of the crop.
        mean: of ``image`` inside the mask that the variation asks for.
        deviation: likewise.
        variation: what is done.
    """

    image: Array
    labels: Array
    depth: Array
    regions: Array | None
    centre: npt.NDArray[np.float64]
    mean: float
    deviation: float
    variation: Variation


@dataclass(frozen=True)
class Batch:
    """Patches of shape (N, 1, P, P, P): float32 images, targets and weights.

    ``regions``, int16, are what the loss asks for: each lesion's
    :func:`brainmets.training.loss.surroundings`, or its voxels, or 0.
    """

    image: Tensor
    target: Tensor
    weight: Tensor
    regions: Tensor


def augment(crops: Sequence[Crop], training: Training, device: str = "cpu") -> Batch:
    """Turn crops into a batch on ``device``.

    Args:
        crops: one for each patch.
        training: side of the patch, and the loss.
        device: where to compute.
    """
    shape = (len(crops), 1, *(training.patch_vox,) * 3)
    image, target, weight = (torch.empty(shape, device=device) for _ in range(3))
    batch = Batch(image, target, weight, torch.zeros(shape, dtype=torch.int16, device=device))
    for place, crop in enumerate(crops):
        patch = Batch(*(t[place, 0] for t in vars(batch).values()))
        _augment(crop, training, torch.device(device), patch)
    return batch


def _augment(crop: Crop, training: Training, device: torch.device, patch: Batch) -> None:
    """Write one patch: tensors of shape (P, P, P)."""
    does, side = crop.variation, training.patch_vox
    image, depth, labels, regions = _placed(crop, side, device)
    ends = grown(does.waves_mm / DEPTH_STEP_MM, side, device).add_(does.level_mm / DEPTH_STEP_MM)
    seen = ends.ge_(depth)  # 1 or 0
    image = image.sub_(crop.mean).mul_(1 / crop.deviation)
    torch.mul(distort(image, does), seen, out=patch.image)
    lesions = labels.mul_(seen.to(torch.uint8))
    torch.gt(lesions, 0, out=patch.target)
    weigh_lesions(lesions, patch.weight)
    if regions is not None:
        patch.regions.copy_(regions)
    elif training.loss == "dice+ce+blob":
        patch.regions.copy_(lesions)


def _placed(
    crop: Crop, side: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Image (float32), depth, labels (uint8) and regions on the patch's grid; all new tensors."""
    image, depth, labels = (
        torch.from_numpy(a).to(device) for a in (crop.image, crop.depth, crop.labels)
    )
    regions = None if crop.regions is None else torch.from_numpy(crop.regions).to(device)
    does = crop.variation
    if does.matrix is None:
        image, depth, labels = (t.flip(does.flips) for t in (image, depth, labels))
        return image.float(), depth, labels, None if regions is None else regions.flip(does.flips)
    where = _points(does, crop.centre, side, device)
    near = _nearest(where, image.shape)
    there = None if regions is None else regions.flatten()[near]
    return _linear(image.float(), where), depth.flatten()[near], labels.flatten()[near], there


def _points(
    does: Variation, centre: npt.NDArray[np.float64], side: int, device: torch.device
) -> Tensor:
    """Where each voxel of the patch lies in the crop: (3, P, P, P), in voxels."""
    matrix = np.eye(3) if does.matrix is None else does.matrix.copy()
    matrix[:, list(does.flips)] *= -1
    steps = torch.arange(side, dtype=torch.float32, device=device) - (side - 1) / 2
    if does.shifts is None:
        places = torch.zeros((3, side, side, side), device=device)
    else:
        places = grown(does.shifts, side, device).flip([axis + 1 for axis in does.flips])
    for place, row, middle in zip(places, matrix.tolist(), centre.tolist(), strict=True):
        place.add_((row[0] * steps)[:, None, None] + (row[1] * steps + middle)[:, None])
        place.add_(row[2] * steps)
    return places


def _linear(image: Tensor, places: Tensor) -> Tensor:
    """Values at places given in voxels, beyond the border its last value (trilinear)."""
    sizes = torch.tensor(image.shape, device=image.device)[:, None, None, None]
    scaled = (places * (2 / (sizes - 1).clamp_min(1))).sub_(1).flip(0)
    return functional.grid_sample(
        image[None, None], scaled.permute(1, 2, 3, 0)[None], "bilinear", "border",
        align_corners=True,
    )[0, 0]  # fmt: skip


def _nearest(places: Tensor, shape: Sequence[int]) -> Tensor:
    """Number of the nearest voxel, counted through an array of ``shape``."""
    index = torch.zeros(places.shape[1:], dtype=torch.int64, device=places.device)
    for place, size in zip(places, shape, strict=True):
        index.mul_(size).add_(place.round().clamp_(0, size - 1).long())
    return index


def grown(nodes: Float32, side: int, device: torch.device) -> Tensor:
    """Values at nodes, the first and last at the patch's ends, made continuous (trilinear).

    Axis by axis as matrix products, which is several times faster than resampling.
    """
    count = nodes.shape[-1]
    at = torch.linspace(0, count - 1, side, device=device)
    near = (1 - (at[:, None] - torch.arange(count, device=device)).abs()).clamp_min(0)
    values = torch.from_numpy(nodes).to(device) @ near.T
    values = near @ values
    whole: Tensor = near @ values.reshape(*values.shape[:-2], side * side)
    return whole.reshape(*nodes.shape[:-3], side, side, side)


def distort(image: Tensor, does: Variation) -> Tensor:
    """Light, contrast, sharpness and noise of a cube of Z-scores, which may be written over."""
    side = len(image)
    if does.field is not None:
        image = image.sub_(DARK_Z).mul_(grown(does.field, side, image.device).exp_()).add_(DARK_Z)
    image = image.mul_(does.gain).add_(does.offset)
    if does.gamma != 1:
        image = bend(image, does.gamma)
    for axis, width in enumerate(does.blur_vox):
        image = blur(image, axis, width)
    if max(does.coarse) > 1:
        image = coarsen(image, does.coarse)
    if does.noise:
        generator = torch.Generator(image.device).manual_seed(does.seed)
        noise = torch.randn(image.shape, generator=generator, device=image.device)
        image = image.add_(noise, alpha=does.noise)
    return image


def bend(image: Tensor, gamma: float) -> Tensor:
    """Gamma on the range −4 … 8, which holds nearly all Z-scores; order is kept."""
    share = (image - DARK_Z).mul_(1 / RANGE_Z).clamp_(0, 1)
    bent = image.add(share, alpha=-RANGE_Z)
    return bent.add_(share.pow_(gamma), alpha=RANGE_Z)


def blur(image: Tensor, axis: int, width_vox: float) -> Tensor:
    """A Gaussian along one axis, cut at four deviations; beyond the border lies its last value.

    A sum of shifted images: several times faster than a convolution of one channel.
    """
    if not width_vox:
        return image
    reach = math.ceil(4 * width_vox)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width_vox) ** 2)
    length = image.shape[axis]
    index = torch.arange(-reach, length + reach, device=image.device).clamp(0, length - 1)
    wide = image.index_select(axis, index)
    blurred = torch.zeros_like(image)
    for start, weight in enumerate(weights / weights.sum()):
        blurred.add_(wide.narrow(axis, start, length), alpha=float(weight))
    return blurred


def coarsen(image: Tensor, factors: Sequence[float]) -> Tensor:
    """Make voxels longer by ``factors``, and cut them again to the old length (trilinear)."""
    shape = list(image.shape)
    fewer = [max(2, round(n / factor)) for n, factor in zip(shape, factors, strict=True)]
    for size in (fewer, shape):
        image = functional.interpolate(image[None, None], size, mode="trilinear")[0, 0]
    return image


def weigh_lesions(labels: Tensor, weight: Tensor) -> None:
    """Weights that keep small lesions from drowning in large ones.

    Each lesion's voxels weigh √(1000 / voxels), limited to 1 … 8; background weighs 1.

    Args:
        labels: uint8.
        weight: float32 of the same shape, to be written.
    """
    weight.fill_(1)
    where = labels.nonzero(as_tuple=True)
    found = labels[where].long()
    voxels = torch.bincount(found, minlength=256)
    weight[where] = (1000 / voxels.clamp(min=1)).sqrt().clamp(1, 8)[found]
