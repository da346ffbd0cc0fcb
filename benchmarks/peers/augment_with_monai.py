"""Augmented patches by MONAI's CacheDataset and transforms, from arrays in memory.

The chances and ranges are brainmets'; there is no brain mask that varies.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import CacheDataset
from monai.transforms import (
    Compose,
    EnsureTyped,
    Rand3DElasticd,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSimulateLowResolutiond,
    RandSpatialCropd,
)
from torch import Tensor

PACKAGES = ("monai",)
SIDE, READ = 128, 160
TURN = (np.radians(15),) * 3
BOTH, MODES = ("image", "labels"), ("bilinear", "nearest")


def _transforms() -> list[Any]:
    size = (SIDE,) * 3
    return [
        RandSpatialCropd(BOTH, (READ,) * 3, random_size=False),
        Rand3DElasticd(BOTH, (5, 7), (20, 60), size, prob=0.15, rotate_range=TURN,
                       scale_range=(0.15,) * 3, mode=MODES, padding_mode="border"),
        RandAffined(BOTH, size, prob=0.15, rotate_range=TURN, scale_range=(0.15,) * 3,
                    mode=MODES, padding_mode="border"),
        RandSpatialCropd(BOTH, size, random_center=False, random_size=False),
        RandBiasFieldd("image", prob=0.3),
        RandScaleIntensityd("image", 0.25, prob=1),
        RandShiftIntensityd("image", 0.2, prob=1),
        RandAdjustContrastd("image", prob=0.4, gamma=(0.7, 1.42)),
        RandGaussianSmoothd("image", (0.3, 1.0), (0.3, 1.0), (0.3, 1.0), prob=0.3),
        RandSimulateLowResolutiond("image", prob=0.15, zoom_range=(0.55, 1)),
        RandGaussianNoised("image", prob=0.4, std=0.25),
        *(RandFlipd(BOTH, prob=0.5, spatial_axis=axis) for axis in range(3)),
    ]  # fmt: skip


def drawer(folder: Path) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Draws the patch of a number."""
    cases = [
        {kind: np.load(folder / f"{kind}{number}.npy").astype(np.float32)[None] for kind in BOTH}
        for number in range(len(list(folder.glob("image*.npy"))))
    ]
    cached = CacheDataset(cases, Compose([EnsureTyped(BOTH), *_transforms()]), progress=False)

    def draw(number: int) -> tuple[Tensor, Tensor]:
        drawn = cached[number % len(cached)]
        return drawn["image"].as_tensor(), drawn["labels"].as_tensor()

    return draw
