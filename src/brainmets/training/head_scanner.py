"""What a scanner does to a synthetic head: coil shading, slices, blur, noise, grey-value curve."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from brainmets.training.chance import Chance

THICKEST_MM = 7.0


def acquire(image: Tensor, spacing_mm: float, chance: Chance) -> Tensor:
    """The image as a scan shows it, of the same shape, 0 or more."""
    shading = chance.field(tuple(image.shape), 72 / spacing_mm)[0]
    image = image * torch.exp(chance.uniform(0, 0.4) * shading)
    image = _blurred(_slices(image, spacing_mm, chance), chance)
    image = image.clamp_min(0)
    if chance.happens(0.75):
        image = _noisy(image, chance.log_uniform(0.005, 0.15), chance)
    if chance.happens(0.6):
        top = image.max().clamp_min(1e-6)
        image = top * (image / top) ** math.exp(chance.uniform(-0.4, 0.4))
    return image


def _noisy(image: Tensor, level: float, chance: Chance) -> Tensor:
    """Rician noise of standard deviation ``level`` in each channel."""
    real, imaginary = (level * chance.normal(*image.shape) for _ in range(2))
    return torch.hypot(image + real, imaginary)


def _slices(image: Tensor, spacing_mm: float, chance: Chance) -> Tensor:
    """Half of the scans have slices of up to 7 mm along one axis."""
    if not chance.happens(0.5):
        return image
    axis = chance.index(3)
    whole = tuple(image.shape)
    shape = list(whole)
    thickness = chance.uniform(spacing_mm, max(THICKEST_MM, spacing_mm))
    shape[axis] = max(round(shape[axis] * spacing_mm / thickness), 2)
    thick = functional.interpolate(image[None, None], shape, mode="area")
    return functional.interpolate(thick, whole, mode="trilinear", align_corners=False)[0, 0]


def _blurred(image: Tensor, chance: Chance) -> Tensor:
    """Each axis averaged with its neighbours, up to a triangle three voxels wide."""
    for axis in range(3):
        share = chance.uniform(0, 0.25)
        near = torch.cat([image.narrow(axis, 0, 1), image, image.narrow(axis, -1, 1)], axis)
        size = image.shape[axis]
        sides = near.narrow(axis, 0, size) + near.narrow(axis, 2, size)
        image = (1 - 2 * share) * image + share * sides
    return image
