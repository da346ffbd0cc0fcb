"""Smooth random fields."""

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional


def smooth_noise(
    shape: tuple[int, ...], scale_vox: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Gaussian noise of unit variance at the nodes of a coarse grid, interpolated linearly."""
    nodes = tuple(max(2, round(n / scale_vox) + 1) for n in shape)
    coarse = torch.from_numpy(rng.standard_normal(nodes, dtype=np.float32))
    fine = functional.interpolate(coarse[None, None], shape, mode="trilinear", align_corners=True)
    return np.asarray(fine[0, 0].numpy(), np.float32)
