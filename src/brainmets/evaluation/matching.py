"""When are two lesions the same: rules by name, and what follows from a pairing.

``any-overlap`` and ``iou`` let a lesion have several partners; ``one-to-one`` and
``centroid`` do not. Whatever the rule, :func:`merges_and_splits` counts by shared voxels
what a one-to-one rule hides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from brainmets.errors import ConfigError
from brainmets.evaluation.lesionwise import (
    Match,
    MatchedLesion,
    Overlap,
    overlaps,
)
from brainmets.evaluation.scores import Score, ratio, undefined
from brainmets.lesions import Lesion, measure
from brainmets.volume import Volume, require_same_grid

Agreement = Callable[[Overlap], float]
"""How much two lesions agree, 0 to 1."""


def dice(pair: Overlap) -> float:
    """Twice the shared voxels over those of both."""
    return pair.dice


def iou(pair: Overlap) -> float:
    """Shared voxels over those of either."""
    return pair.shared_vox / (pair.reference_vox + pair.prediction_vox - pair.shared_vox)


AGREEMENTS: Mapping[str, Agreement] = MappingProxyType({"dice": dice, "iou": iou})


@dataclass(frozen=True)
class Findings:
    """The lesions of one scan as a rule sees them.

    Attributes:
        reference: lesions that are there.
        prediction: lesions that were announced.
        overlaps: pairs that share voxels, ascending by labels.
        voxel_mm3: volume of one voxel.
    """

    reference: tuple[Lesion, ...]
    prediction: tuple[Lesion, ...]
    overlaps: tuple[Overlap, ...]
    voxel_mm3: float


class Rule(Protocol):
    """Chooses which lesions are the same."""

    def pairs(self, findings: Findings) -> tuple[Overlap, ...]:
        """The pairs, ascending by labels."""
        ...


@dataclass(frozen=True)
class AnyOverlap:
    """One shared voxel is enough; several partners are allowed."""

    def pairs(self, findings: Findings) -> tuple[Overlap, ...]:
        """All pairs that share a voxel."""
        return findings.overlaps


@dataclass(frozen=True)
class IouAtLeast:
    """Intersection over union of at least ``least``.

    From 0.5 up a lesion has at most one partner but for pairs of exactly 0.5 (Kirillov et
    al. 2019, arXiv:1801.00868); below, it may have several.
    """

    least: float = 0.1

    def __post_init__(self) -> None:
        """Check the threshold."""
        _require_share(self.least, "least")

    def pairs(self, findings: Findings) -> tuple[Overlap, ...]:
        """All pairs that agree enough."""
        return tuple(pair for pair in findings.overlaps if iou(pair) >= self.least)


@dataclass(frozen=True)
class OneToOne:
    """The one-to-one pairing with the largest summed agreement.

    Attributes:
        agreement: ``"dice"`` or ``"iou"``.
        least: pairs that agree less, or share no voxel, are never made.
    """

    agreement: str = "dice"
    least: float = 1e-6

    def __post_init__(self) -> None:
        """Check the options."""
        _require_share(self.least, "least")
        if self.agreement not in AGREEMENTS:
            raise ConfigError(
                f"agreement {self.agreement!r}; expected one of {', '.join(AGREEMENTS)}"
            )

    def pairs(self, findings: Findings) -> tuple[Overlap, ...]:
        """The optimal pairs."""
        return best_pairs(findings.overlaps, self.agreement, self.least)


FARTHEST_MM = 1000.0
"""No two places of a head are farther apart."""


@dataclass(frozen=True)
class CentroidWithin:
    """Centres of mass at most ``distance_mm`` apart, one-to-one.

    Of all pairings with the most pairs the one with the smallest summed distance is
    taken. Lesions need not share a voxel.
    """

    distance_mm: float = 5.0

    def __post_init__(self) -> None:
        """Check the distance."""
        if not 0 <= self.distance_mm <= FARTHEST_MM:
            raise ConfigError(
                f"distance_mm is {self.distance_mm}; expected a number from 0 to {FARTHEST_MM:g}"
            )

    def pairs(self, findings: Findings) -> tuple[Overlap, ...]:
        """The nearest pairs."""
        shared = {(o.reference_label, o.prediction_label): o for o in findings.overlaps}
        near, worth = [], []
        # More than all distances can add up to: another pair always outweighs a shorter way.
        bonus = 1 + self.distance_mm * (1 + len(findings.reference))
        for r in findings.reference:
            for p in findings.prediction:
                apart = float(np.linalg.norm(np.subtract(r.centroid_ras_mm, p.centroid_ras_mm)))
                if apart <= self.distance_mm:
                    key = (r.label, p.label)
                    near.append(shared.get(key) or _apart(r, p, findings.voxel_mm3))
                    worth.append(bonus - apart)
        return _assigned(near, worth)


RULES: Mapping[str, Callable[..., Rule]] = MappingProxyType(
    {
        "any-overlap": AnyOverlap,
        "iou": IouAtLeast,
        "one-to-one": OneToOne,
        "centroid": CentroidWithin,
    }
)
"""Rules by the name they have on the command line; their options are their attributes."""

NUMBER_OF: Mapping[str, str] = MappingProxyType(
    {"iou": "least", "one-to-one": "least", "centroid": "distance_mm"}
)
"""The option of a rule that is given as a number behind its name."""


@dataclass(frozen=True)
class Pairing:
    """The lesions of one scan, paired by a rule.

    Attributes:
        pairs: those that the rule made.
        match: the same, from the view of each lesion.
    """

    pairs: tuple[Overlap, ...]
    match: Match


@dataclass(frozen=True)
class MergesAndSplits:
    """Lesions that have several counterparts by shared voxels.

    Attributes:
        merged: for each predicted lesion over two or more reference lesions, their labels.
        split: for each reference lesion in two or more predicted pieces, their labels.
    """

    merged: Mapping[int, tuple[int, ...]]
    split: Mapping[int, tuple[int, ...]]


def best_pairs(
    candidates: Sequence[Overlap], agreement: str = "dice", least: float = 1e-6
) -> tuple[Overlap, ...]:
    """The one-to-one choice with the largest summed agreement, see :class:`OneToOne`."""
    measured = AGREEMENTS[agreement]
    allowed = [pair for pair in candidates if measured(pair) >= least]
    return _assigned(allowed, [measured(pair) for pair in allowed])


def look_at(reference: Volume, prediction: Volume) -> Findings:
    """Measure the lesions of two label images (each value > 0 is one lesion).

    Raises:
        GridMismatchError: the images do not lie on the same voxels.
        VolumeError: labels that are not whole numbers.
    """
    require_same_grid(reference.grid, prediction.grid, "reference and prediction")
    return Findings(
        measure(reference),
        measure(prediction),
        overlaps(reference.data, prediction.data),
        reference.grid.voxel_volume_mm3,
    )


def pair_up(findings: Findings, rule: Rule) -> Pairing:
    """Pair the lesions of a scan."""
    pairs = rule.pairs(findings)
    turned = [_turned(pair) for pair in pairs]
    return Pairing(
        pairs,
        Match(
            tuple(_matched(lesion, pairs, "missed") for lesion in findings.reference),
            tuple(_matched(lesion, turned, "false positive") for lesion in findings.prediction),
        ),
    )


def match(reference: Volume, prediction: Volume, rule: Rule | None = None) -> Match:
    """Match the lesions of two label images (each value > 0 is one lesion).

    Args:
        reference: the lesions that are there.
        prediction: the lesions that were announced, on the same grid.
        rule: which are the same; None: :class:`AnyOverlap`.

    Raises:
        GridMismatchError: the images do not lie on the same voxels.
        VolumeError: labels that are not whole numbers.
    """
    return pair_up(look_at(reference, prediction), rule or AnyOverlap()).match


def rule_named(text: str) -> Rule:
    """A rule from its name, and maybe its number behind a colon.

    >>> rule_named("iou:0.5"), rule_named("centroid:3")
    (IouAtLeast(least=0.5), CentroidWithin(distance_mm=3.0))

    Args:
        text: ``any-overlap``, ``iou:LEAST``, ``one-to-one`` (``one-to-one:LEAST`` for the
            least Dice) or ``centroid:MM``.

    Raises:
        ConfigError: no such rule, or a number that it cannot take.
    """
    name, colon, number = text.partition(":")
    if name not in RULES:
        raise ConfigError(f"matching rule {name!r}; expected one of {', '.join(RULES)}")
    if not colon:
        return RULES[name]()
    if name not in NUMBER_OF:
        raise ConfigError(f"matching rule {text!r}: {name} takes no number")
    try:
        return RULES[name](**{NUMBER_OF[name]: float(number)})
    except ValueError as error:
        raise ConfigError(f"matching rule {text!r}: {number!r} is not a number") from error


def in_words(rule: Rule) -> str:
    """A rule and its numbers, for tables and pages.

    >>> in_words(IouAtLeast(0.5))
    'iou (least = 0.5)'
    """
    kind = type(rule)
    name = next((name for name, known in RULES.items() if known is kind), kind.__name__)
    options = ", ".join(f"{key} = {value}" for key, value in sorted(vars(rule).items()))
    return f"{name} ({options})" if options else name


def merges_and_splits(found: Sequence[Overlap]) -> MergesAndSplits:
    """Which lesions were taken together, and which fell apart, by all pairs that share a voxel."""
    over: dict[int, list[int]] = {}
    pieces: dict[int, list[int]] = {}
    for pair in found:
        over.setdefault(pair.prediction_label, []).append(pair.reference_label)
        pieces.setdefault(pair.reference_label, []).append(pair.prediction_label)
    return MergesAndSplits(_several(over), _several(pieces))


def panoptic_scores(pairing: Pairing, agreement: str = "iou") -> dict[str, Score]:
    """Recognition, segmentation and panoptic quality of a one-to-one pairing.

    RQ = TP / (TP + FP/2 + FN/2), SQ = mean agreement of the pairs, PQ = RQ × SQ (Kirillov
    et al. 2019). PQ is 0 where lesions exist and no pair does.

    Raises:
        ConfigError: a lesion has several partners; choose a one-to-one rule.
    """
    found = pairing.match
    if len(pairing.pairs) != sum(r.matched for r in found.reference) or len(pairing.pairs) != sum(
        p.matched for p in found.prediction
    ):
        raise ConfigError(
            "panoptic quality needs lesions with at most one partner each; found several. "
            "Use the rule one-to-one or centroid, or iou above 0.5"
        )
    values = [AGREEMENTS[agreement](pair) for pair in pairing.pairs]
    return _quality(values, len(found.reference), len(found.prediction))


def _quality(values: Sequence[float], reference: int, prediction: int) -> dict[str, Score]:
    none = "neither reference nor prediction has a lesion"
    recognition = ratio(2 * len(values), reference + prediction, none)
    segmentation = ratio(sum(values), len(values), "no lesion was found")
    if values:
        panoptic = Score(recognition.value * segmentation.value)
    else:
        panoptic = Score(0.0) if recognition.defined else undefined(none)
    return {
        "recognition_quality": recognition,
        "segmentation_quality": segmentation,
        "panoptic_quality": panoptic,
    }


def _assigned(pairs: Sequence[Overlap], worth: Sequence[float]) -> tuple[Overlap, ...]:
    """The one-to-one choice among ``pairs`` of the largest summed worth, each above 0."""
    if not pairs:
        return ()
    rows = {label: i for i, label in enumerate(sorted({p.reference_label for p in pairs}))}
    columns = {label: i for i, label in enumerate(sorted({p.prediction_label for p in pairs}))}
    gain: npt.NDArray[np.float64] = np.zeros((len(rows), len(columns)))
    at = {}
    for pair, value in zip(pairs, worth, strict=True):
        cell = rows[pair.reference_label], columns[pair.prediction_label]
        gain[cell], at[cell] = value, pair
    cells = zip(
        *(index.tolist() for index in linear_sum_assignment(gain, maximize=True)), strict=True
    )
    chosen = [at[cell] for cell in cells if cell in at]
    return tuple(sorted(chosen, key=lambda p: (p.reference_label, p.prediction_label)))


def _matched(lesion: Lesion, pairs: Sequence[Overlap], reason: str) -> MatchedLesion:
    own = [pair for pair in pairs if pair.reference_label == lesion.label]
    if not own:
        return MatchedLesion(lesion, (), undefined(reason))
    shared = sum(pair.shared_vox for pair in own)
    both = own[0].reference_vox + sum(pair.prediction_vox for pair in own)
    return MatchedLesion(
        lesion, tuple(pair.prediction_label for pair in own), Score(2 * shared / both)
    )


def _turned(pair: Overlap) -> Overlap:
    return Overlap(
        pair.prediction_label,
        pair.reference_label,
        pair.shared_vox,
        pair.prediction_vox,
        pair.reference_vox,
    )


def _apart(reference: Lesion, prediction: Lesion, voxel_mm3: float) -> Overlap:
    """A pair without a shared voxel."""
    return Overlap(
        reference.label,
        prediction.label,
        0,
        round(reference.volume_mm3 / voxel_mm3),
        round(prediction.volume_mm3 / voxel_mm3),
    )


def _several(partners: Mapping[int, list[int]]) -> dict[int, tuple[int, ...]]:
    return {label: tuple(sorted(p)) for label, p in sorted(partners.items()) if len(p) > 1}


def _require_share(value: float, name: str) -> None:
    if not 0 < value <= 1:
        raise ConfigError(f"{name} is {value}; expected above 0 and at most 1")
