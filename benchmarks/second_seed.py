"""What the seed of a second network's training changes, on the simulated test cohort.

Models that differ by the seed alone, and any other to hold against the first of them:

    brainmets models train-detail COHORT --start none --steps 1825 --seed 11 -o a.brainmets …
    brainmets models train-detail COHORT --start none --steps 1825 --seed 12 -o b.brainmets …
    BRAINMETS_DATA=FOLDER python benchmarks/second_seed.py a.brainmets b.brainmets starter

Scans are the first of those of ``starter_simulated.py``, and counting is the same; the work folder
holds one of its work folders for each model, numbered in their order. Differences from the first
model are paired by scan.
"""

import argparse
import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from brainmets.concurrency import in_order
from brainmets.evaluation.statistics import draw, interval
from brainmets.evaluation.stress_case import StressCase
from brainmets.evaluation.stress_tables import SEED
from brainmets.pipeline import load_model
from record import write
from starter_simulated import GOAL_BINS, MEMORY, SIZE_BINS, Case, among, jobs_of, judged, made

GROUPS = ("test", "empty")
AT_ONE = "at_most_1_false_positive_per_scan"
BINS = {"all": SIZE_BINS, **GOAL_BINS}


def main() -> None:
    """Run, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="names or files")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--empty", type=int, default=20)
    parser.add_argument("--work", type=Path, default=Path("work/second_seed"))
    parser.add_argument("--minutes", type=float, default=np.inf, help="stop after so long")
    options = parser.parse_args()
    for name, size in MEMORY.items():
        os.environ.setdefault(name, str(size))
    counts = {"test": options.cases, "empty": options.empty}
    answers = [
        answered(name, counts, options, options.work / str(number))
        for number, name in enumerate(options.models, start=1)
    ]
    whole = [groups for groups in answers if groups is not None]
    if len(whole) < len(answers):
        print("stopped; start again to go on")
        return
    print(write("second_seed", told(options.models, whole)).read_text())


def answered(
    name: str, counts: dict[str, int], options: argparse.Namespace, folder: Path
) -> dict[str, list[Case]] | None:
    """What a model says of the scans of each group; None when time was up before."""
    asked = argparse.Namespace(model=name, work=folder, minutes=options.minutes)
    folder.mkdir(parents=True, exist_ok=True)
    model = load_model(name)
    jobs = [job for group in GROUPS for job in jobs_of(group, counts[group], model, asked)]
    cases: dict[tuple[str, int], Case] = {}
    with in_order(options.workers) as run:
        for job, case in zip(jobs, run(made, jobs), strict=True):
            if case is not None:
                cases[job.group, job.number] = case
                print(f"{model.bundle.name}: {len(cases)}/{len(jobs)}", flush=True)
    if len(cases) < len(jobs):
        return None
    return {group: [cases[group, n] for n in range(counts[group])] for group in GROUPS}


def told(names: Sequence[str], answers: Sequence[dict[str, list[Case]]]) -> dict[str, Any]:
    """Each model's figures, and how far those after the first lie from it."""
    weights = draw(len(answers[0]["test"]), np.random.default_rng(SEED))
    bundles = [load_model(name).bundle for name in names]
    values = [
        judged(groups, weights, bundle.rule.high)
        for groups, bundle in zip(answers, bundles, strict=True)
    ]
    first = values[0][AT_ONE]
    rows = []
    for bundle, groups, value in zip(bundles, answers, values, strict=True):
        detail = dict(bundle.card.get("detail", {}))
        at_one = value[AT_ONE]
        rows.append({
            "model": bundle.name,
            "detail_network": bundle.detail and bundle.detail.identity(),
            "training": detail.get("training"),
            "goes_on_from_another": "start" in detail,
            AT_ONE: at_one,
            "own_rule": value["own_rule"],
            "difference_at_1": differences(
                [answers[0]["test"], groups["test"]], [first, at_one], weights
            ),
            "within_the_first": {
                name: within(at_one["sensitivity"][name], first["sensitivity"][name])
                for name in BINS
            },
        })  # fmt: skip
    scans = {group: len(answers[0][group]) for group in GROUPS}
    return {"scans": scans, "rows": rows}


def within(score: dict[str, Any], first: dict[str, Any]) -> bool | None:
    """Whether a value lies in the first's interval; None where there is none."""
    if None in (score["value"], first["low"]):
        return None
    return bool(first["low"] <= score["value"] <= first["high"])


def differences(
    pair: Sequence[Sequence[Case]], scores: Sequence[dict[str, Any]], weights: npt.NDArray[Any]
) -> dict[str, dict[str, float] | None]:
    """Sensitivity of a model less the first's, by size, with intervals by scan."""
    high = [np.inf if score["threshold"] is None else score["threshold"] for score in scores]
    found = [
        hits([case for case, _, _ in cases if case is not None], at)
        for cases, at in zip(pair, high, strict=True)
    ]
    said: dict[str, dict[str, float] | None] = {}
    for number, name in enumerate(BINS):
        lesions = found[0][:, number, 1]
        more = found[1][:, number, 0] - found[0][:, number, 0]

        def share(
            drawn: npt.NDArray[np.float64],
            more: npt.NDArray[np.float64] = more,
            lesions: npt.NDArray[np.float64] = lesions,
        ) -> npt.NDArray[np.float64]:
            return np.asarray((drawn @ more) / (drawn @ lesions))

        if not lesions.sum():
            said[name] = None
            continue
        ends = interval(share, weights, patients=int((lesions > 0).sum()))
        value = float(more.sum() / lesions.sum())
        bounds = {"value": value, "low": ends.low, "high": ends.high}
        said[name] = {k: round(0.0 if np.isnan(v) else float(v), 3) for k, v in bounds.items()}
    return said


def hits(cases: Sequence[StressCase], high: float) -> npt.NDArray[np.float64]:
    """Lesions found and lesions in all, by scan and size (scans, sizes, 2)."""
    counted = np.zeros((len(cases), len(BINS), 2))
    for (n, case), (number, bins) in product(enumerate(cases), enumerate(BINS.values())):
        of_size, found = among(bins), case.dice(high)
        chosen = [lesion.label for lesion in case.lesions if of_size(case, lesion)]
        counted[n, number] = sum(label in found for label in chosen), len(chosen)
    return counted


if __name__ == "__main__":
    main()
