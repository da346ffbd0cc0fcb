"""A whole study: a TOML file in, a folder of tables, figures and a page out."""

import csv
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy

import brainmets
from brainmets.cohort import Cohort
from brainmets.errors import WriteError
from brainmets.evaluation.evaluate import evaluate
from brainmets.evaluation.paper.checklists import checklist_rows
from brainmets.evaluation.paper.figures import figures_of, flow_figure
from brainmets.evaluation.paper.page import render
from brainmets.evaluation.paper.plan import ALL, DESCRIBED, Study, file_name, read_study
from brainmets.evaluation.paper.results import Cells, Results, results_of
from brainmets.evaluation.paper.rows import MASK_AUC, VOXEL_AUC, Group, gather
from brainmets.evaluation.pictures import WorstCase, worst_cases
from brainmets.io.storage import (
    destination,
    require_own,
    sweep,
    whole_file,
    whole_folder,
    write_json,
)

RECORD = "study.json"
LOWEST, HIGHEST = 4, 2
"""Cases to show of each cohort."""

SIGNS = ("study", "files", "warnings")
"""Keys by which the record is known for one of ours."""

AUC_IN_WORDS = {
    MASK_AUC: "mean of sensitivity and specificity of the mask",
    VOXEL_AUC: "area under the ROC curve of the voxels' probabilities",
}

Figures = dict[str, dict[str, dict[str, bytes]]]


def run_paper(
    file: Path,
    out: Path,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Results:
    """Do what a study file says.

    Scores of single cases are kept beside ``out``, in ``OUT.work``: a run that was stopped
    goes on where it stood, and a case whose files changed is scored anew.

    Args:
        file: the study; its paths start from its own folder.
        out: folder to write, whole or not at all.
        workers: processes; the results do not depend on it.
        progress: called with the number of cases done and of all.

    Raises:
        ConfigError: the study file cannot be used.
        CohortError: cohorts and predictions do not belong together; the message names one.
        InputError: a file cannot be used; the message names its case.
        WriteError: ``out`` cannot be written to, or holds something else.
    """
    study = read_study(file)
    place = _place(out)
    kept = place.with_name(f"{place.name}.work")
    groups = gather(study, file.parent, kept, workers=workers, progress=progress)
    results = results_of(study, groups)
    figures = {
        group.part.name: figures_of(study, group, results)
        for group in groups
        if group.part.role != DESCRIBED
    }
    figures[ALL] = {"flow": flow_figure(results)}
    settings = settings_of(study, groups)
    told = checklist_rows(study, groups, results, settings)
    results = replace(results, tables={**results.tables, "checklists": told})
    pictures = {g.part.name: _pictures(study, g, file.parent) for g in groups}
    page = render(study, groups, results, figures, settings, pictures)
    _write(place, (study, groups, results), figures, page, settings)
    return results


def _pictures(study: Study, group: Group, folder: Path) -> tuple[WorstCase, ...]:
    """The cases of lowest and of highest Dice below 1, of patients with one scan."""
    if group.part.role == DESCRIBED:
        return ()
    cases = {case.row.get("patient") or case.case_id: case for case in group.cases}
    dice = [
        (row.value("dice"), n, cases[row.patient])
        for n, row in enumerate(group.rows)
        if row.cases == 1 and row.value("dice") < 1
    ]
    ranked = [case for _, _, case in sorted(dice, key=lambda entry: entry[:2])]
    chosen = ranked[:LOWEST] + ranked[LOWEST:][-HIGHEST:]
    if not chosen:
        return ()
    predictions = folder / group.part.predictions if group.part.predictions else None
    cohort, labels = Cohort(tuple(chosen)), study.target or None
    scores = evaluate(predictions, cohort, target_labels=labels)
    return worst_cases(scores, cohort, predictions, target_labels=labels)


def settings_of(study: Study, groups: Sequence[Group]) -> dict[str, Any]:
    """All that the results depend on, in words and hashes."""
    patients = [
        [group.part.name, [[row.patient, sorted(row.values.items())] for row in group.rows]]
        for group in groups
    ]
    digest = hashlib.sha256(json.dumps(patients).encode()).hexdigest()
    return {
        "measures": list(study.measures),
        "tested": list(study.tested),
        "subgroups": [f"{s.column} {list(s.cuts) or ''}".strip() for s in study.subgroups],
        "AUC": AUC_IN_WORDS[next((g.auc for g in groups if g.part.role != DESCRIBED), MASK_AUC)],
        "reference labels": list(study.target) or "all above 0",
        "predicted by": sorted({model for g in groups for row in g.rows for model in row.models}),
        "seed": study.seed,
        "resamples": study.resamples,
        "SHA-256 of the patients' rows": digest,
        "versions": {
            "brainmets": brainmets.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
    }


def _place(out: Path) -> Path:
    """Where the study may be written.

    Raises:
        WriteError: the folder holds what no study wrote.
    """
    place = destination(out)
    if not place.is_dir() or not any(place.iterdir()):
        require_own(place, ())
        return place
    try:
        stored = json.loads((place / RECORD).read_text(encoding="utf-8"))
        ours = all(key in stored for key in SIGNS)
        files = [str(name) for name in stored["files"]]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        ours, files = False, []
    if not ours:
        raise WriteError(
            f"cannot write {out.name!r}: it holds files, and no {RECORD} of a study; give another "
            "place for the results"
        )
    require_own(place, files)
    return place


def _write(
    place: Path,
    made: tuple[Study, Sequence[Group], Results],
    figures: Figures,
    page: str,
    settings: Mapping[str, Any],
) -> None:
    study, groups, results = made
    contents = {
        f"{file_name(cohort)}-{file_name(name)}.{kind}": data
        for cohort, named in figures.items()
        for name, files in named.items()
        for kind, data in files.items()
    }
    contents["study.html"] = page.encode("utf-8")
    tables = {**results.tables, "patients": _patients(study, groups)}
    sweep(place.parent)
    with whole_folder(place) as temporary:
        for name, rows in tables.items():
            write_csv(temporary / f"{name}.csv", rows)
        for name, data in contents.items():
            with whole_file(temporary / name) as file:
                file.write_bytes(data)
        record = {
            "study": asdict(study),
            "settings": settings,
            "warnings": list(results.warnings),
            "files": sorted([*contents, *(f"{name}.csv" for name in tables), RECORD]),
        }
        write_json(temporary / RECORD, record)


def _patients(study: Study, groups: Sequence[Group]) -> list[Cells]:
    """Every patient with scores, times, and the columns the study compares by."""
    columns = [subgroup.column for subgroup in study.subgroups]
    names = dict.fromkeys(
        [*study.measures, "reference_lesions", "predicted_lesions", "reference_mm3",
         "predicted_mm3", "manual_time_s", "model_time_s"]
    )  # fmt: skip
    return [
        {
            "cohort": group.part.name,
            "patient": row.patient,
            "cases": row.cases,
            **{f"by {c}": row.columns.get(c, "") for c in columns if c not in names},
            **{name: row.value(name) for name in names},
            "undefined": "; ".join(f"{k}: {v}" for k, v in row.reasons.items() if k in names),
        }
        for group in groups
        for row in group.rows
    ]


def write_csv(path: Path, rows: Sequence[Cells]) -> None:
    """Write rows of the same keys; the header is the keys, NaN an empty field.

    Raises:
        WriteError: the place cannot be written to.
    """
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if rows:
            writer.writerow(rows[0])
        writer.writerows([_field(value) for value in row.values()] for row in rows)


def _field(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)
