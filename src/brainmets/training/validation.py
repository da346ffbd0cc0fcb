"""Whole validation cases from the store, lesion by lesion, while a network learns.

Cases are seen as in use: the brain mask ends where the recipe says, tiles overlap, probabilities
are blended. Only the way back to the scanner's grid is left out; so no scan is needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from brainmets.config import DecisionRule, Recipe, Tiling
from brainmets.inference.details import Details
from brainmets.inference.predict import predict
from brainmets.network.detail_engine import DetailEngine
from brainmets.network.engines import Engine
from brainmets.preprocess.prepare import Prepared
from brainmets.training.rules import LOWS, Candidate, Tally, best_rule, candidates
from brainmets.training.store import DEPTH_STEP_MM, LEVELS_MM, PreparedCase
from brainmets.volume import Grid, Volume

Item = TypeVar("Item")


@dataclass(frozen=True)
class Look:
    """What a network finds in whole cases by the rule that is best for them.

    Attributes:
        rule: that rule.
        tally: what it finds.
        lesions: reference lesions in all.
        cases: how many were looked at.
    """

    rule: DecisionRule
    tally: Tally
    lesions: int
    cases: int

    @property
    def f1(self) -> float:
        """Lesion F1, pooled over the cases."""
        return self.tally.f1(self.lesions)

    @property
    def sensitivity(self) -> float:
        """Share of the reference lesions found; 0 where there are none."""
        return self.tally.found / max(1, self.lesions)

    @property
    def false_positives(self) -> float:
        """A scan."""
        return self.tally.wrong / self.cases


def spread(cases: Sequence[Item], count: int) -> tuple[Item, ...]:
    """At most ``count`` of the cases, evenly from first to last."""
    if len(cases) <= count:
        return tuple(cases)
    return tuple(cases[round(place)] for place in np.linspace(0, len(cases) - 1, count))


def as_in_use(case: PreparedCase, recipe: Recipe) -> Prepared:
    """A stored case as the network sees it in use."""
    whole = (slice(0, case.image.shape[0]), slice(0, case.image.shape[1]),
             slice(0, case.image.shape[2]))  # fmt: skip
    grid = Grid(
        tuple(side.stop for side in whole),  # type: ignore[arg-type]
        np.diag([*(recipe.spacing_mm,) * 3, 1.0]),
    )
    inside = case.depth[whole] * DEPTH_STEP_MM <= recipe.brain_margin_mm
    mean, deviation = (
        float(np.interp(recipe.brain_margin_mm, LEVELS_MM, values))
        for values in zip(*case.levels, strict=True)
    )
    scores = (case.image[whole].astype(np.float32) - mean) / deviation
    if recipe.clip_z:
        scores = scores.clip(-recipe.clip_z, recipe.clip_z)
    shown = np.asarray(np.where(inside, scores, 0), np.float32)
    return Prepared(Volume(shown, grid), Volume(inside, grid), whole, grid)


def look(
    engine: Engine,
    cases: Sequence[PreparedCase],
    recipe: Recipe,
    tiling: Tiling,
    progress: Callable[[int, int], None] | None = None,
    detail: DetailEngine | None = None,
) -> Look:
    """Find the lesions of whole cases, by the rule of best lesion F1.

    Args:
        engine: the network.
        cases: at least one.
        recipe: how they were prepared.
        tiling: how volumes are cut.
        progress: called with (done, total).
        detail: the model's detail network, if it has one.
    """
    found: dict[float, list[list[Candidate]]] = {low: [] for low in LOWS}
    lesions = 0
    for done, case in enumerate(cases, start=1):
        prepared = as_in_use(case, recipe)
        probability = predict(prepared, engine, tiling)
        if detail:
            probability = Details(prepared, detail).apply(probability)
        reference = probability.with_data(case.labels[prepared.box])
        lesions += int(reference.data.max())
        for low in LOWS:
            found[low].append(candidates(probability, reference, low))
        if progress:
            progress(done, len(cases))
    rule, tally = best_rule(found, lesions)
    return Look(rule, tally, lesions, len(cases))
