"""Random draws from one seeded generator."""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional


class Chance:
    """What is drawn depends on the seed and on the order of the draws alone."""

    def __init__(self, seed: int) -> None:
        """Start the sequence of ``seed``."""
        self.generator = Generator().manual_seed(seed)

    def uniform(self, low: float, high: float) -> float:
        """A number between ``low`` and ``high``."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def log_uniform(self, low: float, high: float) -> float:
        """A number between ``low`` and ``high``, each octave as likely as any other."""
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def happens(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform(0, 1) < probability

    def index(self, count: int) -> int:
        """An integer in 0…count-1."""
        return int(torch.randint(count, (), generator=self.generator))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self.generator)

    def field(self, shape: tuple[int, ...], cell: float, channels: int = 1) -> Tensor:
        """Smooth noise of unit variance at its nodes, one node each ``cell`` voxels.

        Returns:
            Shape (channels, *shape).
        """
        nodes = [max(2, math.ceil(n / cell) + 1) for n in shape]
        coarse = self.normal(1, channels, *nodes)
        return functional.interpolate(coarse, shape, mode="trilinear", align_corners=True)[0]
