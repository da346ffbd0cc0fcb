"""Lesion by lesion agreement: what was found, what was missed, what is not there.

A reference lesion is *found* if at least one predicted lesion matches it, and a predicted
lesion is a *false positive* if it matches no reference lesion. One prediction may match
several lesions (merged) and one lesion several predictions (split). When two lesions match
is for a rule to say, see :mod:`brainmets.evaluation.matching`.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from brainmets.evaluation.scores import Score, ratio, undefined
from brainmets.lesions import Lesion
from brainmets.volume import Array

SIZE_EDGES_MM = (3.0, 4.0, 6.0, 10.0)
SIZE_BINS = ("< 3 mm", "3–4 mm", "4–6 mm", "6–10 mm", "≥ 10 mm")
"""Bins of equivalent diameter; each holds its lower edge and not its upper one."""


@dataclass(frozen=True)
class Overlap:
    """A reference and a predicted lesion that share voxels."""

    reference_label: int
    prediction_label: int
    shared_vox: int
    reference_vox: int
    prediction_vox: int

    @property
    def dice(self) -> float:
        """Dice of the pair."""
        return 2 * self.shared_vox / (self.reference_vox + self.prediction_vox)


@dataclass(frozen=True)
class MatchedLesion:
    """A lesion of one side, and its partners on the other.

    Attributes:
        lesion: as measured on its own mask.
        partners: labels of the lesions that match it, ascending.
        dice: of the lesion against the union of its partners; undefined without any.
    """

    lesion: Lesion
    partners: tuple[int, ...]
    dice: Score

    @property
    def matched(self) -> bool:
        """Whether it has a partner."""
        return bool(self.partners)

    @property
    def size_bin(self) -> str:
        """Its bin in SIZE_BINS."""
        return size_bin(self.lesion.equivalent_diameter_mm)


@dataclass(frozen=True)
class Match:
    """All lesions of a scan, matched.

    Attributes:
        reference: the lesions that are there; matched ones were found.
        prediction: the lesions that were announced; unmatched ones are false positives.
    """

    reference: tuple[MatchedLesion, ...]
    prediction: tuple[MatchedLesion, ...]


def size_bin(diameter_mm: float) -> str:
    """The bin of an equivalent diameter.

    >>> size_bin(2.99), size_bin(3.0), size_bin(10.0)
    ('< 3 mm', '3–4 mm', '≥ 10 mm')
    """
    return SIZE_BINS[bisect_right(SIZE_EDGES_MM, diameter_mm)]


def overlaps(reference: Array, prediction: Array) -> tuple[Overlap, ...]:
    """All pairs of labels that share a voxel, ascending."""
    there, found = np.greater(reference, 0), np.greater(prediction, 0)
    shared = there & found
    pairs = Counter(zip(reference[shared].tolist(), prediction[shared].tolist(), strict=True))
    reference_vox = Counter(reference[there].tolist())
    prediction_vox = Counter(prediction[found].tolist())
    return tuple(
        Overlap(int(a), int(b), n, reference_vox[a], prediction_vox[b])
        for (a, b), n in sorted(pairs.items())
    )


def lesion_scores(found: Match) -> dict[str, Score]:
    """Detection scores of one scan; see :func:`detection_scores`, and the matched lesions' Dice."""
    dice = [lesion.dice.value for lesion in found.reference if lesion.matched]
    return {
        **detection_scores(found.reference, found.prediction),
        "reference_lesions": Score(float(len(found.reference))),
        "predicted_lesions": Score(float(len(found.prediction))),
        "false_positives": Score(float(sum(not p.matched for p in found.prediction))),
        "matched_lesion_dice": ratio(sum(dice), len(dice), "no lesion was found"),
    }


def detection_scores(
    reference: Sequence[MatchedLesion], prediction: Sequence[MatchedLesion]
) -> dict[str, Score]:
    """Lesion sensitivity, precision and F1, of one scan or pooled over several.

    Sensitivity is the share of reference lesions that were found, precision the share of
    predicted lesions that are there, F1 their harmonic mean. F1 is 0 when lesions exist
    on one side only, and undefined when they exist on neither.
    """
    sensitivity = ratio(
        sum(r.matched for r in reference), len(reference), "the reference has no lesion"
    )
    precision = ratio(
        sum(p.matched for p in prediction), len(prediction), "the prediction has no lesion"
    )
    return {
        "lesion_sensitivity": sensitivity,
        "lesion_precision": precision,
        "lesion_f1": _f1(sensitivity, precision),
    }


def _f1(sensitivity: Score, precision: Score) -> Score:
    if not sensitivity.defined and not precision.defined:
        return undefined("neither reference nor prediction has a lesion")
    if not (sensitivity.defined and precision.defined):
        return Score(0.0)
    total = sensitivity.value + precision.value
    return Score(2 * sensitivity.value * precision.value / total if total else 0.0)
