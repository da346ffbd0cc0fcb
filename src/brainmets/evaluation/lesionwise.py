"""Lesion by lesion agreement: what was found, what was missed, what is not there.

A reference lesion is *found* if at least one predicted lesion matches it, and a predicted
lesion is a *false positive* if it matches no reference lesion. One prediction may match
several lesions (merged) and one lesion several predictions (split).
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from brainmets.evaluation.scores import Score, ratio, undefined
from brainmets.lesions import Lesion, measure
from brainmets.volume import Array, Volume, require_same_grid

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


MatchRule = Callable[[Overlap], bool]
"""Whether two lesions that share voxels are taken for the same."""


def any_overlap(overlap: Overlap) -> bool:
    """One shared voxel is enough."""
    return overlap.shared_vox >= 1


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


def match(reference: Volume, prediction: Volume, rule: MatchRule = any_overlap) -> Match:
    """Match the lesions of two label images (each value > 0 is one lesion).

    Raises:
        GridMismatchError: the images do not lie on the same voxels.
        VolumeError: labels that are not whole numbers.
    """
    require_same_grid(reference.grid, prediction.grid, "reference and prediction")
    truth, found = measure(reference), measure(prediction)
    pairs = [pair for pair in overlaps(reference.data, prediction.data) if rule(pair)]
    turned = [_swapped(pair) for pair in pairs]
    return Match(
        tuple(_matched(lesion, pairs, "missed") for lesion in truth),
        tuple(_matched(lesion, turned, "false positive") for lesion in found),
    )


def overlaps(reference: Array, prediction: Array) -> tuple[Overlap, ...]:
    """All pairs of labels that share a voxel, ascending."""
    shared = np.greater(reference, 0) & np.greater(prediction, 0)
    pairs, counts = np.unique(
        np.column_stack([reference[shared], prediction[shared]]), axis=0, return_counts=True
    )
    reference_vox, prediction_vox = _sizes(reference), _sizes(prediction)
    return tuple(
        Overlap(int(a), int(b), int(n), reference_vox[int(a)], prediction_vox[int(b)])
        for (a, b), n in zip(pairs, counts, strict=True)
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


def _swapped(pair: Overlap) -> Overlap:
    return Overlap(
        pair.prediction_label,
        pair.reference_label,
        pair.shared_vox,
        pair.prediction_vox,
        pair.reference_vox,
    )


def _matched(lesion: Lesion, pairs: Sequence[Overlap], reason: str) -> MatchedLesion:
    own = [pair for pair in pairs if pair.reference_label == lesion.label]
    if not own:
        return MatchedLesion(lesion, (), undefined(reason))
    shared = sum(pair.shared_vox for pair in own)
    union = own[0].reference_vox + sum(pair.prediction_vox for pair in own)
    partners = tuple(pair.prediction_label for pair in own)
    return MatchedLesion(lesion, partners, Score(2 * shared / union))


def _sizes(labels: Array) -> Mapping[int, int]:
    values, counts = np.unique(labels[np.greater(labels, 0)], return_counts=True)
    return {int(v): int(n) for v, n in zip(values, counts, strict=True)}
