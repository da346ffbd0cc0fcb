"""Many cases in one summary: scores over cases, lesions pooled, curves, and per patient."""

import math
import statistics
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from brainmets.evaluation.case import NO_PROBABILITIES, CaseScores, score_names
from brainmets.evaluation.froc import LUNA_FALSE_POSITIVES
from brainmets.evaluation.froc_intervals import froc_summary
from brainmets.evaluation.patientwise import (
    Patient,
    any_metastasis,
    burden_agreement,
    count_agreement,
    statistics_of,
)
from brainmets.evaluation.pooled import described, ends, pooled_scores
from brainmets.evaluation.scores import Score
from brainmets.evaluation.statistics import (
    RESAMPLES,
    draw,
    interval,
    weighted_mean,
    weighted_median,
)
from brainmets.evaluation.voxel import WHY_SPECIFICITY_IS_HIGH

FloatArray = npt.NDArray[np.float64]

SEED = 2025
"""Of the bootstrap: the same scores give the same intervals."""


@dataclass(frozen=True)
class Table:
    """A table for the eye: a title, a header and rows of text."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Draws:
    """Whose case is whose, and the patients drawn for all intervals of a cohort.

    Attributes:
        owner: the number of each case's patient.
        weights: how often each patient was drawn, shape (resamples, patients).
    """

    owner: tuple[int, ...]
    weights: FloatArray


def summarise(
    cases: Sequence[CaseScores],
    *,
    resamples: int = RESAMPLES,
    false_positives: Sequence[float] = LUNA_FALSE_POSITIVES,
) -> dict[str, Any]:
    """Summarise the scores of a cohort.

    Args:
        cases: their scores; cases of one patient are drawn together for the intervals.
        resamples: of the bootstrap, see :mod:`brainmets.evaluation.statistics`.
        false_positives: per scan, operating points of the free-response curve.

    Returns:
        ``cases``: how many; ``patients``: of how many patients. ``domain``: where voxels count,
        and why specificity is high there. ``per_case``: for each score its mean and median
        over the cases where it is defined, each with a 95 % interval (BCa and percentile),
        how many those are, and for the others each reason with its count. ``brats``: the same
        by region. ``pooled``: lesion scores over all lesions together, with intervals.
        ``by_size``: the same by bin of the lesions' own equivalent diameter. ``froc``: see
        :func:`brainmets.evaluation.froc_intervals.froc_summary`. ``per_patient``: any
        metastasis, agreement of counts and of burden. An undefined value is NaN, its
        reason stands beside it.
    """
    draws = _draws(cases, resamples)
    every, by_size = pooled_scores(cases, draws.owner, draws.weights)
    return {
        "cases": len(cases),
        "patients": len(set(draws.owner)),
        "domain": {
            "voxels": " and ".join(sorted({case.domain for case in cases})),
            "note": WHY_SPECIFICITY_IS_HIGH,
        },
        "per_case": {
            name: _describe([case.score_of(name) for case in cases], draws)
            for name in score_names(cases)
        },
        "brats": {
            region: {
                name: _describe([case.brats[region][name] for case in cases], draws)
                for name in cases[0].brats[region]
            }
            for region in (cases[0].brats if cases else ())
        },
        "pooled": every,
        "by_size": by_size,
        "froc": _froc(cases, draws, false_positives),
        "per_patient": _per_patient(patients_of(cases), draws.weights),
    }


def patients_of(cases: Sequence[CaseScores]) -> tuple[Patient, ...]:
    """One row per patient: the sums over the patient's cases."""
    groups: dict[Hashable, list[CaseScores]] = {}
    for case in cases:
        groups.setdefault(owner_of(case), []).append(case)
    sums = ("reference_lesions", "predicted_lesions", "reference_mm3", "predicted_mm3")
    rows = []
    for group in groups.values():
        there, said, there_mm3, said_mm3 = (
            math.fsum(case.scores[name].value for case in group) for name in sums
        )
        name = group[0].patient_id or group[0].case_id
        rows.append(Patient(name, round(there), round(said), there_mm3, said_mm3))
    return tuple(rows)


def tables(summary: Mapping[str, Any]) -> tuple[Table, Table]:
    """A summary as two tables to print: scores over cases, and lesions by size."""
    scores = tuple(
        (
            name,
            _text(s["mean"]),
            _range(s["mean_interval"]),
            _text(s["median"]),
            str(s["defined"]),
            str(s["undefined"]),
        )
        for name, s in summary["per_case"].items()
    )
    sizes = tuple(
        (
            name,
            f"{row['found']}/{row['reference_lesions']}",
            _text(row["lesion_sensitivity"]["value"]),
            _range(row["lesion_sensitivity"]["interval"]),
            str(row["false_positives"]),
            _text(row["lesion_precision"]["value"]),
        )
        for name, row in (*summary["by_size"].items(), ("all", summary["pooled"]))
    )
    return (
        Table(
            f"Scores over {summary['cases']} cases",
            ("score", "mean", "95 % interval", "median", "defined", "undefined"),
            scores,
        ),
        Table(
            "Lesions by equivalent diameter",
            ("size", "found", "sensitivity", "95 % interval", "false positives", "precision"),
            sizes,
        ),
    )


def undefined_counts(summary: Mapping[str, Any]) -> tuple[tuple[str, str, int], ...]:
    """Every score over cases that is undefined somewhere: name, reason, in how many cases."""
    groups = chain(
        [("", summary["per_case"])],
        ((f"{region} ", scores) for region, scores in summary["brats"].items()),
    )
    return tuple(
        (prefix + name, reason, count)
        for prefix, scores in groups
        for name, described_ in scores.items()
        for reason, count in described_["reasons"].items()
    )


def _draws(cases: Sequence[CaseScores], resamples: int) -> Draws:
    numbers: dict[Hashable, int] = {}
    owner = tuple(numbers.setdefault(owner_of(case), len(numbers)) for case in cases)
    return Draws(owner, draw(len(numbers), np.random.default_rng(SEED), resamples))


def owner_of(case: CaseScores) -> Hashable:
    """Whose case it is; a patient without identifier is never taken for another one."""
    return ("case", case.case_id) if case.patient_id is None else ("patient", case.patient_id)


def _describe(scores: Sequence[Score], draws: Draws) -> dict[str, Any]:
    reasons = Counter(s.reason for s in scores if s.reason is not None)
    values = np.array([s.value for s in scores if s.defined], np.float64)
    owner = np.array([o for o, s in zip(draws.owner, scores, strict=True) if s.defined], np.intp)
    patients = len(set(owner.tolist()))
    mean = interval(
        lambda w: weighted_mean(values, w[..., owner]), draws.weights, patients=patients
    )
    median = interval(
        lambda w: weighted_median(values, w[..., owner]),
        draws.weights,
        method="percentile",
        patients=patients,
    )
    return {
        "mean": statistics.fmean(values) if values.size else math.nan,
        "mean_interval": ends(mean),
        "median": float(np.median(values)) if values.size else math.nan,
        "median_interval": ends(median),
        "defined": values.size,
        "undefined": len(scores) - values.size,
        "reasons": dict(sorted(reasons.items())),
    }


def _froc(
    cases: Sequence[CaseScores], draws: Draws, false_positives: Sequence[float]
) -> dict[str, Any]:
    """The free-response curve of the cases that have candidates, or the reason for none."""
    chosen = [(o, c) for o, c in zip(draws.owner, cases, strict=True) if c.candidates]
    rules = sorted({(c.candidate_rule.low, c.candidate_rule.smallest_mm3)
                    for _, c in chosen if c.candidate_rule})  # fmt: skip
    if not chosen:
        return {"reason": NO_PROBABILITIES}
    if len(rules) > 1:
        return {"reason": "the cases were predicted with different decision rules"}
    return {
        "reason": None,
        "without_probabilities": len(cases) - len(chosen),
        "candidates": {"low": rules[0][0], "smallest_mm3": rules[0][1]},
        **froc_summary(
            [case.candidates for _, case in chosen if case.candidates],
            [owner for owner, _ in chosen],
            draws.weights,
            false_positives,
        ),
    }


def _per_patient(patients: Sequence[Patient], weights: FloatArray) -> dict[str, Any]:
    values = {
        **any_metastasis(patients),
        **count_agreement(patients),
        **burden_agreement(patients),
    }
    functions = statistics_of(patients)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            name: described(value.value, value.reason, interval(functions[name], weights))
            for name, value in values.items()
        }


def rows(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The summary in long form, a statistic a row, in the columns of summary.csv."""
    yield from _case_rows("case", summary["per_case"])
    for region, scores in summary["brats"].items():
        yield from _case_rows(f"brats {region}", scores)
    for name, group in (("all", summary["pooled"]), *summary["by_size"].items()):
        yield from _value_rows(f"lesions {name}", group)
    yield from _value_rows("patients", summary["per_patient"])
    froc = summary["froc"]
    if froc["reason"] is not None:
        yield {"group": "froc", "score": "curve", "reasons": froc["reason"]}
        return
    for point in froc["operating_points"]:
        name = f"sensitivity at {point['allowed']:g} false positives per scan"
        yield from _value_rows("froc", {name: point["sensitivity"]})
    yield from _value_rows("froc", froc)


def _case_rows(group: str, scores: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, score in scores.items():
        for statistic in ("mean", "median"):
            yield {
                "group": group,
                "score": name,
                "statistic": statistic,
                "value": score[statistic],
                **_bounds(score[f"{statistic}_interval"]),
                "defined": score["defined"],
                "undefined": score["undefined"],
                "reasons": "; ".join(f"{r} ({n})" for r, n in score["reasons"].items()),
            }


def _value_rows(group: str, scores: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, score in scores.items():
        if isinstance(score, int):
            yield {"group": group, "score": name, "statistic": "count", "value": score}
        elif isinstance(score, Mapping) and "interval" in score:
            yield {
                "group": group,
                "score": name,
                "statistic": "value",
                "value": score["value"],
                **_bounds(score["interval"]),
                "defined": int(score["reason"] is None),
                "undefined": int(score["reason"] is not None),
                "reasons": score["reason"] or "",
            }


def _bounds(bounds: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "low": bounds["low"],
        "high": bounds["high"],
        "method": bounds["method"],
        "patients": bounds["patients"],
        "no_interval": bounds["reason"] or "",
    }


def _text(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _range(bounds: Mapping[str, Any]) -> str:
    return "–" if math.isnan(bounds["low"]) else f"{bounds['low']:.3f}–{bounds['high']:.3f}"
