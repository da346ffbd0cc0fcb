"""One row per patient: scores, times and clinical columns, kept from run to run."""

import difflib
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import brainmets
from brainmets.cohort import Case, Cohort, read_cohort
from brainmets.concurrency import in_order
from brainmets.errors import CohortError, ConfigError
from brainmets.evaluation.calibration import Reliability, reliability
from brainmets.evaluation.case import CaseScores
from brainmets.evaluation.evaluate import Files, evaluate, files_of, require_references
from brainmets.evaluation.froc import Candidate, ScanCandidates
from brainmets.evaluation.lesionwise import SIZE_BINS
from brainmets.evaluation.paper.plan import DESCRIBED, Part, Study
from brainmets.evaluation.voxel import target
from brainmets.io import nifti
from brainmets.io.storage import write_json
from brainmets.volume import on_grid, to_nearest_ras

TIMES = ("manual_time_s", "model_time_s")
MASK_AUC, VOXEL_AUC = "mask_auc", "roc_auc"
"""A mask is a classifier of one threshold: its area is (sensitivity + specificity) / 2."""

KEPT = {"values", "reasons", "found", "lesions", "candidates", "target_found"}
"""Of a case, as JSON."""

COMPUTED = ("reference_lesions", "reference_mm3", "predicted_lesions")
"""Scores by which patients may be told apart as by a column of the table."""


@dataclass(frozen=True)
class Candidates:
    """Of one scan.

    Attributes:
        scan: what was announced, and how many lesions there are.
        rule: what made them: lowest probability and smallest volume in mm³.
        reliability: of its voxels' probabilities.
    """

    scan: ScanCandidates
    rule: tuple[float, float]
    reliability: Reliability

    @property
    def surest(self) -> float:
        """The largest score announced; 0 where nothing was."""
        return max((c.score for c in self.scan.candidates), default=0.0)


@dataclass(frozen=True)
class Row:
    """One patient, or one case of a patient.

    Attributes:
        patient: identifier; the case's where the table names none.
        cases: how many went in.
        values: scores and times by name; NaN where undefined.
        reasons: why, by name.
        columns: the table's, as text; those that differ between a patient's cases are empty.
        found: lesions found of each size bin.
        lesions: lesions there of each size bin.
        candidates: for the free-response curve, of each scan that has probabilities.
        target_found: which of the study's target labels the reference holds.
        models: what made the predictions, where they say so.
    """

    patient: str
    cases: int = 1
    values: Mapping[str, float] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    found: Mapping[str, int] = field(default_factory=dict)
    lesions: Mapping[str, int] = field(default_factory=dict)
    candidates: tuple[Candidates, ...] = ()
    target_found: tuple[int, ...] = ()
    models: frozenset[str] = frozenset()

    def value(self, name: str) -> float:
        """A score or time, NaN where there is none."""
        return self.values.get(name, math.nan)


@dataclass(frozen=True)
class Group:
    """A cohort of the study with its patients.

    Attributes:
        part: what the study file says of it.
        rows: one a patient, in the table's order.
        cases: where their files lie, in the table's order.
        listed: cases in the table.
        auc: what AUC is in this study: ``roc_auc`` or ``mask_auc``.
        mixed: only some scans of the study have probabilities.
    """

    part: Part
    rows: tuple[Row, ...]
    cases: tuple[Case, ...]
    listed: int
    auc: str = MASK_AUC
    mixed: bool = False

    @property
    def left_out(self) -> int:
        """Cases of another split."""
        return self.listed - len(self.cases)


def gather(
    study: Study,
    folder: Path,
    kept: Path,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Group, ...]:
    """The patients of every cohort; cases scored before are not scored again.

    Args:
        study: what to do.
        folder: what the study's paths start from.
        kept: folder for the scores of single cases, by content of their files.
        workers: processes; the results do not depend on it.
        progress: called with the number of cases done and of all.

    Raises:
        CohortError: a column that a table lacks, cases and predictions that do not belong
            together, or a patient in two cohorts; the message names one.
        InputError: a file cannot be used; the message names its case.
    """
    chosen = [_chosen(study, part, folder) for part in study.parts]
    total = sum(len(cases) for cases, _ in chosen)
    done = 0
    found: list[list[Row]] = []
    for part, (cases, _) in zip(study.parts, chosen, strict=True):
        predictions = folder / part.predictions if part.predictions else None
        scored = part.role != DESCRIBED
        if scored:
            for case in cases:
                files_of(case, predictions)
        jobs = [_Job(case, predictions, study.target, kept, scored) for case in cases]
        rows = []
        with in_order(min(workers, len(jobs)), network=False) as run:
            for row in run(_row, jobs):
                if scored:
                    _require_measures(study, row)
                rows.append(row)
                done += 1
                if progress is not None:
                    progress(done, total)
        found.append(rows)
    held = [row for rows in found for row in rows if MASK_AUC in row.values]
    auc = VOXEL_AUC if all(VOXEL_AUC in row.values for row in held) else MASK_AUC
    mixed = auc == MASK_AUC and any(VOXEL_AUC in row.values for row in held)
    _require_targets(study, found)
    return _require_apart(
        [
            Group(part, merged([_with_auc(r, auc) for r in rows]), cases, listed, auc, mixed=mixed)
            for part, rows, (cases, listed) in zip(study.parts, found, chosen, strict=True)
        ]
    )


def _with_auc(row: Row, which: str) -> Row:
    """One AUC for the whole study, whatever single scans would allow."""
    if which not in row.values:
        return row
    reasons = {**row.reasons, **({"auc": row.reasons[which]} if which in row.reasons else {})}
    return replace(row, values={**row.values, "auc": row.values[which]}, reasons=reasons)


def _require_targets(study: Study, found: Sequence[Sequence[Row]]) -> None:
    """Refuse a target label that no reference of a cohort holds: the number is wrong.

    Raises:
        ConfigError: there is one.
    """
    for part, rows in zip(study.parts, found, strict=True):
        if part.role == DESCRIBED:
            continue
        held = {label for row in rows for label in row.target_found}
        for label in study.target:
            if label not in held:
                raise ConfigError(
                    f"target: label {label} occurs in no reference of cohort {part.name!r}; check "
                    "the number"
                )


def _require_measures(study: Study, row: Row) -> None:
    """Refuse a measure that a case does not have: it is misspelt, or needs probabilities.

    Raises:
        ConfigError: there is one.
    """
    known = {"auc", *row.values} - set(TIMES)
    for name in study.measures:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
            raise ConfigError(f"measures: no {name!r} for every case; {hint}")


def _chosen(study: Study, part: Part, folder: Path) -> tuple[tuple[Case, ...], int]:
    cohort = read_cohort(folder / part.table, covariates=study.covariates)
    if cohort.target_labels and not study.target:
        raise ConfigError(
            f"cohort {part.name!r}: a folder whose masks hold more than lesions; say "
            f"target = {list(cohort.target_labels)}, or the labels that are lesion to you"
        )
    if part.predictions and part.role != DESCRIBED:
        require_references(folder / part.predictions, cohort)
    cases = [c for c in cohort if not part.split or c.row.get("split") == part.split]
    if not cases:
        splits = sorted({c.row.get("split", "") for c in cohort})
        raise CohortError(
            f"cohort {part.name!r}: no case with split {part.split!r}; found {', '.join(splits)}"
        )
    known = {name for case in cases for name in case.row} - {"prediction", "probability"}
    for subgroup in study.subgroups:
        name = subgroup.column
        if name not in known and name not in COMPUTED:
            near = difflib.get_close_matches(name, [*known, *COMPUTED], 1)
            hint = f"did you mean {near[0]!r}?" if near else f"found {', '.join(sorted(known))}"
            raise CohortError(f"cohort {part.name!r}: no column {name!r} for a subgroup; {hint}")
    for case in cases:
        _times(case, None)
        for subgroup in study.subgroups:
            try:
                subgroup.group_of(case.row.get(subgroup.column, ""))
            except ConfigError as error:
                raise CohortError(f"cohort {part.name!r}, case {case.case_id}: {error}") from error
    return tuple(cases), len(cohort)


def _require_apart(groups: Sequence[Group]) -> tuple[Group, ...]:
    """Refuse a patient in two cohorts: a leak, which makes every figure too good."""
    homes: dict[str, str] = {}
    for group in groups:
        for row in group.rows:
            other = homes.setdefault(row.patient, group.part.name)
            if other != group.part.name:
                raise CohortError(
                    f"patient {row.patient!r} is in cohorts {other!r} and {group.part.name!r}; "
                    "no patient may be in two. Fill column 'patient' if these are two people"
                )
    return tuple(groups)


@dataclass(frozen=True)
class _Job:
    case: Case
    predictions: Path | None
    target: tuple[int, ...]
    kept: Path
    scored: bool


def _row(job: _Job) -> Row:
    case = job.case
    columns = {k: v for k, v in case.row.items() if k not in ("prediction", "probability")}
    blank = Row(case.row.get("patient") or case.case_id, columns=columns)
    if not job.scored:
        return replace(blank, values=_times(case, None))
    files = files_of(case, job.predictions)
    print_of = hashlib.sha256(f"{brainmets.__version__} {job.target}".encode())
    for file in (files.reference, files.prediction, files.probability):
        content = b"" if file is None else file.read_bytes()
        print_of.update(hashlib.sha256(content).digest())
    path = job.kept / f"{print_of.hexdigest()}.json"
    stored = _stored(path)
    if stored is None:
        labels = job.target or None
        (scores,) = evaluate(job.predictions, Cohort((case,)), target_labels=labels)
        stored = {**_plain(scores), "candidates": _announced(scores, files, labels)}
        write_json(path, stored)
    values = {k: math.nan if v is None else v for k, v in stored["values"].items()}
    return replace(
        blank,
        values={**values, **_times(case, files.prediction)},
        reasons=stored["reasons"],
        found=stored["found"],
        lesions=stored["lesions"],
        candidates=_candidates(stored["candidates"]),
        target_found=tuple(stored["target_found"]),
        models=_model_of(files.prediction),
    )


def _candidates(stored: Mapping[str, Any] | None) -> tuple[Candidates, ...]:
    if stored is None:
        return ()
    announced = tuple(Candidate(score, frozenset(hits)) for score, hits in stored["announced"])
    low, smallest = stored["rule"]
    counted = Reliability(*(tuple(row) for row in stored["reliability"]))
    return (Candidates(ScanCandidates(announced, stored["lesions"]), (low, smallest), counted),)


def _stored(path: Path) -> dict[str, Any] | None:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    whole = isinstance(stored, dict) and stored.keys() >= KEPT
    return stored if whole else None


def _plain(scores: CaseScores) -> dict[str, Any]:
    """What the study takes of a case."""
    values = {name: score.value for name, score in scores.scores.items()}
    reasons = {name: s.reason for name, s in scores.scores.items() if s.reason is not None}
    values[MASK_AUC] = (values["sensitivity"] + values["specificity"]) / 2
    why = reasons.get("sensitivity") or reasons.get("specificity")
    if why:
        reasons[MASK_AUC] = why
    there, met = Counter[str](), Counter[str]()
    for lesion in scores.lesions.reference:
        there[lesion.size_bin] += 1
        met[lesion.size_bin] += lesion.matched
    return {
        "values": values,
        "reasons": reasons,
        "lesions": {name: there[name] for name in SIZE_BINS},
        "found": {name: met[name] for name in SIZE_BINS},
        "target_found": list(scores.target_found),
    }


def _announced(
    scores: CaseScores, files: Files, labels: tuple[int, ...] | None
) -> dict[str, Any] | None:
    if files.probability is None or scores.candidates is None or scores.candidate_rule is None:
        return None
    truth = target(to_nearest_ras(nifti.read_labels(files.reference)), labels)
    likely = on_grid(nifti.read(files.probability).volume, truth.grid, "probability")
    counted = reliability(truth, likely)
    return {
        "announced": [[c.score, sorted(c.hits)] for c in scores.candidates.candidates],
        "lesions": scores.candidates.lesions,
        "rule": [scores.candidate_rule.low, scores.candidate_rule.smallest_mm3],
        "reliability": [counted.voxels, counted.lesion, counted.probability],
    }


def _model_of(prediction: Path) -> frozenset[str]:
    """Name and first digits of the SHA-256 of the model, from ``report.json`` beside a mask."""
    try:
        record = json.loads(prediction.with_name("report.json").read_text(encoding="utf-8"))
        model = record["provenance"]["model"]
        return frozenset({f"{model['name']} ({model['sha256'][:12]})"})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return frozenset()  # a mask of somebody else's has no such record


def _times(case: Case, prediction: Path | None) -> dict[str, float]:
    """Seconds by hand and by the model; the model's from run.json where the table has none.

    Raises:
        CohortError: a time that is not a finite number above 0.
    """
    times = {name: float(case.row[name]) for name in TIMES if case.row.get(name)}
    if "model_time_s" not in times and prediction is not None:
        try:
            record = json.loads(prediction.with_name("run.json").read_text(encoding="utf-8"))
            times["model_time_s"] = math.fsum(record["seconds_by_stage"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass  # a mask of somebody else's has no such record
    for name, seconds in times.items():
        if not (math.isfinite(seconds) and seconds > 0):
            raise CohortError(
                f"case {case.case_id}, {name} of the table or of run.json: {seconds:g} s; expected "
                "more than 0"
            )
    return times


def merged(rows: Sequence[Row]) -> tuple[Row, ...]:
    """One row per patient: the mean of what is defined over the patient's cases.

    Lesions are added up. A column that differs between cases is empty.
    """
    patients: dict[str, list[Row]] = {}
    for row in rows:
        patients.setdefault(row.patient, []).append(row)
    return tuple(group[0] if len(group) == 1 else _one(group) for group in patients.values())


def _one(rows: Sequence[Row]) -> Row:
    values, reasons = {}, {}
    timed = [row for row in rows if all(name in row.values for name in TIMES)]
    for name in dict.fromkeys(name for row in rows for name in row.values):
        used = (timed or rows) if name in TIMES else rows  # pairs of one and the same scan
        defined = [row.value(name) for row in used if not math.isnan(row.value(name))]
        values[name] = math.fsum(defined) / len(defined) if defined else math.nan
        if not defined:
            reasons[name] = rows[0].reasons.get(name, "no value")
    if not timed and all(name in values for name in TIMES):  # of different scans: no pair
        values["manual_time_s"] = math.nan
    shared = {
        name: text if all(row.columns.get(name) == text for row in rows) else ""
        for name, text in rows[0].columns.items()
    }
    add = [
        {name: sum(getattr(row, kind).get(name, 0) for row in rows) for name in SIZE_BINS}
        for kind in ("found", "lesions")
    ]
    announced = tuple(scan for row in rows for scan in row.candidates)
    models = frozenset().union(*(row.models for row in rows))
    return Row(rows[0].patient, len(rows), values, reasons, shared, add[0], add[1], announced,
               models=models)  # fmt: skip
