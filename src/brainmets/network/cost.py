"""What a network costs: its arithmetic, and how fast this machine multiplies matrices."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from brainmets.config import Architecture
from brainmets.network.engines import Engine, Tile

STAGES = ((1, 3), (2, 4), (4, 6), (8, 3))
"""ResNet-34: width, in multiples of the first, and blocks of each stage."""


def floating_point_operations(architecture: Architecture, shape: tuple[int, ...]) -> float:
    """Of the convolutions for one tile (X, Y, Z): two for each product, borders included.

    As PyTorch's ``FlopCounterMode`` counts them, which a test holds against this.
    """
    width, full = architecture.width, architecture.full_resolution_channels
    voxels, inputs = float(np.prod(shape)), architecture.in_channels
    products = 343 * inputs * width * voxels / 8 + 27 * inputs * full * voxels
    channels = width
    for number, (times, blocks) in enumerate(STAGES):
        outputs, places = times * width, voxels / 8 ** (number + 2)
        products += 27 * outputs * (channels + (2 * blocks - 1) * outputs) * places
        products += channels * outputs * places * (channels != outputs)
        channels = outputs
    skips = (4 * width, 2 * width, width, width, full)
    outs = (4 * width, 2 * width, width, max(8, width // 2), max(8, width // 4))
    for number, (skip, outputs) in enumerate(zip(skips, outs, strict=True)):
        products += 27 * outputs * (channels + skip + outputs) * voxels / 8 ** (4 - number)
        channels = outputs
    return 2 * (products + 27 * channels * voxels)


def bytes_per_voxel(architecture: Architecture, engine: str) -> float:
    """Memory that a tile takes in the network, for each of its voxels.

    It peaks at full resolution, in the decoder's last block: its input, its output, the skip
    kept for it, the image. Measured: 132 bytes for width 16 with 8 channels at full resolution
    and 192 for width 64 in float32 on OpenVINO, 235 and 343 on PyTorch.

    Args:
        architecture: of the network.
        engine: its name, which tells library and precision.
    """
    width, full = architecture.width, architecture.full_resolution_channels
    numbers = max(8, width // 2) + max(8, width // 4) + 2 * full + architecture.in_channels
    size = 2 if "openvino" in engine and "bfloat16" in engine else 4
    return numbers * size * (1 if "openvino" in engine else 1.8)


def matrix_product(side: int, precision: str) -> Callable[[], object]:
    """A product of two square matrices, ready to be timed, on OpenVINO or else NumPy.

    Args:
        side: of the matrices.
        precision: ``f32`` or ``bf16``; NumPy has float32 alone.
    """
    from brainmets import concurrency
    from brainmets.network import openvino_engine

    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, side, side)).astype(np.float32)
    if not openvino_engine.is_installed():
        return lambda: one @ other
    return openvino_engine.product(one, other, precision, concurrency.threads())


def matrix_rate(precision: str, side: int = 2048, runs: int = 5) -> float:
    """The most operations a second this machine reaches in a matrix product."""
    run = matrix_product(side, precision)
    run()
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds)


@dataclass
class Timed:
    """An engine that notes how long it works.

    Attributes:
        engine: does the work.
        tiles: how many.
        seconds: spent in them.
        voxels: of them all.
    """

    engine: Engine
    tiles: int = 0
    seconds: float = 0.0
    voxels: int = 0

    @property
    def name(self) -> str:
        """Of the engine."""
        return self.engine.name

    def __call__(self, tile: Tile) -> Tile:
        """See :class:`brainmets.network.engines.Engine`."""
        started = time.perf_counter()
        found = self.engine(tile)
        self.seconds += time.perf_counter() - started
        self.tiles += 1
        self.voxels += tile.size
        return found
