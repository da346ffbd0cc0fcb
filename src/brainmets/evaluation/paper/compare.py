"""Two studies of the same patients, say of two models: paired differences."""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from brainmets.errors import CohortError
from brainmets.evaluation.paper.comparisons import Comparison, compare_detections, compare_pairs
from brainmets.evaluation.paper.families import benjamini_hochberg, holm
from brainmets.evaluation.paper.results import Cells
from brainmets.evaluation.paper.run import RECORD, write_csv
from brainmets.io.storage import destination

Patients = Mapping[tuple[str, str], Mapping[str, str]]
"""Rows of patients.csv by cohort and patient."""

DETECTION = "any lesion found"


def compare_studies(
    first: Path, second: Path, table: Path | None = None, *, seed: int = 2025
) -> list[Cells]:
    """Compare two folders that ``study`` wrote, patient by patient.

    Means of measures by Wilcoxon's test with BCa intervals of the mean difference; whether any
    lesion of a patient was found by McNemar's. All tests of one cohort are one family. AUC is left
    out where one study's is that of voxels and the other's that of masks.

    Args:
        first: a study's folder.
        second: another one's, of the same patients and references.
        table: CSV file to write; None: none.
        seed: of the intervals.

    Returns:
        One row for each cohort and measure; differences are first − second.

    Raises:
        CohortError: a folder is no study's, a patient is in one of them only, or the reference
            of a patient differs.
        WriteError: the table cannot be written.
    """
    one, two = _patients(first), _patients(second)
    _require_same("the first", one, two)
    _require_same("the second", two, one)
    measures = [m for m in _measures(first) if m in _measures(second)]
    if _auc(first) != _auc(second):
        measures = [m for m in measures if m != "auc"]  # two different quantities
    rows: list[Cells] = []
    for cohort in dict.fromkeys(cohort for cohort, _ in one):
        keys = [key for key in one if key[0] == cohort]
        rows += _family(cohort, [(one[key], two[key]) for key in keys], measures, seed)
    if table is not None:
        write_csv(destination(table), rows)
    return rows


def _patients(folder: Path) -> Patients:
    path = folder / "patients.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {(row["cohort"], row["patient"]): row for row in rows}
    except (OSError, ValueError, KeyError) as error:
        raise CohortError(
            f"{folder.name}: no patients.csv of a study in it; give the folder that study wrote"
        ) from error


def _auc(folder: Path) -> str:
    """What AUC is in this study, in words."""
    return str(_record(folder)["settings"].get("AUC"))


def _measures(folder: Path) -> list[str]:
    return [str(name) for name in _record(folder)["study"]["measures"]]


def _record(folder: Path) -> dict[str, Any]:
    try:
        stored = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return {"study": stored["study"], "settings": stored["settings"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CohortError(f"{folder.name}: no {RECORD} of a study in it") from error


def _require_same(which: str, one: Patients, two: Patients) -> None:
    for key, row in one.items():
        cohort, patient = key
        if key not in two:
            raise CohortError(
                f"patient {patient!r} of cohort {cohort!r} is in {which} study only; both studies "
                "must be of the same patients"
            )
        for name in ("reference_lesions", "reference_mm3"):
            if row.get(name) != two[key].get(name):
                raise CohortError(
                    f"patient {patient!r} of cohort {cohort!r}: {name} is {row.get(name)} and "
                    f"{two[key].get(name)}; both studies must use the same reference masks"
                )


def _family(
    cohort: str,
    pairs: list[tuple[Mapping[str, str], Mapping[str, str]]],
    measures: list[str],
    seed: int,
) -> list[Cells]:
    rows = []
    for measure in measures:
        values = [[_number(row, measure) for row in side] for side in zip(*pairs, strict=True)]
        made = compare_pairs(values[0], values[1], np.random.default_rng(seed))
        both = np.array(values)[:, ~np.isnan(values).any(axis=0)]
        means = both.mean(axis=1) if both.size else (math.nan, math.nan)
        rows.append(_row(cohort, measure, made, (float(means[0]), float(means[1]))))
    found = [[_found(row) for row in side] for side in zip(*pairs, strict=True)]
    kept = [n for n, (a, b) in enumerate(zip(*found, strict=True)) if None not in (a, b)]
    hits = [[bool(side[n]) for n in kept] for side in found]
    if kept:
        shares = (float(np.mean(hits[0])), float(np.mean(hits[1])))
        rows.append(_row(cohort, DETECTION, compare_detections(*hits), shares))
    p = [row["p"] for row in rows]
    adjusted = zip(rows, holm(p), benjamini_hochberg(p), strict=True)
    return [{**row, "p_holm": float(h), "p_bh": float(b)} for row, h, b in adjusted]


def _row(cohort: str, measure: str, made: Comparison, means: tuple[float, float]) -> Cells:
    return {
        "cohort": cohort, "measure": measure, "pairs": made.sizes["pairs"],
        "excluded": made.excluded, "first": means[0], "second": means[1],
        "difference": 0.0 if made.reason and made.sizes["pairs"] else made.size,
        "low": made.low, "high": made.high,
        "test": made.test, "p": made.p, "reason": made.reason or "",
    }  # fmt: skip


def _number(row: Mapping[str, str], name: str) -> float:
    return float(row[name]) if row.get(name) else math.nan


def _found(row: Mapping[str, str]) -> bool | None:
    """Whether any lesion was found; None for a patient without one."""
    share = _number(row, "lesion_sensitivity")
    return None if math.isnan(share) else share > 0
