"""Predictions of a whole cohort against its reference masks, one case at a time."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from brainmets.cohort import Case, Cohort
from brainmets.errors import CohortError, InputError
from brainmets.evaluation.case import CaseScores, score
from brainmets.io import nifti
from brainmets.volume import on_grid

MASK_NAME = "mask.nii.gz"
"""What the mask is called in a case's output folder."""

PROBABILITY_NAME = "probability.nii.gz"
"""What the probabilities are called there, if they were saved."""


def evaluate(
    predictions: Path | None,
    cohort: Cohort,
    *,
    target_labels: Collection[int] | None = None,
    within_brain: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[CaseScores, ...]:
    """Score every case of a cohort.

    Args:
        predictions: folder with ``ID/mask.nii.gz`` for each case, and maybe
            ``ID/probability.nii.gz``; None: the files that the cohort's columns
            ``prediction`` and ``probability`` name.
        cohort: each case with a reference mask.
        target_labels: labels of the reference that are to be found; None: all above 0.
        within_brain: count voxels within the cohort's ``brain_mask`` alone, not in the whole
            grid. Lesions, surfaces and volumes are not cut.
        progress: called with the number of cases done and of all.

    Returns:
        The scores in the cohort's order. Only one pair of images is held at a time.

    Raises:
        CohortError: no cases, or one without reference mask, prediction or, where it
            is asked for, brain mask.
        InputError: an unreadable image, or two that do not lie on the same voxels; the
            message names the case.
    """
    found = [_files(case, predictions, within_brain=within_brain) for case in cohort]
    if not found:
        raise CohortError("the cohort has no cases; there is nothing to evaluate")
    results = []
    for number, (case, files) in enumerate(zip(cohort, found, strict=True), start=1):
        scores = _score_files(case.case_id, files, target_labels)
        results.append(replace(scores, patient_id=case.row.get("patient") or None))
        if progress is not None:
            progress(number, len(found))
    return tuple(results)


@dataclass(frozen=True)
class _Files:
    """What a case is scored from."""

    prediction: Path
    reference: Path
    probability: Path | None
    brain: Path | None


def _files(case: Case, predictions: Path | None, *, within_brain: bool) -> _Files:
    """The files of a case, all there."""
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
    if within_brain and case.brain_mask is None:
        raise CohortError(
            f"case {case.case_id}: no brain mask to count voxels in; name one in column "
            "'brain_mask', or count in the whole grid"
        )
    brain = case.brain_mask if within_brain else None
    return _Files(prediction, case.mask, _probability(case, predictions), brain)


def _probability(case: Case, predictions: Path | None) -> Path | None:
    """A case's probabilities: a folder need not have them, but what a table names must be there."""
    if predictions is not None:
        path = predictions / case.case_id / PROBABILITY_NAME
        return path if path.is_file() else None
    named = case.row.get("probability")
    return Path(named) if named else None


def _score_files(case_id: str, files: _Files, target_labels: Collection[int] | None) -> CaseScores:
    try:
        probability = None if files.probability is None else nifti.read(files.probability).volume
        brain = None if files.brain is None else nifti.read_labels(files.brain)
        prediction = nifti.read_labels(files.prediction)
        reference = nifti.read_labels(files.reference)
        return score(
            prediction,
            on_grid(reference, prediction.grid, "reference and prediction"),
            case_id=case_id,
            target_labels=target_labels,
            domain=brain and on_grid(brain, prediction.grid, "brain mask and prediction"),
            probability=probability,
        )
    except InputError as error:
        raise type(error)(f"case {case_id}: {error}") from error
