"""SynthStrip's U-Net: one image in, a signed distance to the brain's surface out.

Hoopes A, Mora JS, Dalca AV, Fischl B, Hoffmann M. SynthStrip: skull-stripping for any
brain image. NeuroImage 2022;260:119474. Module names and shapes are those of the
published checkpoint (``synthstrip.1.pt``), so its state dict loads unchanged; with
smaller sizes the same class is the built-in extractor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from brainmets.errors import ConfigError


@dataclass(frozen=True)
class StripSizes:
    """How large the network is; the defaults are the published ones.

    Attributes:
        features: channels at full resolution, doubled at each level.
        most_features: the most channels at any level.
        levels: resolutions, the full one included.
        convolutions: convolutions at each level, in the encoder and in the decoder.
    """

    features: int = 16
    most_features: int = 64
    levels: int = 7
    convolutions: int = 2

    def __post_init__(self) -> None:
        """Refuse sizes that describe no U-Net."""
        if min(self.features, self.most_features, self.convolutions) < 1 or self.levels < 2:
            raise ConfigError(f"{self}: expected at least 1 feature, 1 convolution and 2 levels")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each level, full resolution first.

        >>> StripSizes().widths
        (16, 32, 64, 64, 64, 64, 64)
        """
        return tuple(min(self.features * 2**n, self.most_features) for n in range(self.levels))

    @property
    def multiple(self) -> int:
        """Each side of the input must be a multiple of this many voxels."""
        return int(2 ** (self.levels - 1))


class Convolution(nn.Module):
    """A 3³ convolution, then LeakyReLU unless it is the last one."""

    def __init__(self, inputs: int, outputs: int, *, activate: bool = True) -> None:
        """Make a convolution from ``inputs`` to ``outputs`` channels."""
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, padding=1)
        self.activate = activate

    def forward(self, image: Tensor) -> Tensor:
        """Map (batch, inputs, x, y, z) to (batch, outputs, x, y, z)."""
        image = self.conv(image)
        return nn.functional.leaky_relu(image, 0.2) if self.activate else image


def _chain(inputs: int, widths: Sequence[int]) -> nn.ModuleList:
    sizes = [inputs, *widths]
    return nn.ModuleList(Convolution(a, b) for a, b in pairwise(sizes))


class SynthStrip(nn.Module):
    """The U-Net. In: (batch, 1, x, y, z), 0…1. Out: the same shape, mm, negative inside.

    Each side must be a multiple of ``sizes.multiple``. The decoder's first convolutions
    work at the lowest resolution; ``remaining`` are those at full resolution.
    """

    def __init__(self, sizes: StripSizes | None = None) -> None:
        """Make the network with random weights."""
        super().__init__()
        self.sizes = sizes or StripSizes()
        widths, repeats = self.sizes.widths, self.sizes.convolutions
        upward = widths[:-1]
        befores = (1, *upward)
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
        self.remaining.append(Convolution(widths[0], 1, activate=False))

    def forward(self, image: Tensor) -> Tensor:
        """Predict the signed distance (mm) of each voxel to the brain's surface."""
        skips = []
        for convolutions in self.encoder:
            image = _through(convolutions, image)
            skips.append(image)
            image = nn.functional.max_pool3d(image, 2)
        for convolutions in self.decoder:
            image = _through(convolutions, image)
            image = nn.functional.interpolate(image, scale_factor=2.0, mode="nearest")
            image = torch.cat([image, skips.pop()], dim=1)
        return _through(self.remaining, image)


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
