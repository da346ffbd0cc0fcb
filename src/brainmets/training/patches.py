"""Random patches: which case, where, how deep the brain mask cuts, how the image varies.

Everything is a function of (seed, step), so a resumed run sees what an uninterrupted one
would have seen. The mask ends 1 mm inside to 4 mm outside the brain's surface, by chance, so
that any extractor that meets the contract may serve, and scans whose skull is off too.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from brainmets.config import Training
from brainmets.training.loss import surroundings
from brainmets.training.store import DEPTH_STEP_MM, LEVELS_MM, PreparedCase, Stored
from brainmets.volume import Array


@dataclass(frozen=True)
class Batch:
    """Patches of shape (N, 1, P, P, P): float32 images, targets and weights.

    ``regions``, int16, are what the loss asks for: each lesion's
    :func:`brainmets.training.loss.surroundings`, or its voxels, or 0.
    """

    image: Tensor
    target: Tensor
    weight: Tensor
    regions: Tensor


def draw_batch(cases: Sequence[PreparedCase], training: Training, step: int) -> Batch:
    """The batch of one step."""
    rng = np.random.default_rng([training.seed, step])
    chosen = rng.choice(len(cases), training.batch, replace=len(cases) < training.batch)
    patches = [_draw_patch(cases[int(i)], training, rng) for i in chosen]
    return Batch(*(torch.stack(tensors)[:, None] for tensors in zip(*patches, strict=True)))


class _Steps(Dataset[Batch]):
    """The batch of every step."""

    def __init__(self, cases: Sequence[PreparedCase], training: Training) -> None:
        self.cases, self.training = cases, training

    def __getitem__(self, step: int) -> Batch:
        return draw_batch(self.cases, self.training, step)


def drawn_ahead(
    cases: Sequence[PreparedCase], training: Training, steps: range, workers: int
) -> Iterator[Batch]:
    """The batches of ``steps``, in order.

    Args:
        cases: to draw from.
        training: settings.
        steps: which batches.
        workers: processes that draw while the network learns; with 1, or where processes
            cannot be forked, each batch is drawn when it is asked for.
    """
    if workers <= 1 or "fork" not in multiprocessing.get_all_start_methods():
        return (draw_batch(cases, training, step) for step in steps)
    loader = DataLoader(
        _Steps(cases, training), batch_size=None, sampler=steps, num_workers=workers,
        multiprocessing_context="fork", prefetch_factor=3,
    )  # fmt: skip
    return iter(loader)


def _draw_patch(
    case: PreparedCase, training: Training, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    corner = _corner(case, training, rng)
    image, labels, depth = (
        _cut(a, corner, training.patch_vox, fill)
        for a, fill in ((case.image, 0), (case.labels, 0), (case.depth, 127))
    )
    level = float(rng.uniform(LEVELS_MM[0], LEVELS_MM[-1]))
    visible = depth * DEPTH_STEP_MM <= level + _waves(depth.shape, rng)
    flips = tuple(int(a) for a in np.flatnonzero(rng.random(3) < 0.5))
    seen = torch.from_numpy(np.ascontiguousarray(visible))
    grey = vary(torch.from_numpy(_rescored(image, case, level)), rng) * seen
    lesions = torch.from_numpy(labels.astype(np.int64)) * seen
    weight = lesion_weights(lesions)
    target = (lesions > 0).float()
    regions = torch.zeros(target.shape, dtype=torch.int16)
    if training.loss == "dice+ce+blob":
        regions = lesions.to(torch.int16)
    elif training.loss == "dice+ce+cc":
        regions = torch.from_numpy(surroundings(target.numpy() > 0))
    drawn = (grey, target, weight, regions)
    return tuple(t.flip(flips) if flips else t for t in drawn)  # type: ignore[return-value]


def _corner(
    case: PreparedCase, training: Training, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Near a lesion drawn with equal chances, or anywhere in the box."""
    side = training.patch_vox
    if case.lesions and rng.random() < training.lesion_share:
        centre = np.asarray(case.lesions[int(rng.integers(len(case.lesions)))])
        centre = centre + rng.integers(-side // 3, side // 3 + 1, 3)
    else:
        centre = rng.integers(0, case.image.shape)
    slack = np.asarray(case.image.shape) - side
    low, high = np.minimum(0, slack), np.maximum(0, slack)
    return np.asarray(np.clip(centre - side // 2, low, high))


def _cut(array: Stored, corner: npt.NDArray[np.int64], side: int, fill: int) -> Array:
    """A cube from a stored array, padded with ``fill`` where it sticks out."""
    patch = np.full((side, side, side), fill, array.dtype)
    start = np.maximum(corner, 0)
    stop = np.minimum(corner + side, array.shape)
    source = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    place = tuple(slice(a, b) for a, b in zip(start - corner, stop - corner, strict=True))
    patch[place] = array[source]
    return patch


def _rescored(image: Array, case: PreparedCase, level_mm: float) -> npt.NDArray[np.float32]:
    """Z-scores as they are where the mask ends at ``level_mm``, as in use."""
    mean, deviation = (
        np.interp(level_mm, LEVELS_MM, values) for values in zip(*case.levels, strict=True)
    )
    return np.asarray((image.astype(np.float32) - mean) / deviation, np.float32)


def _waves(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """How much the mask's end varies smoothly from place to place (mm)."""
    nodes = torch.from_numpy(rng.standard_normal((1, 1, 5, 5, 5), dtype=np.float32))
    wave = functional.interpolate(nodes, shape, mode="trilinear", align_corners=True)[0, 0]
    return np.asarray(rng.uniform(0, 1.2) * wave.numpy(), np.float32)


def vary(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Change contrast, sharpness and noise of one patch of Z-scores by chance."""
    image = image * rng.uniform(0.8, 1.25) + rng.uniform(-0.2, 0.2)
    if rng.random() < 0.4:
        image = _bend(image, float(np.exp(rng.uniform(-0.35, 0.35))))
    if rng.random() < 0.3:
        image = _soften(image, rng)
    if rng.random() < 0.4:
        noise = torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32))
        image = image + float(rng.uniform(0, 0.25)) * noise
    return image


def _bend(image: Tensor, gamma: float) -> Tensor:
    """Gamma on the range −4 … 8, which holds nearly all Z-scores; order is kept."""
    share = ((image + 4) / 12).clamp(0, 1)
    return image + 12 * (share**gamma - share)


def _soften(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur along one axis, as thick slices do, or a little along all."""
    values = image.numpy()
    if rng.random() < 0.5:
        axis = int(rng.integers(3))
        return torch.from_numpy(ndimage.gaussian_filter1d(values, rng.uniform(0.8, 2.5), axis))
    return torch.from_numpy(ndimage.gaussian_filter(values, rng.uniform(0.3, 0.8)))


def lesion_weights(labels: Tensor) -> Tensor:
    """Weights that keep small lesions from drowning in large ones.

    Each lesion's voxels weigh √(1000 / voxels), limited to 1 … 8; background weighs 1.
    """
    counts = torch.bincount(labels.flatten(), minlength=256).float()
    weight = (1000 / counts.clamp(min=1)).sqrt().clamp(1, 8)
    weight[0] = 1
    return weight[labels]
