"""What an extractor is worth on heads it has not learned from, and where its mask should end."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from brainmets.network.synthstrip import SynthStrip
from brainmets.training.chance import Chance
from brainmets.training.heads import Head
from brainmets.training.synthetic_heads import Example, Frame, draw

BORDERS_MM = tuple(x / 8 for x in range(-8, 25))
MEASURED_IMAGES = 40
TUNING_SEED, TESTING_SEED = 715, 1720
RECALL = 0.995
"""Share of the brain that the outer surface should hold in all but one image in twenty."""
SURFACES = ("brain", "outer")
Scores = npt.NDArray[np.float64]


def measure(
    network: SynthStrip, frame: Frame, tuning: list[Head], testing: list[Head]
) -> dict[str, Any]:
    """Choose the borders on tuning heads; recall and Dice on those and on test heads.

    The first surface must fit; the outer one must hold what it should.
    """
    tuned = mask_scores(network, frame, tuning, BORDERS_MM, seed=TUNING_SEED)
    borders = [
        choose_border(tuned[0], BORDERS_MM, recall=0),
        choose_border(tuned[1], BORDERS_MM, recall=RECALL),
    ]
    tested = mask_scores(network, frame, testing, borders, seed=TESTING_SEED)
    places = [BORDERS_MM.index(border) for border in borders]
    results = {
        part: {surface: summary(scores[n][:, place[n]]) for n, surface in enumerate(SURFACES)}
        for part, scores, place in (
            ("tuning, simulated T1", tuned, places),
            ("test, simulated T1", tested, (0, 1)),
        )
    }
    return {"border_mm": borders[0], "outer_border_mm": borders[1], "results": results}


def summary(scores: Scores) -> dict[str, float]:
    """Median and worst of recall and Dice, shape (images, 2); images without brain are left out."""
    recall, dice = scores[~np.isnan(scores[:, 0])].T
    return {
        "images": len(dice),
        "median_recall": round(float(np.median(recall)), 4),
        "least_recall": round(float(recall.min()), 4),
        "median_dice": round(float(np.median(dice)), 4),
        "least_dice": round(float(dice.min()), 4),
    }


def mask_scores(
    network: SynthStrip,
    frame: Frame,
    heads: list[Head],
    borders_mm: Sequence[float],
    *,
    seed: int,
    images: int = 0,
) -> Scores:
    """Recall and Dice on synthetic T1 images, shape (fields, images, borders, 2).

    Distances are brought to half the spacing and cut, the true ones at 0 and the predicted
    ones at each border; voxels outside the field of view do not count. An image that shows
    no brain gives NaN.
    """
    scores = [
        _scores_of(
            network,
            draw(heads, frame, Chance(seed * 1_000_003 + number), only_t1=True),
            borders_mm,
        )
        for number in range(images or MEASURED_IMAGES)
    ]
    return np.moveaxis(np.array(scores), 1, 0)


def _scores_of(
    network: SynthStrip, example: Example, borders_mm: Sequence[float]
) -> list[list[tuple[float, float]]]:
    with torch.inference_mode():
        predicted = network(example.image[None, None])[0]
    shown = _finer(example.seen) > 0.5
    truth = (_finer(example.distance) < 0) & shown
    return [_field_scores(_finer(found), truth, shown, borders_mm) for found in predicted]


def _field_scores(
    fine: Tensor, truth: Tensor, shown: Tensor, borders_mm: Sequence[float]
) -> list[tuple[float, float]]:
    if not truth.any():
        return [(math.nan, math.nan)] * len(borders_mm)
    scores = []
    for border in borders_mm:
        mask = (fine < border) & shown
        both = float((mask & truth).sum())
        scores.append((both / float(truth.sum()), 2 * both / float(mask.sum() + truth.sum())))
    return scores


def _finer(field: Tensor) -> Tensor:
    return functional.interpolate(field[None, None], scale_factor=2.0, mode="trilinear")[0, 0]


def choose_border(scores: Scores, borders_mm: Sequence[float], *, recall: float) -> float:
    """The border of best mean Dice among those that keep enough in all but one image in twenty.

    ``scores`` have shape (images, borders, 2). Where no border keeps the share ``recall``,
    the one that comes closest is taken.
    """
    kept = np.nanquantile(scores[:, :, 0], 0.05, axis=0)
    dice = np.nanmean(scores[:, :, 1], axis=0)
    enough = kept >= recall
    best = np.where(enough, dice, -1).argmax() if enough.any() else kept.argmax()
    return float(borders_mm[int(best)])
