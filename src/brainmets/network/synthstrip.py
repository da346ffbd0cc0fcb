"""SynthStrip's U-Net: one image in, a signed distance to the brain's surface out.

Hoopes A, Mora JS, Dalca AV, Fischl B, Hoffmann M. SynthStrip: skull-stripping for any
brain image. NeuroImage 2022;260:119474. Module names and shapes are those of the
published checkpoint (``synthstrip.1.pt``), so its state dict loads unchanged. With other
sizes the same class is the built-in extractor, which differs in two ways: it handles a
block of 2³ voxels as one, so that most of its work is done at half the resolution, and it
gives two distances.
"""

from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from brainmets.network.strip_sizes import StripSizes


class Convolution(nn.Module):
    """A 3³ convolution, then LeakyReLU unless it is the last one."""

    def __init__(self, inputs: int, outputs: int, *, activate: bool = True) -> None:
        """Make a convolution from ``inputs`` to ``outputs`` channels."""
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, padding=1)
        self.activate = activate

    def forward(self, image: Tensor) -> Tensor:
        """Map (batch, inputs, x, y, z) to (batch, outputs, x, y, z)."""
        return self.finish(self.conv(image))

    def join(self, image: Tensor, skip: Tensor) -> Tensor:
        """Upsample ``image`` to the nearest, put ``skip`` behind it, and convolve both.

        Out of training, what comes from ``image`` is computed at its own resolution: the
        same sum, with 8 products for 27 and without the upsampled image in memory.
        """
        if self.training:
            image = functional.interpolate(image, scale_factor=2.0, mode="nearest")
            return self.finish(self.conv(torch.cat([image, skip], dim=1)))
        weight = self.conv.weight
        count = image.shape[1]
        found = functional.conv3d(skip, weight[:, count:], self.conv.bias, padding=1)
        return self.finish(add_upsampled_convolution(found, image, weight[:, :count]))

    def finish(self, image: Tensor) -> Tensor:
        """LeakyReLU, in place, unless this is the last convolution."""
        return functional.leaky_relu(image, 0.2, inplace=True) if self.activate else image


def _chain(inputs: int, widths: Sequence[int]) -> nn.ModuleList:
    sizes = [inputs, *widths]
    return nn.ModuleList(Convolution(a, b) for a, b in pairwise(sizes))


class SynthStrip(nn.Module):
    """The U-Net. In: (batch, 1, x, y, z), 0…1. Out: (batch, fields, x, y, z), mm.

    Distances are negative inside.

    Each side must be a multiple of ``sizes.multiple``. The decoder's first convolutions
    work at the lowest resolution; ``remaining`` are those at full resolution.
    """

    def __init__(self, sizes: StripSizes | None = None) -> None:
        """Make the network with random weights."""
        super().__init__()
        self.sizes = sizes or StripSizes()
        widths, repeats = self.sizes.widths, self.sizes.convolutions
        upward = widths[:-1]
        voxels = self.sizes.block**3
        befores = (voxels, *upward)
        self.encoder = nn.ModuleList(
            _chain(before, [width] * repeats)
            for before, width in zip(befores, upward, strict=False)
        )
        self.decoder = nn.ModuleList()
        inputs = widths[-2]
        for width, skip in zip(reversed(widths[1:]), reversed(upward), strict=True):
            self.decoder.append(_chain(inputs, [width] * repeats))
            inputs = width + skip
        self.remaining = _chain(inputs, [widths[0]] * repeats)
        self.remaining.append(Convolution(widths[0], self.sizes.fields * voxels, activate=False))

    def forward(self, image: Tensor) -> Tensor:
        """Predict the signed distances (mm) of each voxel to the brain's surfaces."""
        image = blocks_to_channels(image, self.sizes.block)
        skips = []
        for convolutions in self.encoder:
            image = _through(convolutions, image)
            skips.append(image)
            image = functional.max_pool3d(image, 2)
        image = _through(self.decoder[0], image)
        for convolutions in [*self.decoder, self.remaining][1:]:
            first, *others = convolutions.children()
            image = first.join(image, skips.pop())
            for convolution in others:
                image = convolution(image)
        return channels_to_blocks(image, self.sizes.block)

    def distances(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The same from array (x, y, z) to array (fields, x, y, z), without gradients."""
        batch = torch.from_numpy(image[None, None]).to(memory_format=torch.channels_last_3d)
        with torch.inference_mode():
            return np.asarray(self(batch)[0].numpy(), np.float32)

    def release(self) -> None:
        """Keep what is there: PyTorch holds the weights alone between images."""


def add_upsampled_convolution(total: Tensor, image: Tensor, weight: Tensor) -> Tensor:
    """Add to ``total`` a 3³ convolution of ``image`` upsampled to the nearest, in place.

    Along each axis an upsampled voxel sees two voxels of ``image``: three weights become
    two, for even and for odd voxels in their own way.

    Args:
        total: (batch, outputs, 2x, 2y, 2z).
        image: (batch, inputs, x, y, z).
        weight: (outputs, inputs, 3, 3, 3).
    """
    around = functional.pad(image, (1,) * 6)
    for odd in product((0, 1), repeat=3):
        kernel = weight
        for axis, side in enumerate(odd, start=2):
            before, middle, after = kernel.unbind(axis)
            pair = (before + middle, after) if side else (before, middle + after)
            kernel = torch.stack(pair, axis)
        x, y, z = (slice(side, side + n + 1) for side, n in zip(odd, image.shape[2:], strict=True))
        kernel = kernel.contiguous(memory_format=torch.channels_last_3d)
        part = functional.conv3d(around[:, :, x, y, z], kernel)
        total[:, :, odd[0] :: 2, odd[1] :: 2, odd[2] :: 2] += part
    return total


def blocks_to_channels(image: Tensor, side: int) -> Tensor:
    """Each cube of ``side``³ voxels becomes the channels of one.

    Args:
        image: (batch, channels, x, y, z); x, y and z are multiples of ``side``.
        side: of the cubes.

    Returns:
        Shape (batch, channels × side³, x/side, y/side, z/side).
    """
    if side == 1:
        return image
    batch, channels, *shape = image.shape
    x, y, z = (n // side for n in shape)
    cubes = image.reshape(batch, channels, x, side, y, side, z, side)
    ordered = cubes.permute(0, 1, 3, 5, 7, 2, 4, 6)
    return ordered.reshape(batch, channels * side**3, x, y, z)


def channels_to_blocks(image: Tensor, side: int) -> Tensor:
    """The inverse of :func:`blocks_to_channels`."""
    if side == 1:
        return image
    batch, channels, x, y, z = image.shape
    cubes = image.reshape(batch, channels // side**3, side, side, side, x, y, z)
    ordered = cubes.permute(0, 1, 5, 2, 6, 3, 7, 4)
    return ordered.reshape(batch, channels // side**3, x * side, y * side, z * side)


def _through(convolutions: nn.Module, image: Tensor) -> Tensor:
    for convolution in convolutions.children():
        image = convolution(image)
    return image


def scale_intensity(image: Tensor) -> Tensor:
    """Minimum to 0, 99th percentile to 1, clipped: the input that the network expects.

    A constant image becomes 0 everywhere.
    """
    image = image - image.min()
    flat = image.flatten()
    place = 0.99 * (len(flat) - 1)
    below = flat.kthvalue(int(place) + 1).values
    above = flat.kthvalue(min(int(place) + 2, len(flat))).values
    top = below + (place - int(place)) * (above - below)
    return (image / top.clamp_min(1e-20)).clamp(0, 1)
