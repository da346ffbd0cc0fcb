"""Random patches: which case, and where in it.

Everything is a function of (seed, step), so a resumed run sees what an uninterrupted one
would have seen. The mask ends 1 mm inside to 4 mm outside the brain's surface, by chance, so
that any extractor that meets the contract may serve, and scans whose skull is off too.
"""

import multiprocessing
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from torch.utils.data import DataLoader, Dataset

from brainmets.config import Recipe, Training
from brainmets.simulate.pasting import paste
from brainmets.training.augment import Batch, Crop, Variation, augment, vary
from brainmets.training.loss import surroundings
from brainmets.training.store import LEVELS_MM, PreparedCase, Stored
from brainmets.volume import Array

MOST_PASTED = 3
SPACING_MM = Recipe().spacing_mm
"""Of the voxels that simulated metastases are measured in; exact for the default recipe."""


def draw_batch(
    cases: Sequence[PreparedCase],
    training: Training,
    step: int,
    device: str = "cpu",
    share: Collection[int] | None = None,
) -> Batch:
    """The batch of one step, or a share of its patches, computed on ``device``."""
    return augment(draw(cases, training, step, share), training, device)


def draw(
    cases: Sequence[PreparedCase],
    training: Training,
    step: int,
    share: Collection[int] | None = None,
) -> tuple[Crop, ...]:
    """What the batch of one step is made from, read from the store.

    Args:
        cases: to draw from.
        training: settings.
        step: which batch.
        share: which patches of it; None: all. Each is the same whatever the share.
    """
    rng = np.random.default_rng([training.seed, step])
    chosen = rng.choice(len(cases), training.batch, replace=len(cases) < training.batch)
    return tuple(
        _crop(cases[int(chosen[i])], training, np.random.default_rng([training.seed, step, i]))
        for i in (range(training.batch) if share is None else share)
    )


class _Steps(Dataset[Batch | tuple[Crop, ...]]):
    """The batch of every step, or what it is made from."""

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        training: Training,
        share: Collection[int] | None,
        *,
        finished: bool,
    ) -> None:
        self.cases, self.training, self.share, self.finished = cases, training, share, finished

    def __getitem__(self, step: int) -> Batch | tuple[Crop, ...]:
        if self.finished:
            return draw_batch(self.cases, self.training, step, share=self.share)
        return draw(self.cases, self.training, step, self.share)


def drawn_ahead(
    cases: Sequence[PreparedCase],
    training: Training,
    steps: range,
    workers: int,
    device: str = "cpu",
    share: Collection[int] | None = None,
) -> Iterator[Batch]:
    """The batches of ``steps``, in order, on ``device``.

    Args:
        cases: to draw from.
        training: settings.
        steps: which batches.
        workers: processes that draw while the network learns; with 1, or where processes
            cannot be forked, each batch is drawn when it is asked for. For a GPU they only
            read: it augments what they read.
        device: ``cpu`` or ``cuda``.
        share: which patches of each batch; None: all.
    """
    if workers <= 1 or "fork" not in multiprocessing.get_all_start_methods():
        return (draw_batch(cases, training, step, device, share) for step in steps)
    on_cpu = device == "cpu"
    loader = DataLoader(
        _Steps(cases, training, share, finished=on_cpu), batch_size=None, sampler=steps,
        num_workers=workers, multiprocessing_context="fork", prefetch_factor=3,
    )  # fmt: skip
    if on_cpu:
        return iter(loader)
    return (augment(crops, training, device) for crops in loader)


def _crop(case: PreparedCase, training: Training, rng: np.random.Generator) -> Crop:
    does = vary(training, rng)
    side = training.patch_vox
    middle = _corner(case, training, does, rng) + (side - 1) / 2
    reach = does.reach(side)
    start = np.floor(middle - reach + 1e-6).astype(np.int64)
    stop = np.ceil(middle + reach - 1e-6).astype(np.int64) + 1
    image, labels, depth = (
        _cut(a, start, stop, fill)
        for a, fill in ((case.image, 0), (case.labels, 0), (case.depth, 127))
    )
    if training.paste_share and rng.random() < training.paste_share:
        image, labels = _pasted(image, labels, depth, rng)
    mean, deviation = (
        float(np.interp(does.level_mm, LEVELS_MM, values))
        for values in zip(*case.levels, strict=True)
    )
    centre = np.asarray(middle - start, np.float64)
    return Crop(image, labels, depth, _regions(labels, training), centre, mean, deviation, does)


def _pasted(
    image: Array, labels: Array, depth: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """A crop with simulated metastases besides, numbered on from those it has."""
    count = int(rng.integers(1, MOST_PASTED + 1))
    painted, cores = paste(image, depth < 0, labels > 0, count, rng, spacing_mm=SPACING_MM)
    numbered, _ = ndimage.label(cores, np.ones((3, 3, 3)))
    most = np.iinfo(labels.dtype).max  # as in the store, lesions beyond share the last number
    new = np.minimum(numbered + int(labels.max(initial=0)), most)
    return painted.astype(image.dtype), np.where(cores, new, labels).astype(labels.dtype)


def _regions(labels: Array, training: Training) -> Array | None:
    """What the loss asks for besides the lesions themselves."""
    return surroundings(labels > 0) if training.loss == "dice+ce+cc" else None


def _corner(
    case: PreparedCase, training: Training, does: Variation, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """First voxel: near a lesion drawn with equal chances, or anywhere in the box.

    The lesion's place is drawn in the patch: turning and scaling do not push it out.
    """
    side = training.patch_vox
    if case.lesions and rng.random() < training.lesion_share:
        lesion = np.asarray(case.lesions[int(rng.integers(len(case.lesions)))])
        off = rng.integers(-side // 3, side // 3 + 1, 3)
        centre = lesion + np.rint(off if does.matrix is None else does.matrix @ off).astype(int)
    else:
        centre = rng.integers(0, case.image.shape)
    slack = np.asarray(case.image.shape) - side
    low, high = np.minimum(0, slack), np.maximum(0, slack)
    return np.asarray(np.clip(centre - side // 2, low, high))


def _cut(
    array: Stored, start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64], fill: int
) -> Array:
    """A block of a stored array, filled with ``fill`` where it sticks out."""
    block = np.full(tuple(stop - start), fill, array.dtype)
    first = np.clip(start, 0, array.shape)
    last = np.maximum(first, np.minimum(stop, array.shape))
    source = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    place = tuple(slice(a, b) for a, b in zip(first - start, last - start, strict=True))
    if block[place].size:
        block[place] = array[source]
    return block
