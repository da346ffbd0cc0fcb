"""Scores on disk: a folder of tables and a page, whole or absent."""

import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from brainmets.errors import WriteError
from brainmets.evaluation.case import CaseScores, score_names
from brainmets.evaluation.lesionwise import MatchedLesion
from brainmets.evaluation.pooled import scores_by_size
from brainmets.evaluation.scores import Score
from brainmets.evaluation.summary import owner_of, patients_of, rows, summarise
from brainmets.io.storage import (
    destination,
    require_own,
    sweep,
    whole_file,
    whole_folder,
    write_json,
)

FILES = (
    "cases.csv",
    "patients.csv",
    "brats.csv",
    "sizes.csv",
    "lesions.csv",
    "summary.csv",
    "summary.json",
    "evaluation.html",
)
"""What the folder may hold; ``patients.csv`` where a patient has several cases, ``brats.csv`` and
the page where they were asked for."""

SIGNS = ("cases", "per_case", "pooled", "by_size")
"""Keys by which ``summary.json`` is known for one of ours."""

LESION_COLUMNS = (
    "case",
    "mask",
    "label",
    "matched",
    "partners",
    "overlapping",
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
SUMMARY_COLUMNS = (
    "group",
    "score",
    "statistic",
    "value",
    "low",
    "high",
    "method",
    "patients",
    "no_interval",
    "defined",
    "undefined",
    "reasons",
)
PATIENT_COLUMNS = (
    "patient",
    "cases",
    "reference_lesions",
    "predicted_lesions",
    "reference_mm3",
    "predicted_mm3",
)


def write_scores(
    cases: Sequence[CaseScores],
    folder: Path,
    *,
    summary: Mapping[str, Any] | None = None,
    page: str | None = None,
) -> Mapping[str, Any]:
    """Write everything of :data:`FILES` that there is, and return the summary.

    The folder gets its name when it is whole, and replaces an older one of scores. An
    undefined value is an empty field and null; its reason stands beside it.

    Args:
        cases: the scores.
        folder: to write; its parent is made if absent.
        summary: of the cases, see :func:`brainmets.evaluation.summary.summarise`; None: made.
        page: content of ``evaluation.html``.

    Raises:
        WriteError: the folder cannot be written to, or holds something else.
    """
    made = summarise(cases) if summary is None else summary
    folder = place_for_scores(folder)
    sweep(folder.parent)
    with whole_folder(folder) as temporary:
        _write_tables(cases, made, temporary)
        write_json(temporary / "summary.json", made)
        if page is not None:
            with whole_file(temporary / "evaluation.html") as file:
                file.write_bytes(page.encode("utf-8"))
    return made


def place_for_scores(folder: Path) -> Path:
    """Where scores may be written: ``folder``, or what it links to.

    Raises:
        WriteError: it cannot be written to, or holds what is not scores of ours.
    """
    place = destination(folder)
    require_own(place, FILES)
    if place.is_dir() and any(place.iterdir()) and not _is_signed(place / "summary.json"):
        raise WriteError(
            f"cannot write {folder.name!r}: its files have the names of scores, but its "
            "summary.json is absent or not one of ours; give another place for the results"
        )
    return place


def _is_signed(summary: Path) -> bool:
    try:
        stored = json.loads(summary.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(stored, dict) and all(key in stored for key in SIGNS)


def _write_tables(cases: Sequence[CaseScores], summary: Mapping[str, Any], folder: Path) -> None:
    names, covariates = score_names(cases), tuple(cases[0].covariates) if cases else ()
    header = ("case", "patient", *covariates, *names, "undefined")
    _write_csv(folder / "cases.csv", header, (_case_row(case, names) for case in cases))
    if any(count > 1 for count in Counter(c.patient_id for c in cases if c.patient_id).values()):
        _write_csv(folder / "patients.csv", PATIENT_COLUMNS, _patient_rows(cases))
    if any(case.brats for case in cases):
        regions = [(case.case_id, case.brats) for case in cases]
        _write_groups(folder / "brats.csv", "region", regions)
    sizes = [(case.case_id, scores_by_size(case)) for case in cases]
    _write_groups(folder / "sizes.csv", "size_bin", sizes)
    _write_csv(folder / "lesions.csv", LESION_COLUMNS, _lesion_rows(cases))
    long = ([_field(row.get(name, "")) for name in SUMMARY_COLUMNS] for row in rows(summary))
    _write_csv(folder / "summary.csv", SUMMARY_COLUMNS, long)


def _write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    with (
        whole_file(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)


def _case_row(case: CaseScores, names: Sequence[str]) -> tuple[str, ...]:
    scores = {name: case.score_of(name) for name in names}
    return (
        case.case_id,
        case.patient_id or "",
        *case.covariates.values(),
        *_values_and_reasons(scores),
    )


Groups = Sequence[tuple[str, Mapping[str, Mapping[str, Score]]]]
"""Scores of each case by region or size bin."""


def _write_groups(path: Path, what: str, cases: Groups) -> None:
    """A row per case and group."""
    columns = tuple(next(iter(cases[0][1].values()))) if cases else ()
    lines = (
        (case_id, name, *_values_and_reasons(scores))
        for case_id, groups in cases
        for name, scores in groups.items()
    )
    _write_csv(path, ("case", what, *columns, "undefined"), lines)


def _values_and_reasons(scores: Mapping[str, Score]) -> tuple[str, ...]:
    reasons = (f"{name}: {s.reason}" for name, s in scores.items() if not s.defined)
    return *(_number(s.value) for s in scores.values()), "; ".join(reasons)


def _patient_rows(cases: Sequence[CaseScores]) -> Iterator[tuple[str, ...]]:
    counts = Counter(owner_of(case) for case in cases)  # in the order of the patients
    for patient, count in zip(patients_of(cases), counts.values(), strict=True):
        yield (
            patient.patient_id,
            str(count),
            str(patient.reference_lesions),
            str(patient.predicted_lesions),
            _number(patient.reference_mm3),
            _number(patient.predicted_mm3),
        )


def _lesion_rows(cases: Sequence[CaseScores]) -> Iterator[tuple[str, ...]]:
    for case in cases:
        pairs = [(o.reference_label, o.prediction_label) for o in case.overlaps]
        for lesion in case.lesions.reference:
            shared = [p for r, p in pairs if r == lesion.lesion.label]
            yield _lesion_row(case.case_id, "reference", lesion, shared)
        for lesion in case.lesions.prediction:
            shared = [r for r, p in pairs if p == lesion.lesion.label]
            yield _lesion_row(case.case_id, "prediction", lesion, shared)


def _lesion_row(
    case_id: str, mask: str, matched: MatchedLesion, shared: Sequence[int]
) -> tuple[str, ...]:
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
        " ".join(map(str, shared)),
        _number(matched.dice.value),
        matched.size_bin,
        *map(_number, sizes),
        lesion.side,
    )


def _field(value: str | float) -> str:
    return value if isinstance(value, str) else _number(value)


def _number(value: float) -> str:
    """Six digits: more than a measurement holds, and stable against rounding."""
    return "" if math.isnan(value) else f"{value:.6g}"
