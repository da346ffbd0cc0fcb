"""Predictions of a whole cohort against its reference masks, one case at a time."""

from collections.abc import Callable, Collection
from pathlib import Path

from brainmets.cohort import Case, Cohort
from brainmets.errors import CohortError, InputError
from brainmets.evaluation.case import CaseScores, score
from brainmets.io import nifti

MASK_NAME = "mask.nii.gz"
"""What the mask is called in a case's output folder."""


def evaluate(
    predictions: Path | None,
    cohort: Cohort,
    *,
    target_labels: Collection[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[CaseScores, ...]:
    """Score every case of a cohort.

    Args:
        predictions: folder with ``ID/mask.nii.gz`` for each case; None: the files that
            the cohort's column ``prediction`` names.
        cohort: each case with a reference mask.
        target_labels: labels of the reference that are to be found; None: all above 0.
        progress: called with the number of cases done and of all.

    Returns:
        The scores in the cohort's order. Only one pair of images is held at a time.

    Raises:
        CohortError: no cases, or one without reference mask or prediction.
        InputError: an unreadable image, or two that do not lie on the same voxels; the
            message names the case.
    """
    pairs = [(case.case_id, *_files(case, predictions)) for case in cohort]
    if not pairs:
        raise CohortError("the cohort has no cases; there is nothing to evaluate")
    results = []
    for number, (case_id, prediction, reference) in enumerate(pairs, start=1):
        results.append(_score_files(case_id, prediction, reference, target_labels))
        if progress is not None:
            progress(number, len(pairs))
    return tuple(results)


def _files(case: Case, predictions: Path | None) -> tuple[Path, Path]:
    """Prediction and reference of a case, both there."""
    if case.mask is None:
        raise CohortError(
            f"case {case.case_id}: no reference mask; name one in column 'mask', or leave the "
            "case out"
        )
    if predictions is not None:
        prediction = predictions / case.case_id / MASK_NAME
    elif named := case.row.get("prediction"):
        prediction = Path(named)
    else:
        raise CohortError(
            f"case {case.case_id}: no prediction; give a folder of predictions, or name the file "
            "in column 'prediction'"
        )
    if not prediction.is_file():
        raise CohortError(
            f"case {case.case_id}: no prediction {case.case_id}/{prediction.name}; "
            "segment this case first, or leave it out of the cohort"
        )
    return prediction, case.mask


def _score_files(
    case_id: str, prediction: Path, reference: Path, target_labels: Collection[int] | None
) -> CaseScores:
    try:
        return score(
            nifti.read_labels(prediction),
            nifti.read_labels(reference),
            case_id=case_id,
            target_labels=target_labels,
        )
    except InputError as error:
        raise type(error)(f"case {case_id}: {error}") from error
