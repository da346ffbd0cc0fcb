"""Choosing decision rule and temperature on validation cases, the way they will be used."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from brainmets import pipeline
from brainmets.cohort import Case, Cohort
from brainmets.config import DecisionRule
from brainmets.errors import CohortError
from brainmets.evaluation.calibration import OddsCounts, count_odds, fit_temperature, no_odds
from brainmets.evaluation.case import CaseScores, score
from brainmets.evaluation.pictures import WorstCase, pictured
from brainmets.evaluation.voxel import target
from brainmets.inference.predict import predict
from brainmets.io import images, nifti
from brainmets.lesions import components, find
from brainmets.network.bundle import Bundle
from brainmets.network.engines import Engine
from brainmets.pipeline import Model, find_brain
from brainmets.preprocess.prepare import Prepared, prepare, restore
from brainmets.training.rules import LOWS, Candidate, best_rule, candidates
from brainmets.volume import Volume, on_grid, to_nearest_ras

Progress = Callable[[int, int], None]
Labels = Collection[int] | None


def probability_of(case: Case, model: Model) -> Volume:
    """The model's probabilities on the scanner's grid, by the same steps as in use."""
    return probabilities_in_use(case, {"": model})[""]


def probabilities_in_use(case: Case, models: Mapping[str, Model]) -> dict[str, Volume]:
    """The same of several models that differ in their engines alone, by name."""
    prepared = prepared_of(case, next(iter(models.values())).bundle)
    return {name: pipeline.probability_of(prepared, model)[0] for name, model in models.items()}


def probabilities_of(
    case: Case, bundle: Bundle, engines: Mapping[str, Engine], largest_vox: int = 0
) -> dict[str, Volume]:
    """What several engines give, by name, from one preparation of the scan: no second look."""
    prepared = prepared_of(case, bundle)
    return {
        name: restore(predict(prepared, engine, bundle.tiling, largest_vox=largest_vox), prepared)
        for name, engine in engines.items()
    }


def prepared_of(case: Case, bundle: Bundle) -> Prepared:
    """A case as the bundle's network sees it, by the same steps as in use."""
    scan = images.read_case(case).volume
    brain = find_brain(scan, case.brain_mask)
    grow = brain.extractor != "already stripped"
    return prepare(scan, brain.kept, bundle.recipe, grow=grow)


def reference_of(case: Case, target_labels: Labels = None) -> Volume:
    """The reference lesions of a case, one label each.

    Args:
        case: with a reference mask.
        target_labels: labels of the mask that are lesion; None: all above 0.

    Raises:
        CohortError: the case has none to compare with.
    """
    if case.mask is None:
        raise CohortError(f"case {case.case_id!r} has no reference mask")
    return components(target(nifti.read_labels(case.mask), target_labels))


def _beside(reference: Volume, found: Volume) -> Volume:
    return on_grid(reference, found.grid, "reference mask and scan")


@dataclass(frozen=True)
class Tuned:
    """What was chosen.

    Attributes:
        rule: how probabilities become lesions.
        temperature: that log odds are divided by before a probability is told.
        odds: of the cases' voxels, as the network gives them.
    """

    rule: DecisionRule
    temperature: float
    odds: OddsCounts


def tune(
    cohort: Cohort,
    model: Model,
    progress: Progress | None = None,
    *,
    target_labels: Labels = None,
    false_positives: float | None = None,
) -> Tuned:
    """The rule with the best lesion F1, or the most sensitive of few false alarms; a temperature.

    Lesions are found after ``restore``, on the scanner's grid, in tuning as in use. Among
    equals the first of the grid wins: lower thresholds and smaller lesions first.

    Args:
        cohort: with reference masks; figures are pooled over it.
        model: whose probabilities are used.
        progress: called with (done, total).
        target_labels: labels of the masks that are lesion; None: all above 0.
        false_positives: at most so many a scan, and as many lesions found as that allows;
            None: the best F1. Where no rule has so few, that with the fewest.
    """
    found: dict[float, list[list[Candidate]]] = {low: [] for low in LOWS}
    truths, odds = 0, no_odds()
    for done, case in enumerate(cohort, start=1):
        probability, reference = probability_of(case, model), reference_of(case, target_labels)
        reference = _beside(reference, probability)
        truths += int(reference.data.max())
        odds += count_odds(reference.with_data(reference.data > 0), probability)
        for low in LOWS:
            found[low].append(candidates(probability, reference, low))
        if progress:
            progress(done, len(cohort))
    rule, _ = best_rule(found, truths, false_positives)
    return Tuned(rule, fit_temperature(odds), odds)


def score_cohort(
    cohort: Cohort,
    model: Model,
    progress: Progress | None = None,
    *,
    target_labels: Labels = None,
) -> tuple[CaseScores, ...]:
    """Scores of every case with the model's own rule, on the scanner's grid."""
    results = []
    for done, case in enumerate(cohort, start=1):
        mask = find(probability_of(case, model), model.bundle.rule)
        reference = _beside(reference_of(case, target_labels), mask)
        results.append(score(mask, reference, case_id=case.case_id))
        if progress:
            progress(done, len(cohort))
    return tuple(results)


def pictures_of(
    cases: Sequence[Case], model: Model, *, target_labels: Labels = None
) -> tuple[WorstCase, ...]:
    """The worst lesion of each case, reference and outline on the scan.

    Cases without a lesion in which nothing is found are left out.
    """
    shown = []
    for case in cases:
        mask = to_nearest_ras(find(probability_of(case, model), model.bundle.rule))
        reference = _beside(reference_of(case, target_labels), mask)
        scores = score(mask, reference, case_id=case.case_id)
        if scores.lesions.reference or scores.lesions.prediction:
            truth, found = (v.with_data(np.greater(v.data, 0)) for v in (reference, mask))
            shown.append(pictured(scores, case, truth, found))
    return tuple(shown)
