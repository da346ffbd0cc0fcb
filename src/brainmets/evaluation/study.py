"""A whole evaluation: predictions and a cohort in, a folder of tables and a page out."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import scipy

import brainmets
from brainmets.cohort import FILES as FILE_COLUMNS
from brainmets.cohort import Cohort
from brainmets.errors import CohortError, ConfigError
from brainmets.evaluation.case import CaseScores, Scoring, require_labels, score, score_names
from brainmets.evaluation.evaluate import evaluate, require_references
from brainmets.evaluation.froc import LUNA_FALSE_POSITIVES
from brainmets.evaluation.matching import in_words
from brainmets.evaluation.page import render
from brainmets.evaluation.pictures import worst_cases
from brainmets.evaluation.statistics import RESAMPLES
from brainmets.evaluation.summary import SEED, summarise
from brainmets.evaluation.tables import place_for_scores, write_scores
from brainmets.volume import Grid, Volume

MOST_FALSE_POSITIVES = 100.0
"""Per scan; no reader would look at more, and the drawn curve grows with it."""


@dataclass(frozen=True)
class Options:
    """How a cohort is evaluated.

    Attributes:
        target_labels: labels of the references that are to be found; None: all above 0.
        within_brain: count voxels within the cohort's brain masks alone.
        scoring: which scores by which rules.
        false_positives: per scan, operating points of the free-response curve.
        covariates: columns of the cohort to keep with the scores.
        workers: processes; the results do not depend on it.

    Raises:
        ConfigError: an operating point that is not above 0 or above
            :data:`MOST_FALSE_POSITIVES`, or none; a target label below 1.
    """

    target_labels: tuple[int, ...] | None = None
    within_brain: bool = False
    scoring: Scoring = field(default_factory=Scoring)
    false_positives: tuple[float, ...] = LUNA_FALSE_POSITIVES
    covariates: tuple[str, ...] = ()
    workers: int = 1

    def __post_init__(self) -> None:
        """Check labels and operating points."""
        require_labels(self.target_labels, "target")
        points = self.false_positives
        if not points or not all(0 < point <= MOST_FALSE_POSITIVES for point in points):
            raise ConfigError(
                f"operating points {points}; expected numbers above 0, at most "
                f"{MOST_FALSE_POSITIVES:g} false positives per scan"
            )


def run_study(
    predictions: Path | None,
    cohort: Cohort,
    out: Path | None = None,
    *,
    options: Options | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Mapping[str, Any]:
    """Score a cohort and, if ``out`` is given, write tables and a page.

    Args:
        predictions: folder, or None for the cohort's own columns; see
            :func:`brainmets.evaluation.evaluate.evaluate`.
        cohort: each case with a reference mask.
        out: folder to write, whole or not at all.
        options: how; None: the usual way.
        progress: called with the number of cases done and of all.

    Returns:
        The summary.

    Raises:
        CohortError: cases and predictions do not belong together; the message names one.
        InputError: a file cannot be used; the message names its case.
        WriteError: ``out`` cannot be written to, or holds something else.
    """
    options = options or Options()
    _require_covariates(cohort, options)
    if out is not None:
        out = place_for_scores(out)
    if predictions is not None:
        require_references(predictions, cohort)
    cases = evaluate(
        predictions,
        cohort,
        target_labels=options.target_labels,
        within_brain=options.within_brain,
        scoring=options.scoring,
        covariates=options.covariates,
        workers=options.workers,
        progress=progress,
    )
    summary = summarise(cases, false_positives=options.false_positives)
    summary["settings"] = settings_of(options)
    summary["warnings"] = _warnings(cases, options)
    if out is not None:
        page = _page(cases, summary, cohort, predictions, options)
        write_scores(cases, out, summary=summary, page=page)
    return summary


def _require_covariates(cohort: Cohort, options: Options) -> None:
    """Refuse covariates that the cohort lacks, or that would hide a column of scores.

    Raises:
        CohortError: there is one.
    """
    grid = Grid((2, 2, 2), np.eye(4))
    blank, likely = (Volume(np.zeros(grid.shape, kind), grid) for kind in (np.uint8, np.float32))
    plain = dataclasses.replace(options.scoring, brats=())
    scores = score_names([score(blank, blank, probability=likely, scoring=plain)])
    taken = {"case", "patient", "undefined", *FILE_COLUMNS, *scores}
    known = sorted({name for case in cohort for name in case.row} - taken)
    for name in options.covariates:
        if name in taken:
            raise CohortError(
                f"covariate {name!r}: the name of a column of files or scores; rename the column"
            )
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"found {', '.join(known) or 'none'}"
            raise CohortError(f"covariate {name!r}: the cohort has no such column; {hint}")


def _warnings(cases: Sequence[CaseScores], options: Options) -> list[str]:
    """What may be a mistake, though it can be scored."""
    found = {label for case in cases for label in case.target_found}
    return [
        f"target label {label} occurs in no reference of the cohort; check the number"
        for label in options.target_labels or ()
        if label not in found
    ]


def settings_of(options: Options) -> dict[str, Any]:
    """All that the results depend on besides the files."""
    scoring = options.scoring
    every = "all above 0"
    return {
        "matching rule": in_words(scoring.rule),
        "reference labels": list(options.target_labels or ()) or every,
        "predicted labels": list(scoring.predicted_labels or ()) or every,
        "lesions": "26-connected components",
        "voxels counted": "brain mask" if options.within_brain else "whole grid",
        "surface": "elements weighted by area; surface distances over the whole grid",
        "NSD tolerances in mm": list(scoring.nsd_mm),
        "operating points, false positives per scan": list(options.false_positives),
        "BraTS-METS regions": list(scoring.brats),
        "BraTS-METS 2023": dataclasses.asdict(scoring.rules_2023),
        "BraTS-METS 2025": dataclasses.asdict(scoring.rules_2025),
        "bootstrap": {"resamples": RESAMPLES, "seed": SEED, "confidence": 0.95},
        "versions": {
            "brainmets": brainmets.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "matplotlib": version("matplotlib"),
        },
    }


def _page(
    cases: Sequence[CaseScores],
    summary: Mapping[str, Any],
    cohort: Cohort,
    predictions: Path | None,
    options: Options,
) -> str:
    worst = worst_cases(
        cases,
        cohort,
        predictions,
        target_labels=options.target_labels,
        predicted_labels=options.scoring.predicted_labels,
    )
    return render(cases, summary, worst)
