"""Augmented patches by batchgeneratorsv2, nnU-Net's, from arrays in memory.

The chances and ranges are brainmets'; there is no receive field, and no brain mask that varies.
"""

from collections.abc import Callable
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

PACKAGES = ("batchgeneratorsv2",)
SIDE, KINDS = 128, ("image", "labels")
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


def drawer(folder: Path) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Draws the patch of a number."""
    cases = [
        tuple(torch.from_numpy(np.load(folder / f"{kind}{number}.npy")) for kind in KINDS)
        for number in range(len(list(folder.glob("image*.npy"))))
    ]
    transforms = _transforms()

    def draw(number: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng(number)
        image, labels = cases[int(rng.integers(len(cases)))]
        start = [int(rng.integers(0, max(1, n - READ + 1))) for n in image.shape]
        block = tuple(slice(s, s + READ) for s in start)
        given = {"image": image[block].float()[None], "segmentation": labels[block][None].short()}
        done = transforms(**given)
        return done["image"], done["segmentation"]

    return draw
