"""Augmented patches by batchgeneratorsv2, nnU-Net's, from arrays in memory.

The chances and ranges are brainmets'; there is no receive field, and no brain mask that varies.
"""

from pathlib import Path

import numpy as np
import torch
from batchgeneratorsv2.transforms.intensity.brightness import (
    BrightnessAdditiveTransform,
    MultiplicativeBrightnessTransform,
)
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from torch import Tensor
from torch.utils.data import Dataset

PACKAGES = ("batchgeneratorsv2",)
SIDE = 128
TURN = np.radians(15)
READ = 160
"""Side of the block that is cut for a patch to be turned in."""


def _transforms() -> ComposeTransforms:
    spatial = SpatialTransform(
        (SIDE,) * 3, 0, False, p_elastic_deform=0.15, elastic_deform_scale=(0.1, 0.2),
        elastic_deform_magnitude=(0, 2.5), p_rotation=0.3, rotation=(-TURN, TURN), p_scaling=0.3,
        scaling=(1 / 1.18, 1.18), p_synchronize_scaling_across_axes=1, mode_seg="nearest",
    )  # fmt: skip
    some = [
        (GammaTransform((0.7, 1.42), 0, False, 1, 1), 0.4),
        (GaussianBlurTransform((0.3, 1.0), False, False, 1), 0.3),
        (SimulateLowResolutionTransform((0.55, 1), False, True, None, None, 1), 0.15),
        (GaussianNoiseTransform((0, 0.0625), 1, True), 0.4),
    ]
    return ComposeTransforms([
        spatial,
        MultiplicativeBrightnessTransform((0.8, 1.25), False, 1),
        BrightnessAdditiveTransform(0, 0.1, True, 1),
        *(RandomTransform(transform, chance) for transform, chance in some),
        MirrorTransform((0, 1, 2)),
    ])  # fmt: skip


class _Patches(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, folder: Path, count: int) -> None:
        self.cases = [
            (torch.from_numpy(np.load(path)), torch.from_numpy(np.load(path.with_name(
                path.name.replace("image", "labels")
            ))))
            for path in sorted(folder.glob("image*.npy"))
        ]  # fmt: skip
        self.count, self.transforms = count, _transforms()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= self.count:
            raise IndexError(index)
        torch.set_num_threads(1)
        rng = np.random.default_rng(index)
        image, labels = self.cases[int(rng.integers(len(self.cases)))]
        start = [int(rng.integers(0, max(1, n - READ + 1))) for n in image.shape]
        block = tuple(slice(s, s + READ) for s in start)
        given = {"image": image[block].float()[None], "segmentation": labels[block][None].short()}
        done = self.transforms(**given)
        return done["image"], done["segmentation"]


def dataset(folder: Path, count: int) -> Dataset[tuple[Tensor, Tensor]]:
    """``count`` patches."""
    return _Patches(folder, count)
