"""All scores of one case."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from brainmets.evaluation.lesionwise import Match, MatchRule, any_overlap, lesion_scores, match
from brainmets.evaluation.scores import Score
from brainmets.evaluation.voxel import count, voxel_scores
from brainmets.lesions import components
from brainmets.volume import Volume, require_same_grid


@dataclass(frozen=True)
class CaseScores:
    """What came out for one case.

    Attributes:
        case_id: which one.
        scores: by name, in the order of the tables.
        lesions: every lesion of both sides, matched.
    """

    case_id: str
    scores: Mapping[str, Score]
    lesions: Match


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
) -> CaseScores:
    """Score one predicted mask against its reference.

    Both are taken as masks: lesions are the 26-connected components, whatever labels
    the files give them.

    Args:
        prediction: > 0 is inside.
        reference: label image; ``target_labels`` are inside.
        case_id: kept with the scores.
        target_labels: see :func:`target`.
        domain: where voxels count, see :func:`brainmets.evaluation.voxel.count`.
        rule: when two lesions are the same.

    Raises:
        GridMismatchError: the images do not lie on the same voxels.
    """
    require_same_grid(reference.grid, prediction.grid, "reference and prediction")
    truth = target(reference, target_labels)
    counts = count(truth, prediction, domain=domain)
    lesions = match(components(truth), components(prediction), rule)
    scores = {
        **voxel_scores(counts),
        **lesion_scores(lesions),
        "reference_mm3": _volume_mm3(truth),
        "predicted_mm3": _volume_mm3(prediction),
    }
    return CaseScores(case_id, scores, lesions)


def _volume_mm3(mask: Volume) -> Score:
    return Score(int(np.count_nonzero(np.greater(mask.data, 0))) * mask.grid.voxel_volume_mm3)
