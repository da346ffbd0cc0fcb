"""Arithmetic in 8 bits for a trained model: what it needs to know, and what it loses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from brainmets.cohort import Case, Cohort
from brainmets.errors import CohortError, ConfigError
from brainmets.evaluation.sameness import Sameness, compare, dice
from brainmets.lesions import find
from brainmets.network.bundle import Bundle
from brainmets.network.engines import Engine
from brainmets.network.openvino_engine import INT8, openvino_engine, watching_engine
from brainmets.pipeline import run_by
from brainmets.training.tune import probabilities_in_use, probabilities_of, reference_of
from brainmets.volume import Volume, on_grid

CALIBRATION_CASES = 12
"""Cases at most, and half of them, whose tiles are searched for the largest values."""
LEAST_CASES, LEAST_LESIONS = 20, 20
"""Without as many, measured, int8 does not become the default."""
DICE_KEPT, SAME_LESIONS = 0.999, 0.99
"""Shares that make int8 the default: of float32's mean Dice, and of cases with its lesions."""


@dataclass(frozen=True)
class Loss:
    """What int8 makes of one case that float32 makes otherwise.

    Attributes:
        case_id: of the cohort.
        sameness: of their masks.
        float32_dice: against the reference mask; None without one.
        int8_dice: likewise.
    """

    case_id: str
    sameness: Sameness
    float32_dice: float | None = None
    int8_dice: float | None = None


def quantise(
    cohort: Cohort,
    bundle: Bundle,
    progress: Callable[[int, int], None] | None = None,
    *,
    target_labels: Sequence[int] | None = None,
) -> tuple[Bundle, tuple[Loss, ...]]:
    """The model with what int8 needs, and its loss on a cohort, which the card holds too.

    The largest values come from the tiles of the first half of the cases, at most of 12. On the
    others the loss is measured, as in use: places in doubt are computed again. Int8 becomes the
    default where these are 20 or more, with 20 lesions or more, and keep at least 99.9 % of
    float32's mean Dice, and 99 % of them the same lesions.

    Args:
        cohort: cases that the network has not learnt from; reference masks are welcome.
        bundle: of one network.
        progress: called with (done, total).
        target_labels: labels of the reference masks that are lesion; None: all above 0.

    Raises:
        CohortError: no case.
        ConfigError: a model of several networks.
        InputError: a case that cannot be used.
    """
    if bundle.networks > 1:
        raise ConfigError(f"{bundle.name} averages {bundle.networks} networks; int8 is for one")
    cases = tuple(cohort)
    if not cases:
        raise CohortError("no case to quantise with; give a cohort of one scan or more")
    tell = progress or (lambda _done, _total: None)
    count = min(CALIBRATION_CASES, len(cases) // 2)
    chosen, others = cases[: max(1, count)], cases[count:]
    total = len(chosen) + len(others)
    watching = watching_engine(bundle)
    for done, case in enumerate(chosen, start=1):
        probabilities_of(case, bundle, {"": watching})
        tell(done, total)
    ready = replace(bundle, int8=watching.int8())
    engines = {precision: openvino_engine(ready, precision) for precision in ("f32", INT8)}
    losses = []
    for done, case in enumerate(others, start=len(chosen) + 1):
        losses.append(_loss_of(case, ready, engines, target_labels))
        tell(done, total)
    return _judged(ready, losses), tuple(losses)


def _judged(bundle: Bundle, losses: Sequence[Loss]) -> Bundle:
    said = summary(losses)
    is_default = is_small(said)
    card = {**bundle.card, "int8": {**said, "is_default": is_default}}
    int8 = bundle.int8 and replace(bundle.int8, is_default=is_default)
    return replace(bundle, int8=int8, card=card)


def _loss_of(
    case: Case, bundle: Bundle, engines: Mapping[str, Engine], target_labels: Sequence[int] | None
) -> Loss:
    models = {
        name: run_by(bundle, engine, None if name == "f32" else engines["f32"])
        for name, engine in engines.items()
    }
    masks = {
        name: find(probability, bundle.rule)
        for name, probability in probabilities_in_use(case, models).items()
    }
    seen = compare(masks["f32"].data, masks[INT8].data)
    if case.mask is None:
        return Loss(case.case_id, seen)
    truth = reference_of(case, target_labels)
    return Loss(case.case_id, seen, *(_dice(truth, masks[name]) for name in ("f32", INT8)))


def _dice(truth: Volume, mask: Volume) -> float:
    beside = on_grid(truth, mask.grid, "reference mask and scan")
    return dice(beside.data > 0, mask.data > 0)


def summary(losses: Sequence[Loss]) -> dict[str, Any]:
    """What the card says of int8's loss; it names no case."""
    scored = [loss for loss in losses if loss.float32_dice is not None]
    before, after = (
        float(np.mean([getattr(loss, name) for loss in scored])) if scored else 0.0
        for name in ("float32_dice", "int8_dice")
    )
    same = sum(loss.sameness.is_same for loss in losses)
    return {
        "cases": len(losses),
        "lesions": sum(loss.sameness.lesions[0] for loss in losses),
        "cases_with_the_same_lesions": same,
        "mean_dice_against_float32": round(
            float(np.mean([loss.sameness.dice for loss in losses])), 5
        ),
        "share_of_dice_kept": round(after / before, 5) if before else None,
    }


def is_small(said: Mapping[str, Any]) -> bool:
    """Whether a loss is known, and small enough for int8 to be the default."""
    kept = said["share_of_dice_kept"]
    if said["cases"] < LEAST_CASES or said["lesions"] < LEAST_LESIONS:
        return False
    same = said["cases_with_the_same_lesions"] >= SAME_LESIONS * said["cases"]
    return bool(same and (kept is None or kept >= DICE_KEPT))
