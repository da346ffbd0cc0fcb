"""Predictions of a whole cohort against its reference masks, one case at a time."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from brainmets.cohort import Case, Cohort
from brainmets.concurrency import in_order
from brainmets.config import DecisionRule, from_mapping
from brainmets.errors import CohortError, InputError, ReadError
from brainmets.evaluation.case import CaseScores, Scoring, score
from brainmets.io import nifti
from brainmets.volume import Volume, on_grid, to_nearest_ras

MASK_NAME = "mask.nii.gz"
"""What the mask is called in a case's output folder."""

PROBABILITY_NAME = "probability.nii.gz"
"""What the probabilities are called there, if they were saved."""

REPORT_NAME = "report.json"
"""What tells the decision rule there."""


def evaluate(
    predictions: Path | None,
    cohort: Cohort,
    *,
    target_labels: Collection[int] | None = None,
    within_brain: bool = False,
    scoring: Scoring | None = None,
    covariates: Sequence[str] = (),
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[CaseScores, ...]:
    """Score every case of a cohort.

    Args:
        predictions: folder with ``ID/mask.nii.gz`` for each case, and maybe
            ``ID/probability.nii.gz``; None: the files that the cohort's columns
            ``prediction`` and ``probability`` name. ``report.json`` beside a prediction
            tells the decision rule.
        cohort: each case with a reference mask.
        target_labels: labels of the reference that are to be found; None: all above 0.
        within_brain: count voxels within the cohort's ``brain_mask`` alone, not in the whole
            grid. Lesions, surfaces and volumes are not cut.
        scoring: which scores by which rules; None: the usual ones.
        covariates: columns of the cohort to keep with the scores.
        workers: processes; the results do not depend on it.
        progress: called with the number of cases done and of all.

    Returns:
        The scores in the cohort's order. Only one pair of images a process is held at a time.

    Raises:
        CohortError: no cases, or one without reference mask, prediction or, where it
            is asked for, brain mask.
        InputError: an unreadable image, or two that do not lie on the same voxels; the
            message names the case.
    """
    if not cohort.cases:
        raise CohortError("the cohort has no cases; there is nothing to evaluate")
    labels = None if target_labels is None else tuple(target_labels)
    jobs = [
        _Job(
            case.case_id,
            files_of(case, predictions, within_brain=within_brain),
            case.row.get("patient") or None,
            {name: case.row.get(name, "") for name in covariates},
            labels,
            scoring or Scoring(),
        )
        for case in cohort
    ]
    results = []
    with in_order(min(workers, len(jobs)), network=False) as run:
        for scores in run(_score_files, jobs):
            results.append(scores)
            if progress is not None:
                progress(len(results), len(jobs))
    return tuple(results)


def require_references(predictions: Path, cohort: Cohort) -> None:
    """Refuse predictions without a reference: a case that nobody would miss in the scores.

    Raises:
        CohortError: no such folder, or a prediction in it that belongs to no case of the
            cohort.
    """
    try:
        there = predictions.is_dir()
    except OSError:  # the name is too long, say
        there = False
    if not there:
        raise CohortError(f"{predictions.name}: no such folder of predictions; check the name")
    known = {case.case_id for case in cohort}
    found = sorted(path.parent.name for path in predictions.glob(f"[!.]*/{MASK_NAME}"))
    for name in found:
        if name not in known:
            raise CohortError(
                f"case {name}: a prediction but no reference; add the case to the cohort, or take "
                "the prediction out of the folder, or name predictions in the cohort's column "
                "'prediction' and give no folder"
            )


@dataclass(frozen=True)
class Files:
    """What a case is scored from.

    Attributes:
        prediction: mask.
        reference: mask.
        probability: of each voxel, if there is one.
        brain: mask to count voxels in, if asked for.
    """

    prediction: Path
    reference: Path
    probability: Path | None
    brain: Path | None


@dataclass(frozen=True)
class _Job:
    """A case to be scored, as it goes to another process."""

    case_id: str
    files: Files
    patient_id: str | None
    covariates: Mapping[str, str]
    target_labels: tuple[int, ...] | None
    scoring: Scoring


def files_of(case: Case, predictions: Path | None, *, within_brain: bool = False) -> Files:
    """The files of a case, all there; see :func:`evaluate`.

    Raises:
        CohortError: one is not.
    """
    if case.mask is None:
        raise CohortError(
            f"case {case.case_id}: no reference mask; name one in column 'mask', or leave the "
            "case out"
        )
    named = ""
    if predictions is not None:
        prediction = predictions / case.case_id / MASK_NAME
    elif case.row.get("prediction"):
        prediction = Path(case.row["prediction"])
        named = prediction.name
    else:
        raise CohortError(
            f"case {case.case_id}: no prediction; give a folder of predictions, or name the file "
            "in column 'prediction'"
        )
    if not prediction.is_file():
        raise CohortError(
            f"case {case.case_id}: no prediction {named or f'{case.case_id}/{MASK_NAME}'}; "
            "segment this case first, or leave it out of the cohort"
        )
    if within_brain and case.brain_mask is None:
        raise CohortError(
            f"case {case.case_id}: no brain mask to count voxels in; name one in column "
            "'brain_mask', or count in the whole grid"
        )
    brain = case.brain_mask if within_brain else None
    return Files(prediction, case.mask, _probability(case, predictions), brain)


def _probability(case: Case, predictions: Path | None) -> Path | None:
    """A case's probabilities: a folder need not have them, but what a table names must be there."""
    if predictions is not None:
        path = predictions / case.case_id / PROBABILITY_NAME
        return path if path.is_file() else None
    named = case.row.get("probability")
    return Path(named) if named else None


def read_masks(files: Files) -> tuple[Volume, Volume]:
    """Reference and prediction of a case on one grid, whatever axis order either file has.

    Returns:
        Both with the reference's axes in nearest-RAS order, so that nothing which is scored or
        drawn depends on how a converter laid out a file.

    Raises:
        InputError: one is not a mask, or they do not lie on the same voxels.
    """
    reference = to_nearest_ras(nifti.read_labels(files.reference))
    prediction = nifti.read_labels(files.prediction)
    return reference, on_grid(prediction, reference.grid, "prediction and reference")


def _score_files(job: _Job) -> CaseScores:
    files = job.files
    try:
        probability = None if files.probability is None else nifti.read(files.probability).volume
        brain = None if files.brain is None else nifti.read_labels(files.brain)
        reference, prediction = read_masks(files)
        grid = reference.grid
        scores = score(
            prediction,
            reference,
            case_id=job.case_id,
            target_labels=job.target_labels,
            domain=brain and on_grid(brain, grid, "brain mask and reference"),
            probability=probability and on_grid(probability, grid, "probability and reference"),
            candidate_rule=_rule_beside(files.prediction),
            scoring=job.scoring,
        )
    except InputError as error:
        raise type(error)(f"case {job.case_id}: {error}") from error
    return replace(scores, patient_id=job.patient_id, covariates=job.covariates)


def _rule_beside(prediction: Path) -> DecisionRule | None:
    """The decision rule that made a prediction, if ``report.json`` lies beside it and tells.

    For the probabilities as they are told, which lie beside it too.
    """
    path = prediction.with_name(REPORT_NAME)
    if not path.is_file():
        return None
    try:
        made = json.loads(path.read_text(encoding="utf-8"))["provenance"]
        rule, temperature = made["decision_rule"], made.get("options", {}).get("temperature", 1.0)
        if rule is None:
            return None
        rule = from_mapping(DecisionRule, dict(rule))
        return rule if temperature == 1 else rule.told(float(temperature))
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError,
    ) as error:  # fmt: skip
        raise ReadError(
            f"{REPORT_NAME}: not a report ({type(error).__name__}); make the prediction again, or "
            "remove the file"
        ) from error
