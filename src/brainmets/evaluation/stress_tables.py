"""Numbers of the stress test: sensitivity and false positives by group, with intervals by scan."""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from brainmets.evaluation.froc_intervals import froc_summary
from brainmets.evaluation.pooled import described
from brainmets.evaluation.statistics import RESAMPLES, draw, interval
from brainmets.evaluation.stress_axes import (
    LESION_AXES,
    SIZE,
    LesionAxis,
    ScanAxis,
    row_of,
    scan_axes,
)
from brainmets.evaluation.stress_case import PosedLesion, StressCase
from brainmets.io.storage import whole_file

FloatArray = npt.NDArray[np.float64]

SEED = 2025
"""Of the bootstrap: the same cases give the same intervals."""
LARGE_MM = 6.0
"""Dice is told of lesions from this size on."""
LESIONS, SCANS, GROUPS = "lesions.csv", "scans.csv", "groups.csv"
NO_LESION, NO_SCAN, NOT_FOUND = "there is no lesion", "there is no scan", "no lesion was found"


def summarise(cases: Sequence[StressCase], *, resamples: int = RESAMPLES) -> dict[str, Any]:
    """All that is said of a model.

    Args:
        cases: in any number, at least one.
        resamples: of the bootstrap over scans.

    Returns:
        ``refused``: scans that the line refused. ``overall``: sensitivity, false positives
        per scan, also of scans without a lesion, and the median Dice of found lesions of 6 mm
        and more, at the model's own rule. ``by_lesion``: for each axis its groups, each with
        lesions, found, sensitivity and interval. ``by_scan``: the same for false positives.
        ``heat``: for each axis but size the lesions and the found ones by group and size.
        ``froc``: as :func:`brainmets.evaluation.froc_intervals.froc_summary`; None without
        lesions.
    """
    weights = draw(len(cases), np.random.default_rng(SEED), resamples)
    scans = scan_axes(cases)
    lesion_axes = (*LESION_AXES, *(axis.of_lesions() for axis in scans))
    candidates = [case.candidates() for case in cases]
    lesions = sum(len(case.lesions) for case in cases)
    return {
        "scans": len(cases),
        "refused": sum(bool(case.facts.get("refused")) for case in cases),
        "lesions": lesions,
        "overall": _overall(cases, weights),
        "by_lesion": {axis.name: _by_lesion(cases, axis, weights) for axis in lesion_axes},
        "by_scan": {axis.name: _by_scan(cases, axis, weights) for axis in scans},
        "heat": [_heat(cases, axis) for axis in lesion_axes if axis is not SIZE],
        "froc": froc_summary(candidates, range(len(cases)), weights) if lesions else None,
    }


def sensitivity(
    cases: Sequence[StressCase],
    weights: FloatArray,
    counts: Callable[[StressCase, PosedLesion], bool] = lambda _case, _lesion: True,
    high: float | None = None,
) -> dict[str, Any]:
    """Share of lesions found, with an interval by scan.

    Args:
        cases: the scans.
        weights: of scans, from :func:`brainmets.evaluation.statistics.draw`.
        counts: which lesions.
        high: threshold; None: the model's own.

    Returns:
        ``lesions``, ``found`` and ``sensitivity`` with value, reason and interval.
    """
    rows = []
    for case in cases:
        hit = case.dice(high)
        chosen = [lesion.label for lesion in case.lesions if counts(case, lesion)]
        rows.append((sum(label in hit for label in chosen), len(chosen)))
    sums = np.array(rows, np.float64)
    found, lesions = sums.sum(axis=0)
    return {
        "lesions": int(lesions),
        "found": int(found),
        "sensitivity": _ratio(sums, weights, NO_LESION),
    }


def false_positives(
    cases: Sequence[StressCase],
    weights: FloatArray,
    counts: Callable[[StressCase], bool] = lambda _case: True,
    high: float | None = None,
) -> dict[str, Any]:
    """False positives per scan, with an interval by scan; see :func:`sensitivity`."""
    rows = [(case.false_positives(high), 1) if counts(case) else (0, 0) for case in cases]
    sums = np.array(rows, np.float64)
    return {
        "scans": int(sums[:, 1].sum()),
        "false_positives": int(sums[:, 0].sum()),
        "per_scan": _ratio(sums, weights, NO_SCAN),
    }


def median_dice(
    cases: Sequence[StressCase], high: float | None = None, least_mm: float = LARGE_MM
) -> dict[str, Any]:
    """Median Dice of found lesions of a size and more."""
    values = []
    for case in cases:
        dice = case.dice(high)
        large = (lesion.label for lesion in case.lesions if lesion.diameter_mm >= least_mm)
        values += [dice[label] for label in large if label in dice]
    value = median(values) if values else math.nan
    return {"value": value, "reason": None if values else NOT_FOUND, "lesions": len(values)}


def _ratio(sums: FloatArray, weights: FloatArray, reason: str) -> dict[str, Any]:
    """A ratio of sums over scans, with value, reason and interval."""

    def of_weights(w: FloatArray) -> FloatArray:
        total = w @ sums
        return np.asarray(total[..., 0] / total[..., 1])

    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(of_weights(np.ones(len(sums))))
        bounds = interval(of_weights, weights, patients=int((sums[:, 1] > 0).sum()))
    return described(value, reason, bounds)


def _overall(cases: Sequence[StressCase], weights: FloatArray) -> dict[str, Any]:
    return {
        **sensitivity(cases, weights),
        "false_positives_per_scan": false_positives(cases, weights)["per_scan"],
        "scans_without_a_lesion": false_positives(cases, weights, lambda case: not case.lesions),
        "median_dice_from_6_mm": median_dice(cases),
    }


def _by_lesion(
    cases: Sequence[StressCase], axis: LesionAxis, weights: FloatArray
) -> list[dict[str, Any]]:
    return [
        {"group": group, **sensitivity(cases, weights, axis.members(group))}
        for group in axis.groups
    ]


def _by_scan(
    cases: Sequence[StressCase], axis: ScanAxis, weights: FloatArray
) -> list[dict[str, Any]]:
    return [
        {"group": group, **false_positives(cases, weights, axis.members(group))}
        for group in axis.groups
    ]


def _heat(cases: Sequence[StressCase], axis: LesionAxis) -> dict[str, Any]:
    """Lesions and found ones by group (rows) and size (columns)."""
    counts = np.zeros((2, len(axis.groups), len(SIZE.groups)), int)
    for case in cases:
        hit = case.dice()
        for lesion in case.lesions:
            group = axis.of(case, lesion)
            if group in axis.groups:
                place = axis.groups.index(group), SIZE.groups.index(SIZE.of(case, lesion))
                counts[0][place] += 1
                counts[1][place] += lesion.label in hit
    lesions, found = counts.tolist()
    groups = list(axis.groups)
    return {"axis": axis.name, "groups": groups, "sizes": list(SIZE.groups),
            "lesions": lesions, "found": found}  # fmt: skip


def overview(summary: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, str, str]]]:
    """Header and rows for the eye: sensitivity by size, and false positives per scan."""
    rows = [
        (row["group"], f"{row['found']} of {row['lesions']}", _shown(row["sensitivity"]))
        for row in [*summary["by_lesion"]["size"], {"group": "all", **summary["overall"]}]
    ]
    false = summary["overall"]["false_positives_per_scan"]
    rows.append(("false positives per scan", "", _shown(false)))
    return ("lesions", "found", "value (95 % interval)"), rows


def _shown(score: Mapping[str, Any]) -> str:
    if math.isnan(score["value"]):
        return "–"
    bounds = score["interval"]
    if math.isnan(bounds["low"]):
        return f"{score['value']:.2f}"
    return f"{score['value']:.2f} ({bounds['low']:.2f} to {bounds['high']:.2f})"


# --- on disk ---------------------------------------------------------------------------


def write_tables(cases: Sequence[StressCase], summary: Mapping[str, Any], out: Path) -> None:
    """Write ``lesions.csv``, ``scans.csv`` and ``groups.csv``, each whole.

    Raises:
        WriteError: the folder cannot be written to.
    """
    scans = scan_axes(cases)
    _write(out / LESIONS, (_lesion_row(c, x, scans) for c in cases for x in c.lesions))
    _write(out / SCANS, (_scan_row(case) for case in cases))
    _write(out / GROUPS, _group_rows(summary))


def _lesion_row(case: StressCase, lesion: PosedLesion, scans: Sequence[ScanAxis]) -> dict[str, Any]:
    dice = case.dice().get(lesion.label)
    return {
        "case": case.name,
        "lesion": lesion.label,
        "found": int(dice is not None),
        "dice": "" if dice is None else dice,
        "diameter_mm": lesion.diameter_mm,
        "contrast_to_noise_ratio": lesion.contrast_to_noise,
        **{
            axis.name: axis.of(case, lesion)
            for axis in LESION_AXES
            if axis.name != "contrast to noise"
        },
        **row_of(case, scans),
    }


def _scan_row(case: StressCase) -> dict[str, Any]:
    return {
        "case": case.name,
        "lesions": len(case.lesions),
        "found": len(case.dice()),
        "announced": len(case.kept()),
        "false_positives": case.false_positives(),
        **case.facts,
    }


def _group_rows(summary: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Every group of every axis, long: what is measured, of how many, value and interval."""
    for part, value, counted in (
        ("by_lesion", "sensitivity", "lesions"),
        ("by_scan", "per_scan", "scans"),
    ):
        for axis, rows in summary[part].items():
            for row in rows:
                bounds = row[value]["interval"]
                yield {
                    "axis": axis,
                    "group": row["group"],
                    "score": "sensitivity" if part == "by_lesion" else "false_positives_per_scan",
                    "of": row[counted],
                    "value": row[value]["value"],
                    "low": bounds["low"],
                    "high": bounds["high"],
                }


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A CSV file; NaN is an empty field, a column stands where any row has it."""
    every = list(rows)
    columns = list(dict.fromkeys(name for row in every for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in every)
    with whole_file(path) as file:
        file.write_bytes(text.getvalue().encode("utf-8"))


def _cell(value: Any) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value
