"""Augmented patches by MONAI's CacheDataset and transforms, from arrays in memory.

The chances and ranges are brainmets'; there is no brain mask that varies.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
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
from torch.utils.data import Dataset

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


class _Patches(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, folder: Path, count: int) -> None:
        files = [
            {"image": np.load(path).astype(np.float32)[None],
             "labels": np.load(path.with_name(path.name.replace("image", "labels")))[None]}
            for path in sorted(folder.glob("image*.npy"))
        ]  # fmt: skip
        self.cached = CacheDataset(
            files, Compose([EnsureTyped(BOTH), *_transforms()]), progress=False
        )
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= self.count:
            raise IndexError(index)
        torch.set_num_threads(1)
        drawn = self.cached[index % len(self.cached)]
        return drawn["image"].as_tensor(), drawn["labels"].as_tensor()


def dataset(folder: Path, count: int) -> Dataset[tuple[Tensor, Tensor]]:
    """``count`` patches."""
    return _Patches(folder, count)
