"""The paper's network: a 3D U-Net whose encoder is a ResNet-34.

Encoder after He et al. 2016 (arXiv:1512.03385) with every kernel made cubic; its
parameter names equal torchvision's ``resnet34``, so that 2D ImageNet weights can be
inflated by name. Decoder after Ronneberger et al. 2015 (arXiv:1505.04597): nearest
upsampling, concatenation with the encoder's features, two convolutions.

Width 64 is the network of Shi et al. 2025 (Front Oncol 15:1657604) as far as the paper
describes it; width 16 to 32 is the light model. The optional full-resolution path
gives the last decoder block features that no stride has touched: a lesion of 3 mm is
four voxels wide, and the encoder's first step already halves the resolution.

Shapes: input (N, in_channels, X, Y, Z), output (N, 1, X, Y, Z) logits; X, Y and Z must be
multiples of 32.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from brainmets.config import Architecture
from brainmets.network.lean import (
    convolved,
    doubled,
    first_convolved,
    is_lean,
    normalised,
    plain,
    pooled,
)

STRIDE = 32
"""The encoder's total stride: sides of a tile are multiples of it."""


def _conv(into: int, out: int, kernel: int = 3, stride: int = 1) -> nn.Conv3d:
    return nn.Conv3d(into, out, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3³ convolutions with a shortcut; names as in torchvision's ``BasicBlock``."""

    def __init__(self, into: int, out: int, stride: int = 1) -> None:
        """A 1³ convolution carries the shortcut where shape changes."""
        super().__init__()
        self.conv1 = _conv(into, out, stride=stride)
        self.bn1 = nn.BatchNorm3d(out)
        self.conv2 = _conv(out, out)
        self.bn2 = nn.BatchNorm3d(out)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or into != out:
            self.downsample = nn.Sequential(_conv(into, out, 1, stride), nn.BatchNorm3d(out))

    def forward(self, x: Tensor, *, lean: bool = True) -> Tensor:
        """(N, into, …) → (N, out, … / stride).

        What is computed again as a whole need not be ``lean``.
        """
        shortcut = x
        if self.downsample is not None:
            conv, norm = self.downsample
            shortcut = norm(plain(conv, x))  # type: ignore[arg-type]
        x = normalised(self.bn1, plain(self.conv1, x))
        x = convolved(self.conv2, x) if lean else plain(self.conv2, x)
        return functional.relu(self.bn2(x) + shortcut)


class Encoder(nn.Module):
    """ResNet-34 in 3D without its classifier; gives one feature map per stride."""

    def __init__(self, in_channels: int, width: int) -> None:
        """Stages of 3, 4, 6 and 3 blocks with width × 1, 2, 4, 8 channels."""
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.layer1 = _stage(width, width, blocks=3, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks=4, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks=6, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, blocks=3, stride=2)
        self.recompute = False

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features at strides 2, 4, 8, 16 and 32."""
        half = normalised(self.bn1, first_convolved(self.conv1, x))
        deep = pooled(half)
        features = [half]
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                deep = _run(block, deep, recompute=self.recompute, lean=not self.recompute)
            features.append(deep)
        return features


def _stage(into: int, out: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(out, out) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(into, out, stride), *rest)


def _run(module: nn.Module, *given: Any, recompute: bool, **named: Any) -> Tensor:
    """What a module gives; if so wished, computed again for the gradient instead of kept.

    Chen et al. 2016 (arXiv:1604.06174). Gradients are the same; running statistics of
    normalisation move twice for each step.
    """
    if recompute and torch.is_grad_enabled():
        kept: Tensor = checkpoint(module, *given, use_reentrant=False, **named)
        return kept
    found: Tensor = module(*given, **named)
    return found


class DecoderBlock(nn.Module):
    """Double the resolution, join the encoder's features, convolve twice."""

    def __init__(self, into: int, skip: int, out: int) -> None:
        """``skip`` channels come from the encoder; 0 for none."""
        super().__init__()
        self.conv1 = _conv(into + skip, out)
        self.bn1 = nn.BatchNorm3d(out)
        self.conv2 = _conv(out, out)
        self.bn2 = nn.BatchNorm3d(out)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(N, into, …) → (N, out, … × 2)."""
        x = doubled(x)
        if not is_lean(x, self.bn1):
            x = self.conv1(x if skip is None else torch.cat([x, skip], dim=1))
        elif skip is None:
            x = convolved(self.conv1, x)
        else:  # two convolutions, and their sum: nothing is joined, nothing kept twice
            from_below = convolved(self.conv1, x, slice(x.shape[1]))
            x = from_below.add_(convolved(self.conv1, skip, slice(x.shape[1], None)))
        x = convolved(self.conv2, normalised(self.bn1, x))
        return normalised(self.bn2, x)


class FullResolution(nn.Sequential):
    """A convolution, normalised: features that no stride has touched."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, …) → (N, out, …)."""
        conv, norm = self
        return normalised(norm, first_convolved(conv, x))  # type: ignore[arg-type]


class UNet(nn.Module):
    """The whole network; see the module's docstring."""

    def __init__(self, architecture: Architecture) -> None:
        """Randomly initialised; the last bias starts at a lesion prevalence of 1 %."""
        super().__init__()
        width, full = architecture.width, architecture.full_resolution_channels
        self.encoder = Encoder(architecture.in_channels, width)
        self.full_resolution: nn.Module | None = None
        if full:
            self.full_resolution = FullResolution(
                _conv(architecture.in_channels, full), nn.BatchNorm3d(full)
            )
        skips = [4 * width, 2 * width, width, width, full]
        outs = [4 * width, 2 * width, width, max(8, width // 2), max(8, width // 4)]
        ins = [8 * width, *outs]
        self.decoder = nn.ModuleList(map(DecoderBlock, ins, skips, outs))
        self.head = nn.Conv3d(outs[-1], 1, 3, padding=1)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the same spatial shape as ``x``."""
        for finest in self.decoded(x):
            deep = finest
        return convolved(self.head, deep)

    def decoded(self, x: Tensor) -> Iterator[Tensor]:
        """What each stage of the decoder gives, coarsest first; the last has the shape of ``x``."""
        features = self.encoder(x)
        deep = features.pop()
        skips: list[Tensor | None] = list(reversed(features))
        skips.append(None if self.full_resolution is None else self.full_resolution(x))
        del features
        recompute = self.encoder.recompute and x.device.type != "cpu"  # there it is lean anyway
        for block in self.decoder:
            deep = _run(block, deep, skips.pop(0), recompute=recompute)
            yield deep


def _initialise(network: UNet) -> None:
    """He initialisation, fan out, as torchvision's ResNet does."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(network.head.weight, std=0.01)
    if network.head.bias is not None:
        nn.init.constant_(network.head.bias, -4.6)
