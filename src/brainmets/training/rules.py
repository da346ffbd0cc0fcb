"""Which decision rule finds most: many rules tried on the same candidates.

Needs no scan and no reader of scans.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from brainmets.config import DecisionRule
from brainmets.lesions import ROUNDING, find
from brainmets.volume import Volume

LOWS = (0.2, 0.3, 0.4, 0.5)
HIGHS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SMALLEST_MM3 = (5.0, 10.0, 20.0)


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


def candidates(probability: Volume, reference: Volume, low: float) -> list[Candidate]:
    """Components of probability ≥ ``low``, and which reference lesions each overlaps.

    Args:
        probability: 0 to 1.
        reference: on the same grid, one label a lesion.
        low: the rule's lower threshold.
    """
    labels = find(probability, DecisionRule(low, low, 0)).data
    inside = labels > 0
    index = np.arange(1, int(labels.max(initial=0)) + 1)
    highest = np.zeros(len(index) + 1, np.float32)
    np.maximum.at(highest, labels[inside], probability.data[inside])
    voxels = np.bincount(labels[inside], minlength=len(index) + 1)[1:]
    shared = inside & (reference.data > 0)
    pairs = np.unique(np.column_stack([labels[shared], reference.data[shared]]), axis=0)
    hits: dict[int, set[int]] = {}
    for label, truth in pairs.tolist():
        hits.setdefault(label, set()).add(truth)
    volume = probability.grid.voxel_volume_mm3
    return [
        Candidate(float(top), float(count) * volume, frozenset(hits.get(int(label), ())))
        for label, top, count in zip(index, highest[1:], voxels, strict=True)
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


def best_rule(
    found: Mapping[float, Sequence[Sequence[Candidate]]],
    truths: int,
    false_positives: float | None = None,
) -> tuple[DecisionRule, Tally]:
    """The rule with the best lesion F1, or the most sensitive of few false alarms.

    Among equals the first of the grid wins: lower thresholds and smaller lesions first.

    Args:
        found: candidates of each case, by lower threshold.
        truths: reference lesions of all cases.
        false_positives: at most so many a scan, and as many lesions found as that allows;
            None: the best F1. Where no rule has so few, that with the fewest.

    Returns:
        The rule, and what it finds.
    """
    rules = [
        DecisionRule(low, high, smallest)
        for low, high, smallest in product(LOWS, HIGHS, SMALLEST_MM3)
        if low <= high
    ]
    tallies = [tally(found[rule.low], rule) for rule in rules]
    scans = len(found[LOWS[0]])
    ranks = [worth(each, truths, scans, false_positives) for each in tallies]
    best = ranks.index(max(ranks))
    return rules[best], tallies[best]


def worth(
    tally: Tally, truths: int, scans: int, false_positives: float | None = None
) -> tuple[float, ...]:
    """By what rules are compared, the larger the better; see :func:`best_rule`."""
    if false_positives is None:
        return (tally.f1(truths),)
    if tally.wrong > false_positives * scans:
        return (-1, -tally.wrong)
    return (tally.found, -tally.wrong)
