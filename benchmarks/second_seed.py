"""What the seed of a second network's training changes, on the simulated test cohort.

Two models that differ by the seed alone, and others to hold against the first of them:

    brainmets models train-detail COHORT --start none --steps 1825 --seed 11 -o a.brainmets …
    brainmets models train-detail COHORT --start none --steps 1825 --seed 12 -o b.brainmets …
    BRAINMETS_DATA=FOLDER python benchmarks/second_seed.py a.brainmets b.brainmets starter

Scans are the first of those of ``starter_simulated.py``, and counting is the same. The work folder
holds what the simple detector says, and a folder for each model, numbered in their order. Intervals
of differences are of scans drawn for both models alike, each at the threshold that gives it one
false positive a scan in that draw.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from brainmets.evaluation.froc import Candidate, ScanCandidates, froc, operating_point
from brainmets.evaluation.froc_intervals import resampled
from brainmets.evaluation.statistics import draw, percentile_interval
from brainmets.evaluation.stress_case import StressCase
from brainmets.evaluation.stress_tables import SEED
from brainmets.network.bundle import Bundle, find, read, weights_digest
from brainmets.pipeline import load_model
from record import write
from starter_simulated import (
    ALLOWED,
    GOAL_BINS,
    MEMORY,
    SIZE_BINS,
    Case,
    among,
    grouped,
    jobs_of,
    judged,
    shown,
)

GROUPS = ("test", "empty")
AT_ONE = "at_most_1_false_positive_per_scan"
BINS = {"all": SIZE_BINS, **GOAL_BINS}
Groups = dict[str, list[Case]]


def main() -> None:
    """Run, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="names or files; the first two differ by seed")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--empty", type=int, default=20)
    parser.add_argument("--work", type=Path, default=Path("work/second_seed"))
    parser.add_argument("--minutes", type=float, default=np.inf, help="stop after so long")
    options = parser.parse_args()
    for name, size in MEMORY.items():
        os.environ.setdefault(name, str(size))
    bundles = [read(find(name)) for name in options.models]
    require_seeds(bundles)
    counts, until = {"test": options.cases, "empty": options.empty}, 60 * options.minutes
    started, answers = time.monotonic(), []
    for number, name in enumerate(options.models, start=1):
        left = (until - (time.monotonic() - started)) / 60
        answer = answered(name, counts, options, options.work / str(number), left)
        if answer is None:
            print("stopped; start again to go on")
            return
        answers.append(answer)
    print(write("second_seed", told(bundles, answers)).read_text())


def require_seeds(bundles: Sequence[Bundle]) -> None:
    """Stop unless the first two differ by their seed alone, and all share the first network."""
    trainings = [dict(bundle.card.get("detail", {}).get("training", {})) for bundle in bundles[:2]]
    seeds = {training.pop("seed", None) for training in trainings}
    begun = ["start" in bundle.card.get("detail", {}) for bundle in bundles[:2]]
    first = {weights_digest(bundle.weights) for bundle in bundles}
    alike = all(training == trainings[0] for training in trainings)
    if len(seeds) != 2 or not alike or any(begun) or len(first) != 1:
        raise SystemExit("the first two models are no trainings that differ by their seed alone")


def answered(
    name: str, counts: dict[str, int], options: argparse.Namespace, folder: Path, minutes: float
) -> Groups | None:
    """What a model says of the scans of each group; None when time was up before."""
    asked = argparse.Namespace(model=name, work=folder, minutes=minutes)
    folder.mkdir(parents=True, exist_ok=True)
    model = load_model(name)
    jobs = [
        job
        for group in GROUPS
        for job in jobs_of(group, counts[group], model, asked, options.work)
    ]  # fmt: skip
    print(model.bundle.name, flush=True)
    return grouped(jobs, counts, options.workers)


def told(bundles: Sequence[Bundle], answers: Sequence[Groups]) -> dict[str, Any]:
    """Each model's figures, and how far they lie from the first's."""
    weights = draw(len(answers[0]["test"]), np.random.default_rng(SEED))
    asked = [[case for case, _, _ in groups["test"] if case is not None] for groups in answers]
    rows: list[dict[str, Any]] = []
    for bundle, groups, cases in zip(bundles, answers, asked, strict=True):
        detail = bundle.card.get("detail", {})
        value = judged(groups, weights, bundle.rule.told(bundle.temperature).high)
        first = rows[0] if rows else {AT_ONE: value[AT_ONE]}
        rows.append({
            "model": bundle.name,
            "detail_network": bundle.detail and bundle.detail.identity(),
            "training": detail.get("training"),
            "goes_on_from_another": "start" in detail,
            AT_ONE: value[AT_ONE],
            "own_rule": value["own_rule"],
            "difference": {name: difference(asked[0], cases, bins, weights)
                           for name, bins in BINS.items()},
            "within_the_first": {
                name: within(value[AT_ONE]["sensitivity"][name], first[AT_ONE]["sensitivity"][name])
                for name in BINS
            },
        })  # fmt: skip
    return {"scans": {group: len(answers[0][group]) for group in GROUPS}, "rows": rows}


def within(score: dict[str, Any], first: dict[str, Any]) -> bool | None:
    """Whether a value lies in the first's interval; None where there is none."""
    if None in (score["value"], first["low"]):
        return None
    return bool(first["low"] <= score["value"] <= first["high"])


def difference(
    first: Sequence[StressCase],
    other: Sequence[StressCase],
    bins: Sequence[str],
    weights: npt.NDArray[np.float64],
) -> dict[str, float | None]:
    """Sensitivity of a model less the first's, among lesions of some sizes, with its interval."""
    scans = [[of_size(case, bins) for case in cases] for cases in (first, other)]
    owner = range(len(first))
    allowed = np.array([ALLOWED])
    values = [operating_point(froc(each), ALLOWED).sensitivity.value for each in scans]
    drawn = [resampled(each, owner, weights, allowed)[:, 0] for each in scans]
    ends = percentile_interval(drawn[1] - drawn[0], sum(scan.lesions > 0 for scan in scans[0]))
    bounds = {"low": ends.low, "high": ends.high}
    return shown({"value": values[1] - values[0], "interval": bounds})


def of_size(case: StressCase, bins: Sequence[str]) -> ScanCandidates:
    """Candidates without those that hit lesions of other sizes alone; false ones stay."""
    counted = among(bins)
    chosen = {lesion.label for lesion in case.lesions if counted(case, lesion)}
    found = [
        Candidate(one.score, one.hits & chosen)
        for one in case.candidates().candidates
        if not one.hits or one.hits & chosen
    ]
    return ScanCandidates(tuple(found), len(chosen))


if __name__ == "__main__":
    main()
