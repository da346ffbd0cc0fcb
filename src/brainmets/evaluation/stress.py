"""The stress test: a fixed simulated cohort through any model, and what it misses where.

A case is one JSON file in the output's folder ``cases``, whole or absent, with the fingerprint of
what it was made from; a stopped run goes on, and the same input gives the same bytes.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import brainmets
from brainmets.cohort import Scan
from brainmets.concurrency import in_order
from brainmets.errors import CohortError, InputError
from brainmets.evaluation.stress_case import (
    Announced,
    StressCase,
    answered,
    from_json,
    posed,
    to_json,
)
from brainmets.evaluation.stress_page import render
from brainmets.evaluation.stress_tables import summarise, write_tables
from brainmets.io.storage import require_writable, sweep, whole_file, write_json
from brainmets.pipeline import DEFAULT_MODEL, Model, analyse, load_model
from brainmets.simulate.anatomy import Anatomy, embedded_head, read_anatomy
from brainmets.simulate.examination import VERSION as SIMULATOR
from brainmets.simulate.examination import Examination, simulate

VERSION = 2
"""Raised when the same input gives other results."""
COHORT = 0x57E55
"""Mixed into every seed, so that no cohort of ``simulate`` holds the same scans."""
CASES = "cases"
PAGE, TABLES = "stress.html", "stress.json"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Stress:
    """Which cohort, and which model.

    Attributes:
        model: a shipped model's name or a file.
        cases: how many scans.
        seed: of the cohort.
        anatomies: label maps to draw from; none means the embedded head.
        device: ``auto``, ``cpu`` or ``cuda``.
        lesions: how many metastases a scan has; None: as the simulator draws them.

    Raises:
        CohortError: fewer than 1 case, or no such label map.
    """

    model: str = DEFAULT_MODEL
    cases: int = 40
    seed: int = 0
    anatomies: tuple[Path, ...] = ()
    device: str = "auto"
    lesions: int | None = None

    def __post_init__(self) -> None:
        """Check numbers and files."""
        if self.cases < 1:
            raise CohortError(f"cannot simulate {self.cases} cases; ask for at least 1")
        for path in self.anatomies:
            if not path.is_file():
                raise CohortError(f"{path.name}: no such label map")


def run_stress(
    stress: Stress, out: Path, *, workers: int = 1, progress: Progress | None = None
) -> dict[str, Any]:
    """Simulate the cohort, run the model over it, and write tables and a page into ``out``.

    Args:
        stress: cohort and model.
        out: folder to fill; cases of the same settings that are there are kept.
        workers: processes; the results do not depend on it.
        progress: called with (done, total).

    Returns:
        The summary, as in ``stress.json``.

    Raises:
        CohortError: see :class:`Stress`.
        InputError: the model or a label map cannot be used.
        WriteError: the folder cannot be written to.
    """
    model = _loaded(stress.model, stress.device)
    require_writable(out / CASES)
    sweep(out)
    sweep(out / CASES)
    cases = stress_cases(stress, out / CASES, model, workers=workers, progress=progress)
    summary = {"settings": settings_of(stress, model), **summarise(cases)}
    write_tables(cases, summary, out)
    write_json(out / TABLES, summary)
    with whole_file(out / PAGE) as file:
        file.write_bytes(render(summary).encode("utf-8"))
    return summary


def stress_cases(
    stress: Stress,
    folder: Path,
    model: Model,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> tuple[StressCase, ...]:
    """Every case, from its file where it is there and still true, in order."""
    heads = [hashlib.sha256(path.read_bytes()).hexdigest() for path in stress.anatomies]
    made_with = (
        brainmets.__version__, str(VERSION), str(SIMULATOR), str(stress.seed), str(stress.lesions),
        model.bundle.identity, model.engine.name, str(model.exact is not None),
    )  # fmt: skip
    jobs = []
    for number in range(stress.cases):
        head = heads[number % len(heads)] if heads else "embedded"
        digest = hashlib.sha256("\n".join((*made_with, str(number), head)).encode()).hexdigest()
        jobs.append(_Job(stress, folder, number, digest))
    # Map by map: reading one takes longer than simulating in it, and few are kept.
    order = sorted(range(stress.cases), key=lambda n: (n % max(1, len(heads)), n))
    found: dict[int, StressCase] = {}
    with in_order(min(workers, stress.cases)) as run:
        for number, case in zip(order, run(_case, [jobs[n] for n in order]), strict=True):
            found[number] = case
            if progress:
                progress(len(found), stress.cases)
    return tuple(found[number] for number in range(stress.cases))


def settings_of(stress: Stress, model: Model) -> dict[str, Any]:
    """All that the results are a function of."""
    return {
        "model": {"name": model.bundle.name, "sha256": model.bundle.sha256},
        "engine": model.engine.name,
        "decision_rule": {
            "low": model.bundle.rule.low, "high": model.bundle.rule.high,
            "smallest_mm3": model.bundle.rule.smallest_mm3,
        },
        "cases": stress.cases,
        "seed": stress.seed,
        "anatomies": [path.name for path in stress.anatomies] or ["embedded head"],
        "versions": {
            "brainmets": brainmets.__version__, "stress": VERSION, "simulator": SIMULATOR,
        },
    }  # fmt: skip


def examine(stress: Stress, number: int) -> Examination:
    """Simulate one case; a function of seed, number and its head alone."""
    paths: Sequence[Path] = stress.anatomies
    anatomy = read_anatomy(paths[number % len(paths)]) if paths else _embedded()
    seeds = np.random.SeedSequence((COHORT, stress.seed), spawn_key=(number,))
    return simulate(anatomy, np.random.default_rng(seeds), lesions=stress.lesions)


def name_of(number: int) -> str:
    """What a case is called."""
    return f"stress-{number:04d}"


def ask(examination: Examination, model: Model, name: str) -> StressCase:
    """Run the whole line on a simulated scan, and note what came out.

    A scan that the line refuses, for example because it finds no brain, has nothing announced.
    """
    facts, lesions = posed(examination)
    rule = model.bundle.rule.told(model.bundle.temperature)
    announced: tuple[Announced, ...] = ()
    refused = ""
    try:
        report = analyse(Scan(examination.scan, sequence="T1c"), model=model, case_id=name)
        announced = answered(examination, report, rule)
    except InputError as error:
        refused = str(error)
    told = dict(sorted({**facts, "refused": refused}.items()))  # as they come back from a file
    return StressCase(name, told, lesions, announced, rule.high)


@dataclass(frozen=True)
class _Job:
    """A case to be made, as it goes to another process."""

    stress: Stress
    folder: Path
    number: int
    fingerprint: str


def _case(job: _Job) -> StressCase:
    path = job.folder / f"{name_of(job.number)}.json"
    kept = _kept(path, job.fingerprint)
    if kept is not None:
        return kept
    model = _loaded(job.stress.model, job.stress.device)
    case = ask(examine(job.stress, job.number), model, name_of(job.number))
    write_json(path, {"fingerprint": job.fingerprint, "case": to_json(case)})
    return case


def _kept(path: Path, fingerprint: str) -> StressCase | None:
    """What an earlier run left, if it was made from the same things."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["fingerprint"] != fingerprint:
            return None
        return from_json(stored["case"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


@lru_cache(maxsize=1)
def _loaded(model: str, device: str) -> Model:
    return load_model(model, device)


@lru_cache(maxsize=1)
def _embedded() -> Anatomy:
    return embedded_head()
