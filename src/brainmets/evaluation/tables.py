"""Scores on disk: cases.csv, lesions.csv and summary.json, each whole or absent."""

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from brainmets.evaluation.case import CaseScores, score_names
from brainmets.evaluation.lesionwise import MatchedLesion
from brainmets.evaluation.summary import summarise
from brainmets.io.storage import whole_file, write_json

LESION_COLUMNS = (
    "case",
    "mask",
    "label",
    "matched",
    "partners",
    "dice",
    "size_bin",
    "volume_mm3",
    "equivalent_diameter_mm",
    "longest_diameter_mm",
    "perpendicular_diameter_mm",
    "x_ras_mm",
    "y_ras_mm",
    "z_ras_mm",
    "side",
)


def write_scores(cases: Sequence[CaseScores], folder: Path) -> dict[str, Any]:
    """Write the three files into ``folder`` and return the summary.

    ``cases.csv``: a row per case; an undefined score is empty and the last column says
    why. ``lesions.csv``: a row per lesion of either mask. ``summary.json``:
    :func:`brainmets.evaluation.summary.summarise`, null where undefined.

    Raises:
        WriteError: the folder cannot be written to.
    """
    summary = summarise(cases)
    names = score_names(cases)
    rows = (_case_row(case, names) for case in cases)
    _write_csv(folder / "cases.csv", ("case", *names, "undefined"), rows)
    _write_csv(folder / "lesions.csv", LESION_COLUMNS, _lesion_rows(cases))
    write_json(folder / "summary.json", summary)
    return summary


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with (
        whole_file(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _case_row(case: CaseScores, names: Sequence[str]) -> tuple[str, ...]:
    scores = {name: case.score_of(name) for name in names}
    reasons = (f"{name}: {s.reason}" for name, s in scores.items() if not s.defined)
    return case.case_id, *(_number(s.value) for s in scores.values()), "; ".join(reasons)


def _lesion_rows(cases: Sequence[CaseScores]) -> Iterator[tuple[str, ...]]:
    for case in cases:
        for lesion in case.lesions.reference:
            yield _lesion_row(case.case_id, "reference", lesion)
        for lesion in case.lesions.prediction:
            yield _lesion_row(case.case_id, "prediction", lesion)


def _lesion_row(case_id: str, mask: str, matched: MatchedLesion) -> tuple[str, ...]:
    lesion = matched.lesion
    sizes = (
        lesion.volume_mm3,
        lesion.equivalent_diameter_mm,
        lesion.longest_diameter_mm,
        lesion.perpendicular_diameter_mm,
        *lesion.centroid_ras_mm,
    )
    return (
        case_id,
        mask,
        str(lesion.label),
        "yes" if matched.matched else "no",
        " ".join(map(str, matched.partners)),
        _number(matched.dice.value),
        matched.size_bin,
        *map(_number, sizes),
        lesion.side,
    )


def _number(value: float) -> str:
    """Six digits: more than a measurement holds, and stable against rounding."""
    return "" if math.isnan(value) else f"{value:.6g}"
