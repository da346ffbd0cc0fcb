"""All scores of one case."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from brainmets.evaluation.curves import curve_scores
from brainmets.evaluation.lesionwise import Match, MatchRule, any_overlap, lesion_scores, match
from brainmets.evaluation.scores import Score, undefined
from brainmets.evaluation.surface import surface_scores
from brainmets.evaluation.voxel import agreement_scores, count, volume_scores, voxel_scores
from brainmets.lesions import components
from brainmets.volume import Volume, require_same_grid

WHOLE_GRID = "whole grid"
BRAIN_MASK = "brain mask"


@dataclass(frozen=True)
class CaseScores:
    """What came out for one case.

    Attributes:
        case_id: which one.
        scores: by name, in the order of the tables.
        lesions: every lesion of both sides, matched.
        patient_id: whose case it is; None: a patient of its own.
        domain: where voxels count, in words.
    """

    case_id: str
    scores: Mapping[str, Score]
    lesions: Match
    patient_id: str | None = None
    domain: str = WHOLE_GRID

    def score_of(self, name: str) -> Score:
        """A score by name, undefined if this case lacks what it takes."""
        return self.scores.get(name, undefined("no probabilities were given"))


def score_names(cases: Iterable[CaseScores]) -> tuple[str, ...]:
    """Every score that at least one case has, in the order of the tables."""
    fullest = max((case.scores for case in cases), key=len, default={})
    return tuple(fullest)


def target(mask: Volume, labels: Collection[int] | None = None) -> Volume:
    """The part of a reference mask that is to be found, as a bool mask.

    Args:
        mask: label image.
        labels: the labels that count (BraTS: 1 and 3, the tumour core without its
            oedema); None: all above 0.
    """
    if labels is None:
        return mask.with_data(np.greater(mask.data, 0))
    return mask.with_data(np.isin(mask.data, list(labels)))


def score(
    prediction: Volume,
    reference: Volume,
    *,
    case_id: str = "",
    target_labels: Collection[int] | None = None,
    domain: Volume | None = None,
    rule: MatchRule = any_overlap,
    probability: Volume | None = None,
) -> CaseScores:
    """Score one predicted mask against its reference.

    Both are taken as masks: lesions are the 26-connected components, whatever labels
    the files give them.

    Args:
        prediction: > 0 is inside.
        reference: label image; ``target_labels`` are inside.
        case_id: kept with the scores.
        target_labels: see :func:`target`.
        domain: mask of the brain, to count voxels there alone, see
            :func:`brainmets.evaluation.voxel.count`; without it the whole grid. Surfaces,
            volumes and lesions are those of the whole grid in any case.
        rule: when two lesions are the same.
        probability: of each voxel, for ROC AUC and PR AUC; without it they are left out.

    Raises:
        GridMismatchError: the images do not lie on the same voxels.
        VolumeError: probabilities outside 0 to 1, or NaN.
    """
    require_same_grid(reference.grid, prediction.grid, "reference and prediction")
    truth = target(reference, target_labels)
    counts = count(truth, prediction, domain=domain)
    lesions = match(components(truth), components(prediction), rule)
    scores = {
        **voxel_scores(counts),
        **agreement_scores(counts),
        **({} if probability is None else curve_scores(truth, probability, domain=domain)),
        **surface_scores(truth, prediction),
        **lesion_scores(lesions),
        **volume_scores(truth, prediction),
    }
    where = WHOLE_GRID if domain is None else BRAIN_MASK
    return CaseScores(case_id, scores, lesions, domain=where)
