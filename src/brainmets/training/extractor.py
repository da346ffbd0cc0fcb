"""Training the built-in brain extractor on heads that are synthesised as it learns."""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from torch import Tensor, nn

from brainmets.errors import ReadError
from brainmets.io.storage import whole_file, write_json
from brainmets.network.synthstrip import StripSizes, SynthStrip
from brainmets.training.synthetic_heads import (
    COARSE_MM,
    FURTHEST_MM,
    Dice,
    Head,
    draw,
    read_heads,
    variant,
)

SIZES = StripSizes(features=8, most_features=64, levels=5, convolutions=2)
HEADS = {"training": range(1, 15), "tuning": range(15, 17), "test": range(17, 21)}
"""Which of SynthSeg's label maps serve for what."""
BORDERS_MM = tuple(x / 4 for x in range(-4, 17))
MEASURED_IMAGES = 40
TUNING_SEED, TESTING_SEED = 715, 1720
LEARNING_RATE = 8e-4
OUTPUT_SCALE_MM = 10.0
"""While learning, the network's output times this is the distance; folded in at the end."""
Example = tuple[Tensor, Tensor, Tensor]
"""Image, signed distance (mm), field of view: each of shape WINDOW."""
Progress = Callable[[int, int, float], None]
"""Called with the step done, all steps, and the mean loss since the last call."""


def train_extractor(
    anatomy_folder: Path,
    out: Path,
    *,
    steps: int = 3000,
    seed: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train on label maps 01–14, choose the border on 15–16, test on 17–20.

    Args:
        anatomy_folder: holds ``training_seg_01.nii.gz`` … ``_20.nii.gz`` (SynthSeg's maps).
        out: the ``.safetensors`` file to write; the card gets the same name with ``.json``.
        steps: images seen, one a step; every second one is a variant of one seen before.
        seed: fixes weights and images; threads and CPU type may change the last digits.
        progress: called every 25 steps.

    Returns:
        The card.

    Raises:
        ReadError: a label map is missing or unusable.
        WriteError: ``out`` cannot be written.
    """
    training, tuning, testing = (_paths(anatomy_folder, n) for n in HEADS.values())
    network = fit(read_heads(training), SIZES, steps=steps, seed=seed, progress=progress)
    with whole_file(out) as temporary:
        temporary.write_bytes(save({k: v.contiguous() for k, v in network.state_dict().items()}))
    card = {
        **describe(steps, seed),
        **measure(network, read_heads(tuning), read_heads(testing)),
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
    }
    write_json(out.with_suffix(".json"), card)
    return card


def _paths(folder: Path, numbers: Sequence[int]) -> list[Path]:
    paths = [folder / f"training_seg_{n:02d}.nii.gz" for n in numbers]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise ReadError(f"{folder.name}: {', '.join(missing)} missing; expected label maps 01–20")
    return paths


def describe(steps: int, seed: int) -> dict[str, Any]:
    """The part of the card that is known before any result."""
    names = {part: [f"training_seg_{n:02d}" for n in numbers] for part, numbers in HEADS.items()}
    return {
        "name": "brainmets built-in brain extractor",
        "version": "1",
        "architecture": asdict(SIZES),
        "spacing_mm": COARSE_MM,
        "recipe": {
            "images": "synthetic heads of random contrast, drawn anew each step",
            "steps": steps,
            "seed": seed,
            "optimiser": "AdamW, one-cycle",
            "learning_rate": LEARNING_RATE,
            "precision": "bfloat16 autocast",
        },
        "data": {
            **names,
            "source": "SynthSeg training label maps (BBillot/SynthSeg), Apache-2.0",
            "contract": "brain + CSF; the spinal canal ends 5 mm below brain stem and cerebellum",
        },
        "limits": [
            "trained on images synthesised from 14 label maps of adults, on no real scan",
            "works at 3 mm: thin sulci and dura at the surface are decided by interpolation",
            "not tested on newborns, after large craniotomies, or on other than head scans",
        ],
        "licence": "Apache-2.0",
    }


def measure(network: SynthStrip, tuning: list[Head], testing: list[Head]) -> dict[str, Any]:
    """Choose the border on tuning heads; recall and Dice on those and on test heads."""
    tuned = mask_scores(network, tuning, BORDERS_MM, images=MEASURED_IMAGES, seed=TUNING_SEED)
    border = choose_border(tuned, BORDERS_MM)
    place = BORDERS_MM.index(border)
    tested = mask_scores(network, testing, [border], images=MEASURED_IMAGES, seed=TESTING_SEED)
    results = {
        "tuning, simulated": _summary(tuned[:, place]),
        "test, simulated": _summary(tested[:, 0]),
    }
    return {"border_mm": border, "results": results}


def _summary(scores: npt.NDArray[np.float64]) -> dict[str, float]:
    recall, dice = scores[~np.isnan(scores[:, 0])].T
    return {
        "images": len(dice),
        "median_recall": round(float(np.median(recall)), 4),
        "mean_recall": round(float(recall.mean()), 4),
        "least_recall": round(float(recall.min()), 4),
        "mean_dice": round(float(dice.mean()), 4),
        "least_dice": round(float(dice.min()), 4),
    }


def example(heads: list[Head], seed: int, number: int, *, only_t1: bool = False) -> Example:
    """Example ``number`` of a seed: a function of these alone, whichever thread draws it."""
    return draw(heads, Dice(seed * 1_000_003 + number), only_t1=only_t1)


def _examples(heads: list[Head], seed: int, count: int) -> Iterator[Example]:
    """``count`` examples, each of :func:`example` followed some steps later by its variant.

    Drawing costs as much as learning, so it happens in another thread, and serves twice.
    """
    fresh = -(-count // 2)
    recent: deque[Example] = deque(maxlen=8)
    with ThreadPoolExecutor(1) as pool:
        ahead = deque(pool.submit(example, heads, seed, n) for n in range(min(3, fresh)))
        for number in range(count):
            if number % 2 == 0:
                recent.append(ahead.popleft().result())
                if number // 2 + 3 < fresh:
                    ahead.append(pool.submit(example, heads, seed, number // 2 + 3))
                yield recent[-1]
            else:
                yield variant(recent[0], Dice(seed * 1_000_003 + 500_000 + number))


def fit(
    heads: list[Head],
    sizes: StripSizes,
    *,
    steps: int,
    seed: int,
    progress: Progress | None = None,
) -> SynthStrip:
    """A network trained for ``steps`` images of ``heads``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _start(SynthStrip(sizes))
    # torch's annotations of ``to`` lack memory_format
    network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=max(steps, 2), pct_start=0.1
    )
    losses = []
    for step, (image, distance, seen) in enumerate(_examples(heads, seed, steps), 1):
        losses.append(_learn(network, optimiser, image, distance, seen))
        schedule.step()
        if progress and (step % 25 == 0 or step == steps):
            progress(step, steps, float(np.mean(losses)))
            losses.clear()
    return _fold_in_scale(network).eval()


def _start(network: SynthStrip) -> SynthStrip:
    """Weights that keep the signal's size through all layers (He 2015); there is no norm layer."""
    for name, parameter in network.named_parameters():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(parameter, a=0.2)
        else:
            nn.init.zeros_(parameter)
    nn.init.normal_(_last_parameters(network)[0], std=0.01)
    return network


def _last_parameters(network: SynthStrip) -> list[nn.Parameter]:
    """Weight and bias of the convolution that gives the distance."""
    return list(network.parameters())[-2:]


def _fold_in_scale(network: SynthStrip) -> SynthStrip:
    with torch.no_grad():
        for parameter in _last_parameters(network):
            parameter.mul_(OUTPUT_SCALE_MM)
    return network


def _learn(
    network: SynthStrip,
    optimiser: torch.optim.Optimizer,
    image: Tensor,
    distance: Tensor,
    seen: Tensor,
) -> float:
    batch = image[None, None].to(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predicted = network(batch)[0, 0].float() * OUTPUT_SCALE_MM
    loss = distance_loss(predicted, distance, seen)
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())


def distance_loss(predicted: Tensor, distance: Tensor, seen: Tensor) -> Tensor:
    """Mean absolute error (mm) of clamped distances, five times heavier at the surface."""
    weight = seen * (1 + 4 * torch.exp(-distance.abs() / 3))
    bounded = predicted + (predicted.clamp(-FURTHEST_MM, FURTHEST_MM) - predicted) * 0.9
    return ((bounded - distance).abs() * weight).sum() / weight.sum().clamp_min(1)


def mask_scores(
    network: SynthStrip, heads: list[Head], borders_mm: Sequence[float], *, images: int, seed: int
) -> npt.NDArray[np.float64]:
    """Recall and Dice on synthetic T1 images, shape (images, borders, 2).

    Both distance fields are brought to the fine grid and cut, the true one at 0 and the
    predicted one at each border; voxels outside the field of view do not count. An image
    that shows no brain gives NaN.
    """
    return np.array(
        [
            _scores_of(network, *example(heads, seed, n, only_t1=True), borders_mm)
            for n in range(images)
        ]
    )


def _scores_of(
    network: SynthStrip,
    image: Tensor,
    distance: Tensor,
    seen: Tensor,
    borders_mm: Sequence[float],
) -> list[tuple[float, float]]:
    with torch.inference_mode():
        predicted = network(image[None, None])
    shown = _finer(seen[None, None]) > 0.5
    fine, truth = _finer(predicted), (_finer(distance[None, None]) < 0) & shown
    if not truth.any():
        return [(math.nan, math.nan)] * len(borders_mm)
    scores = []
    for border in borders_mm:
        mask = (fine < border) & shown
        both = float((mask & truth).sum())
        scores.append((both / float(truth.sum()), 2 * both / float(mask.sum() + truth.sum())))
    return scores


def _finer(field: Tensor) -> Tensor:
    return nn.functional.interpolate(field, scale_factor=2.0, mode="trilinear")


def choose_border(
    scores: npt.NDArray[np.float64], borders_mm: Sequence[float], *, recall: float = 0.99
) -> float:
    """The border of best mean Dice among those whose median recall is at least ``recall``.

    ``scores`` are those of :func:`mask_scores` on heads kept for tuning. Where no border
    reaches the recall, the one that comes closest is taken.
    """
    recalls, dice = np.nanmedian(scores[:, :, 0], axis=0), np.nanmean(scores[:, :, 1], axis=0)
    enough = recalls >= recall
    best = np.where(enough, dice, -1).argmax() if enough.any() else recalls.argmax()
    return float(borders_mm[int(best)])
