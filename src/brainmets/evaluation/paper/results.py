"""The tables of a study, from its patients: plain rows, ready for CSV."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from brainmets.evaluation.calibration import BINS, expected_error
from brainmets.evaluation.froc_intervals import froc_summary
from brainmets.evaluation.lesionwise import SIZE_BINS
from brainmets.evaluation.paper.auc import area
from brainmets.evaluation.paper.comparisons import (
    FEW,
    Comparison,
    compare_groups,
    compare_pairs,
    saving,
)
from brainmets.evaluation.paper.families import (
    benjamini_hochberg,
    detectable_delta,
    detectable_difference,
    holm,
)
from brainmets.evaluation.paper.plan import ALL, BETWEEN, DESCRIBED, Study, Subgroup
from brainmets.evaluation.paper.rows import COMPUTED, Group, Row
from brainmets.evaluation.patientwise import (
    Z_95,
    Patient,
    any_metastasis,
    burden_agreement,
    count_agreement,
    statistics_of,
)
from brainmets.evaluation.statistics import bootstrap, draw, interval, percentile_interval

Cells = dict[str, Any]
ERROR = "expected error from 0.1"
"""Of calibration, in the column of probabilities."""


@dataclass(frozen=True)
class Results:
    """Every table by name; a table is a list of rows with the same keys.

    Attributes:
        tables: ``flow``, ``table1``, ``results``, ``tests``, ``times``, ``lesions``, ``agreement``,
            ``froc``, ``calibration``, ``undefined``.
        curves: free-response curve of each cohort that has one.
        warnings: what a reader must know before believing an interval.
    """

    tables: Mapping[str, Sequence[Cells]]
    warnings: tuple[str, ...]
    curves: Mapping[str, Mapping[str, Any]]


def results_of(study: Study, groups: Sequence[Group]) -> Results:
    """All tables; the same patients and study give the same numbers."""
    scored = [group for group in groups if group.part.role != DESCRIBED]
    curves = {group.part.name: _froc(study, group) for group in scored}
    tables = {
        "flow": [_flow_row(group) for group in groups],
        "table1": [row for group in groups for row in _table1(study, group)],
        "results": [row for group in scored for row in _described(study, group)],
        "tests": _tests(study, scored),
        "times": [row for group in scored for row in _times(study, group)],
        "lesions": [row for group in scored for row in _lesions(study, group)],
        "agreement": [row for group in scored for row in _agreement(study, group)],
        "froc": [row for name, curve in curves.items() for row in _points(name, curve)],
        "calibration": [row for group in scored for row in _calibration(study, group)],
        "undefined": [row for group in scored for row in _undefined(study, group)],
    }
    told = [*_warnings(study, scored, tables)]
    told += [f"{n}: no free-response curve ({c['reason']})" for n, c in curves.items() if c["told"]]
    drawn = {name: curve for name, curve in curves.items() if not curve["reason"]}
    return Results(tables, tuple(told), drawn)


def address(tables: Mapping[str, Sequence[Cells]], table: str, row: Cells, column: str) -> str:
    """``tests.csv#cell=4,7``: rows and columns from 1, the header is row 1 (RFC 7111)."""
    line = next(n for n, other in enumerate(tables[table]) if other is row)
    return f"{table}.csv#cell={line + 2},{list(row).index(column) + 1}"


def split_rows(subgroup: Subgroup, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Patients by group, in the order of the cuts or of the alphabet; without a value: left out."""
    groups: dict[str, list[Row]] = {name: [] for name in subgroup.names}
    for row in rows:
        groups.setdefault(subgroup.group_of(_text(row, subgroup.column)), []).append(row)
    groups.pop("", None)
    order = list(subgroup.names) or sorted(groups)
    return {name: groups[name] for name in order if groups[name]}


def _text(row: Row, column: str) -> str:
    if column in COMPUTED and column not in row.columns:
        value = row.value(column)
        return "" if math.isnan(value) else f"{value:g}"
    return row.columns.get(column, "")


def _rng(study: Study) -> np.random.Generator:
    return np.random.default_rng(study.seed)


def _values(rows: Sequence[Row], name: str) -> list[float]:
    return [row.value(name) for row in rows]


def _flow_row(group: Group) -> Cells:
    """How a cohort's scans became its patients."""
    bare = sum(row.value("reference_lesions") == 0 for row in group.rows)
    return {
        "cohort": group.part.name, "role": group.part.role, "scans_in_table": group.listed,
        "of_another_split": group.left_out, "scans_analysed": sum(r.cases for r in group.rows),
        "patients": len(group.rows),
        "without_lesion": math.nan if group.part.role == DESCRIBED else bare,
    }  # fmt: skip


def _table1(study: Study, group: Group) -> Iterator[Cells]:
    rows, name = group.rows, group.part.name

    def line(what: str, level: str, count: float, share: float, text: str) -> Cells:
        return {
            "cohort": name, "role": group.part.role, "characteristic": what, "level": level,
            "count": count, "share": share, "summary": text,
        }  # fmt: skip

    yield line("patients", "", len(rows), math.nan, "")
    yield line("scans", "", sum(row.cases for row in rows), math.nan, "")
    yield line("scans of another split", "left out", group.left_out, math.nan, "")
    numbers = {
        "age": [float(row.columns["age"]) for row in rows if row.columns.get("age")],
        **{what: _values(rows, what) for what in ("reference_lesions", "reference_mm3")},
    }
    for what, values in numbers.items():
        there = [v for v in values if not math.isnan(v)]
        if there:
            low, middle, high = np.quantile(there, [0.25, 0.5, 0.75])
            text = f"median {middle:.3g} (quartiles {low:.3g} to {high:.3g})"
            yield line(what, "", len(there), math.nan, text)
    for subgroup in study.subgroups:
        parts = split_rows(subgroup, rows)
        for level, members in parts.items():
            yield line(subgroup.column, level, len(members), len(members) / len(rows), "")
        unknown = len(rows) - sum(map(len, parts.values()))
        if unknown and group.part.role != DESCRIBED:
            yield line(subgroup.column, "unknown", unknown, unknown / len(rows), "")


def _described(study: Study, group: Group) -> Iterator[Cells]:
    """Each measure over all patients and over each subgroup's."""
    levels = [(ALL, "", list(group.rows))]
    levels += [
        (subgroup.column, level, rows)
        for subgroup in study.subgroups
        for level, rows in split_rows(subgroup, group.rows).items()
    ]
    for column, level, rows in levels:
        for measure in study.measures:
            yield _one(study, group.part.name, column, level, measure, rows)


def _one(
    study: Study, cohort: str, column: str, level: str, measure: str, rows: Sequence[Row]
) -> Cells:
    values = np.array(_values(rows, measure))
    defined = values[~np.isnan(values)]
    mean = bootstrap(values, _rng(study), resamples=study.resamples)
    middle = bootstrap(
        values, _rng(study), statistic="median", method="percentile", resamples=study.resamples
    )
    return {
        "cohort": cohort, "subgroup": column, "level": level, "measure": measure,
        "patients": defined.size, "undefined": values.size - defined.size,
        "mean": float(defined.mean()) if defined.size else math.nan,
        "mean_low": mean.low, "mean_high": mean.high,
        "sd": float(defined.std(ddof=1)) if defined.size > 1 else math.nan,
        "median": float(np.median(defined)) if defined.size else math.nan,
        "median_low": middle.low, "median_high": middle.high,
        "no_interval": mean.reason or "",
    }  # fmt: skip


def _tests(study: Study, groups: Sequence[Group]) -> list[Cells]:
    """Each subgroup on each tested measure; one family a cohort, one between cohorts."""
    found: list[Cells] = []
    for group in groups:
        family = [
            _test_row(group.part.name, subgroup.column, measure, parts, _rng(study))
            for subgroup in study.subgroups
            for parts in [split_rows(subgroup, group.rows)]
            for measure in study.tested
        ]
        found += _adjusted(family)
    if len(groups) > 1:
        parts = {group.part.name: list(group.rows) for group in groups}
        between = [_test_row(ALL, BETWEEN, m, parts, _rng(study)) for m in study.tested]
        found += _adjusted(between)
    return found


def _test_row(
    cohort: str,
    column: str,
    measure: str,
    parts: Mapping[str, Sequence[Row]],
    rng: np.random.Generator,
) -> Cells:
    base = {"cohort": cohort, "subgroup": column, "measure": measure}
    if len(parts) < 2:
        return {**base, **_comparison(None), "reason": "fewer than two groups"}
    values = {name: _values(rows, measure) for name, rows in parts.items()}
    made = compare_groups(values, rng)
    sizes = list(made.sizes.values())
    delta = detectable_delta(*sizes) if len(sizes) == 2 else math.nan
    return {**base, **_comparison(made), "detectable": delta, "reason": made.reason or ""}


def _comparison(made: Comparison | None) -> Cells:
    nan = math.nan
    if made is None:
        return {
            "groups": "", "test": "", "statistic": nan, "p": nan, "effect": "", "size": nan,
            "low": nan, "high": nan, "excluded": 0, "few": False, "detectable": nan,
        }  # fmt: skip
    return {
        "groups": "; ".join(f"{name} (n = {size})" for name, size in made.sizes.items()),
        "test": made.test, "statistic": made.statistic, "p": made.p, "effect": made.effect,
        "size": made.size, "low": made.low, "high": made.high, "excluded": made.excluded,
        "few": made.few, "detectable": nan,
    }  # fmt: skip


def _adjusted(family: Sequence[Cells]) -> list[Cells]:
    p = [row["p"] for row in family]
    pairs = zip(family, holm(p), benjamini_hochberg(p), strict=True)
    return [{**row, "p_holm": float(h), "p_bh": float(b)} for row, h, b in pairs]


def _times(study: Study, group: Group) -> Iterator[Cells]:
    """Manual and model seconds of the same patients."""
    manual, model = (_values(group.rows, name) for name in ("manual_time_s", "model_time_s"))
    pairs = [(a, b) for a, b in zip(manual, model, strict=True) if not math.isnan(a + b)]
    if not pairs:
        return
    made = compare_pairs(manual, model, _rng(study))
    saved = saving(manual, model, _rng(study))
    one, two = np.array(pairs).T
    sd = float((one - two).std(ddof=1)) if len(pairs) > 1 else math.nan
    yield {
        "cohort": group.part.name, "patients": len(pairs), "excluded": made.excluded,
        "manual_mean_s": float(one.mean()), "model_mean_s": float(two.mean()),
        "manual_median_s": float(np.median(one)), "model_median_s": float(np.median(two)),
        "saved_mean_s": made.size, "saved_low_s": made.low, "saved_high_s": made.high,
        "saved_share": saved.share, "saved_share_low": saved.low, "saved_share_high": saved.high,
        "test": made.test, "p": made.p, "detectable_s": detectable_difference(sd, len(pairs)),
        "reason": made.reason or "",
    }  # fmt: skip


def _lesions(study: Study, group: Group) -> Iterator[Cells]:
    """Sensitivity by size over all lesions, drawn with their patients."""
    weights = draw(len(group.rows), _rng(study), study.resamples)
    for name in (*SIZE_BINS, ALL):
        bins = SIZE_BINS if name == ALL else (name,)
        there = np.array([sum(row.lesions.get(b, 0) for b in bins) for row in group.rows], float)
        found = np.array([sum(row.found.get(b, 0) for b in bins) for row in group.rows], float)

        def share(
            w: np.ndarray[Any, np.dtype[np.float64]], there: Any = there, found: Any = found
        ) -> Any:
            return (w @ found) / (w @ there)

        bounds = interval(share, weights, patients=int((there > 0).sum()))
        total = there.sum()
        yield {
            "cohort": group.part.name, "size": name, "lesions": int(total),
            "found": int(found.sum()), "patients": int((there > 0).sum()),
            "sensitivity": float(found.sum() / total) if total else math.nan,
            "low": bounds.low, "high": bounds.high,
            "no_interval": bounds.reason or "",
        }  # fmt: skip


def _froc(study: Study, group: Group) -> dict[str, Any]:
    """The free-response curve, if every scan has probabilities by one rule."""
    scans = [(n, c) for n, row in enumerate(group.rows) for c in row.candidates]
    without = sum(row.cases for row in group.rows) - len(scans)
    reason = "" if scans else "no probabilities"
    if scans and without:
        reason = f"{without} scans have no probabilities"
    if len({c.rule for _, c in scans}) > 1:
        reason = "predicted by different decision rules"
    if not sum(c.scan.lesions for _, c in scans):
        reason = reason or "no lesions"
    if reason:
        return {"reason": reason, "told": bool(scans)}
    weights = draw(len(group.rows), _rng(study), study.resamples)
    found = froc_summary([c.scan for _, c in scans], [n for n, _ in scans], weights)
    return {"reason": "", "told": False, **found}


def _points(cohort: str, curve: Mapping[str, Any]) -> Iterator[Cells]:
    for point in curve.get("operating_points", ()):
        sensitivity = point["sensitivity"]
        yield {
            "cohort": cohort, "false_positives_per_scan": point["allowed"],
            "sensitivity": sensitivity["value"], "low": sensitivity["interval"]["low"],
            "high": sensitivity["interval"]["high"],
        }  # fmt: skip


def patients_of(rows: Sequence[Row]) -> tuple[Patient, ...]:
    """For agreement: counts and volumes, a patient's several cases added up."""
    return tuple(
        Patient(
            row.patient,
            *(round(row.cases * row.value(n)) for n in ("reference_lesions", "predicted_lesions")),
            *(row.cases * row.value(n) for n in ("reference_mm3", "predicted_mm3")),
        )
        for row in rows
    )


def _agreement(study: Study, group: Group) -> Iterator[Cells]:
    patients = patients_of(group.rows)
    scores = {
        **any_metastasis(patients),
        **count_agreement(patients),
        **burden_agreement(patients),
    }
    weights = draw(len(patients), _rng(study), study.resamples)
    for name, statistic in statistics_of(patients).items():
        bounds = interval(statistic, weights)
        yield {
            "cohort": group.part.name, "measure": name, "patients": len(patients),
            "value": scores[name].value, "low": bounds.low, "high": bounds.high,
            "reason": scores[name].reason or bounds.reason or "",
        }  # fmt: skip
    if patient_scores(group)[0]:
        yield _patient_auc(group)


def patient_scores(group: Group) -> tuple[list[float], list[bool]]:
    """The surest candidate of each patient, and whether there is a lesion.

    Nothing unless all scans have probabilities, by one decision rule.
    """
    rows = [row for row in group.rows if len(row.candidates) == row.cases]
    if len(rows) < len(group.rows) or len({c.rule for r in rows for c in r.candidates}) > 1:
        return [], []
    return (
        [max(c.surest for c in row.candidates) for row in rows],
        [any(c.scan.lesions for c in row.candidates) for row in rows],
    )


def _patient_auc(group: Group) -> Cells:
    found = area(*patient_scores(group))
    few = min(found.positives, found.negatives) < 2
    half = Z_95 * math.sqrt(found.variance) if found.variance > 0 and not few else math.nan
    reason = found.reason or ("fewer than two patients of a class" if few else "")
    return {
        "cohort": group.part.name, "measure": "patient_auc",
        "patients": found.positives + found.negatives, "value": found.value,
        "low": found.value - half, "high": found.value + half, "reason": reason,
    }  # fmt: skip


def _calibration(study: Study, group: Group) -> Iterator[Cells]:
    """Share of lesion by probability, intervals drawn by patient; the last row is the error."""
    rows = group.rows
    if not all(len(row.candidates) == row.cases for row in rows):
        return
    kinds = ("voxels", "lesion", "probability")
    counts = [
        np.array([np.sum([getattr(c.reliability, kind) for c in r.candidates], 0) for r in rows])
        for kind in kinds
    ]
    weights = draw(len(rows), _rng(study), study.resamples)
    drawn = [weights @ count for count in counts]
    total = [count.sum(axis=0) for count in counts]
    with np.errstate(invalid="ignore", divide="ignore"):
        shares, means, spread = total[1] / total[0], total[2] / total[0], drawn[1] / drawn[0]
    for n in range(BINS):
        bounds = percentile_interval(spread[:, n], int((counts[0][:, n] > 0).sum()))
        yield {
            "cohort": group.part.name, "probability": f"{n / BINS:g} to {(n + 1) / BINS:g}",
            "voxels": int(total[0][n]), "mean_probability": float(means[n]),
            "share": float(shares[n]), "low": bounds.low, "high": bounds.high,
        }  # fmt: skip
    bounds = percentile_interval(expected_error(*drawn), len(rows))
    yield {
        "cohort": group.part.name, "probability": ERROR, "voxels": int(total[0][1:].sum()),
        "mean_probability": math.nan, "share": float(expected_error(*total)),
        "low": bounds.low, "high": bounds.high,
    }  # fmt: skip


def _undefined(study: Study, group: Group) -> Iterator[Cells]:
    counted = Counter(
        (measure, row.reasons.get(measure, "no value"))
        for measure in study.measures
        for row in group.rows
        if math.isnan(row.value(measure))
    )
    for (measure, reason), count in counted.items():
        yield {
            "cohort": group.part.name, "measure": measure, "reason": reason, "patients": count,
        }  # fmt: skip


def _warnings(
    study: Study, groups: Sequence[Group], tables: Mapping[str, Sequence[Cells]]
) -> Iterator[str]:
    if any(group.mixed for group in groups):
        yield "auc: some scans have no probabilities; every AUC is that of the mask"
    for group in groups:
        models = frozenset[str]().union(*(row.models for row in group.rows))
        if len(models) > 1:
            names = ", ".join(sorted(models))
            yield f"{group.part.name}: masks were made by {len(models)} models ({names})"
        if len(group.rows) < FEW:
            yield (
                f"{group.part.name}: {len(group.rows)} patients; below {FEW} intervals cover less "
                "often than they say"
            )
    skipped: dict[tuple[str, str, str], list[str]] = {}
    for row in tables["tests"]:
        if row["reason"]:
            key = (row["cohort"], row["measure"], row["reason"])
            skipped.setdefault(key, []).append(row["subgroup"])
    for (cohort, measure, reason), columns in skipped.items():
        yield f"{cohort}: {measure} not compared by {', '.join(columns)} ({reason})"
    yield from _small(tables["tests"])
    if study.subgroups and not tables["times"]:
        yield "no patient has both a manual and a model time; times are not compared"


def _small(tests: Sequence[Cells]) -> Iterator[str]:
    """Columns of which a group has too few patients."""
    small: dict[str, list[str]] = {}
    for row in tests:
        columns = small.setdefault(row["cohort"], [])
        if row["few"] and row["subgroup"] not in columns:
            columns.append(row["subgroup"])
    for cohort, columns in small.items():
        if columns:
            yield (
                f"{cohort}: groups of fewer than {FEW} patients by {', '.join(columns)}; a "
                "difference not shown there is no sign that there is none"
            )
