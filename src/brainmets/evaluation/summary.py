"""Many cases in one summary: means and medians per score, and lesions pooled by size."""

import math
import statistics
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np

from brainmets.evaluation.case import CaseScores, score_names
from brainmets.evaluation.lesionwise import SIZE_BINS, MatchedLesion, detection_scores
from brainmets.evaluation.scores import Score, ratio
from brainmets.evaluation.statistics import RESAMPLES, Interval, bootstrap
from brainmets.evaluation.voxel import WHY_SPECIFICITY_IS_HIGH

SEED = 2025
"""Of the bootstrap: the same scores give the same intervals."""


@dataclass(frozen=True)
class Table:
    """A table for the eye: a title, a header and rows of text."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def summarise(cases: Sequence[CaseScores], *, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Summarise the scores of a cohort.

    Args:
        cases: their scores; cases of one patient are drawn together for the intervals.
        resamples: of the bootstrap, see :func:`brainmets.evaluation.statistics.bootstrap`.

    Returns:
        ``cases``: how many; ``patients``: of how many patients. ``domain``: where voxels count,
        and why specificity is high there. ``per_case``: for each score its mean and median
        over the cases where it is defined, each with a 95 % interval (BCa and percentile),
        how many those are, and for the others each reason with its count. ``pooled``:
        lesion sensitivity, precision and F1 over all lesions together, and false positives
        per scan. ``by_size``: the same lesions by bin of their own equivalent diameter. An
        undefined value is NaN, its reason stands beside it.
    """
    owners = [_owner(case) for case in cases]
    reference = tuple(chain.from_iterable(case.lesions.reference for case in cases))
    prediction = tuple(chain.from_iterable(case.lesions.prediction for case in cases))
    return {
        "cases": len(cases),
        "patients": len(set(owners)),
        "domain": {
            "voxels": " and ".join(sorted({case.domain for case in cases})),
            "note": WHY_SPECIFICITY_IS_HIGH,
        },
        "per_case": {
            name: _describe([case.score_of(name) for case in cases], owners, resamples)
            for name in score_names(cases)
        },
        "pooled": {
            **_pooled(reference, prediction),
            "false_positives_per_scan": _plain(
                ratio(sum(not p.matched for p in prediction), len(cases), "there is no case")
            ),
        },
        "by_size": {
            name: _pooled(
                [r for r in reference if r.size_bin == name],
                [p for p in prediction if p.size_bin == name],
            )
            for name in SIZE_BINS
        },
    }


def tables(summary: dict[str, Any]) -> tuple[Table, Table]:
    """A summary as two tables to print: scores over cases, and lesions by size."""
    scores = tuple(
        (name, _text(s["mean"]), _text(s["median"]), str(s["defined"]), str(s["undefined"]))
        for name, s in summary["per_case"].items()
    )
    sizes = tuple(
        (
            name,
            f"{row['found']}/{row['reference_lesions']}",
            _text(row["lesion_sensitivity"]["value"]),
            str(row["false_positives"]),
            _text(row["lesion_precision"]["value"]),
        )
        for name, row in (*summary["by_size"].items(), ("all", summary["pooled"]))
    )
    return (
        Table(
            f"Scores over {summary['cases']} cases",
            ("score", "mean", "median", "defined", "undefined"),
            scores,
        ),
        Table(
            "Lesions by equivalent diameter",
            ("size", "found", "sensitivity", "false positives", "precision"),
            sizes,
        ),
    )


def _owner(case: CaseScores) -> Hashable:
    """Whose case it is; a patient without identifier is never taken for another one."""
    return ("case", case.case_id) if case.patient_id is None else ("patient", case.patient_id)


def _describe(
    scores: Sequence[Score], owners: Sequence[Hashable], resamples: int
) -> dict[str, Any]:
    values = [s.value for s in scores if s.defined]
    reasons = Counter(s.reason for s in scores if s.reason is not None)
    every, rng = [s.value for s in scores], np.random.default_rng(SEED)
    mean = bootstrap(every, rng, patients=owners, resamples=resamples)
    median = bootstrap(
        every, rng, statistic="median", method="percentile", patients=owners, resamples=resamples
    )
    return {
        "mean": statistics.fmean(values) if values else math.nan,
        "mean_interval": _ends(mean),
        "median": statistics.median(values) if values else math.nan,
        "median_interval": _ends(median),
        "defined": len(values),
        "undefined": len(scores) - len(values),
        "reasons": dict(sorted(reasons.items())),
    }


def _pooled(
    reference: Sequence[MatchedLesion], prediction: Sequence[MatchedLesion]
) -> dict[str, Any]:
    return {
        "reference_lesions": len(reference),
        "found": sum(r.matched for r in reference),
        "predicted_lesions": len(prediction),
        "false_positives": sum(not p.matched for p in prediction),
        **{k: _plain(s) for k, s in detection_scores(reference, prediction).items()},
    }


def _ends(interval: Interval) -> dict[str, Any]:
    """An interval without the counts, which stand beside it."""
    keys = ("low", "high", "confidence", "method", "patients", "reason")
    return {key: value for key, value in asdict(interval).items() if key in keys}


def _plain(score: Score) -> dict[str, Any]:
    return {"value": score.value, "reason": score.reason}


def _text(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
