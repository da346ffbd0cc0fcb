"""Choosing the decision rule on validation cases, the way it will be used."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import ndimage

from brainmets.cohort import Case, Cohort
from brainmets.config import DecisionRule
from brainmets.errors import CohortError
from brainmets.evaluation.case import CaseScores, score
from brainmets.evaluation.voxel import target
from brainmets.inference.predict import predict
from brainmets.io import images, nifti
from brainmets.lesions import ROUNDING, components, find
from brainmets.pipeline import Model, find_brain
from brainmets.preprocess.prepare import prepare, restore
from brainmets.volume import Volume, on_grid

LOWS = (0.2, 0.3, 0.4, 0.5)
HIGHS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SMALLEST_MM3 = (5.0, 10.0, 20.0)
Progress = Callable[[int, int], None]
Labels = Collection[int] | None


@dataclass(frozen=True)
class Candidate:
    """A component of one case at one lower threshold.

    Attributes:
        highest: its largest probability.
        volume_mm3: its volume.
        hits: reference lesions it overlaps.
    """

    highest: float
    volume_mm3: float
    hits: frozenset[int]


def probability_of(case: Case, model: Model) -> Volume:
    """The model's probabilities on the scanner's grid, by the same steps as in use."""
    scan = images.read_case(case).volume
    brain = find_brain(scan, case.brain_mask)
    grow = brain.extractor != "already stripped"
    prepared = prepare(scan, brain.mask, model.bundle.recipe, grow=grow)
    tiling, largest = model.bundle.tiling, model.largest_vox
    return restore(predict(prepared, model.engine, tiling, largest_vox=largest), prepared)


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


def tune_rule(
    cohort: Cohort,
    model: Model,
    progress: Progress | None = None,
    *,
    target_labels: Labels = None,
    false_positives: float | None = None,
) -> DecisionRule:
    """The rule with the best lesion F1, or the most sensitive of few false alarms.

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
    truths = 0
    for done, case in enumerate(cohort, start=1):
        probability, reference = probability_of(case, model), reference_of(case, target_labels)
        reference = _beside(reference, probability)
        truths += int(reference.data.max())
        for low in LOWS:
            found[low].append(_candidates(probability, reference, low))
        if progress:
            progress(done, len(cohort))
    rules = [
        DecisionRule(low, high, smallest)
        for low, high, smallest in product(LOWS, HIGHS, SMALLEST_MM3)
        if low <= high
    ]
    tallies = [tally(found[rule.low], rule) for rule in rules]
    if false_positives is None:
        worth: list[tuple[float, ...]] = [(t.f1(truths),) for t in tallies]
    else:
        limit = false_positives * len(cohort)
        worth = [(t.found, -t.wrong) if t.wrong <= limit else (-1, -t.wrong) for t in tallies]
    return rules[worth.index(max(worth))]


def _candidates(probability: Volume, reference: Volume, low: float) -> list[Candidate]:
    labels = find(probability, DecisionRule(low, low, 0)).data
    index = np.arange(1, int(labels.max()) + 1)
    highest = np.atleast_1d(ndimage.maximum(probability.data, labels, index))
    voxels = np.bincount(labels.ravel(), minlength=len(index) + 1)[1:]
    shared = (labels > 0) & (reference.data > 0)
    pairs = np.unique(np.column_stack([labels[shared], reference.data[shared]]), axis=0)
    hits: dict[int, set[int]] = {}
    for label, truth in pairs.tolist():
        hits.setdefault(label, set()).add(truth)
    volume = probability.grid.voxel_volume_mm3
    return [
        Candidate(float(top), float(count) * volume, frozenset(hits.get(int(label), ())))
        for label, top, count in zip(index, highest, voxels, strict=True)
    ]


@dataclass(frozen=True)
class Tally:
    """What a rule finds in a cohort.

    Attributes:
        found: reference lesions hit.
        right: findings that hit one.
        wrong: findings that hit none.
    """

    found: int
    right: int
    wrong: int

    def f1(self, truths: int) -> float:
        """As :func:`brainmets.evaluation.lesionwise.detection_scores`; 0 where none is found."""
        if not self.found:
            return 0.0
        sensitivity, precision = self.found / truths, self.right / (self.right + self.wrong)
        return 2 * sensitivity * precision / (sensitivity + precision)


def tally(cases: Sequence[Sequence[Candidate]], rule: DecisionRule) -> Tally:
    """Count what a rule makes of the candidates of each case."""
    found = right = wrong = 0
    for case in cases:
        kept = [c for c in case if _is_lesion(c, rule)]
        found += len(frozenset().union(*(c.hits for c in kept)))
        right += sum(bool(c.hits) for c in kept)
        wrong += sum(not c.hits for c in kept)
    return Tally(found, right, wrong)


def _is_lesion(candidate: Candidate, rule: DecisionRule) -> bool:
    """As :func:`brainmets.lesions.find` decides, rounding included."""
    bright = candidate.highest >= np.float32(rule.high)
    return bool(bright and candidate.volume_mm3 >= rule.smallest_mm3 * (1 - ROUNDING))


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
