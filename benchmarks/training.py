"""What the trainer's parts are worth: whole trainings on a simulated cohort, each with three seeds.

40 cases of label maps 01–14 to learn from (every sixth chooses the rule), 24 of label maps 17–20
to test on. A training is the command as a user gives it, on one thread, two at a time. Of each
model the test cases are scored by its own rule; differences from the arm `usual` have bootstrap
intervals over test cases, the seeds of an arm together.

`thin` is the first version's trainer, from a checkout of commit 0592bea, at its defaults and for as
many steps as take as long. `mean` and `centre` start from a 2D ResNet-34 that
benchmarks/flat_encoder.py has trained on slices of the same cases.

What is in the work folder is not done again.

    git worktree add ../thin 0592bea
    BRAINMETS_DATA=FOLDER python benchmarks/training.py --work FOLDER --thin ../thin
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from brainmets.cohort import read_cohort
from brainmets.concurrency import in_order
from brainmets.evaluation.pooled import POOLED, Tally, tally
from brainmets.evaluation.statistics import FloatArray, draw, interval
from brainmets.io.storage import write_json
from brainmets.pipeline import load_model
from brainmets.training.model import VALIDATION_EVERY
from brainmets.training.tune import score_cohort
from record import write

COMMAND = "from brainmets.apps.cli import main; main()"
LIGHT = ("--steps", "720", "--validate-every", "360")
FLAT = "flat.pt"
USUAL = "usual"


@dataclass(frozen=True)
class Arm:
    """A way to train.

    Attributes:
        says: for the table.
        options: of the command.
        thin: by the first version.
    """

    says: str
    options: tuple[str, ...] = LIGHT
    thin: bool = False


ARMS = {
    USUAL: Arm("`--preset light`: Dice and cross-entropy, random start"),
    "thin": Arm("the first version's trainer", ("--steps", "480"), thin=True),
    "cc": Arm("`--loss dice+ce+cc`", (*LIGHT, "--loss", "dice+ce+cc")),
    "centre": Arm(
        "`--encoder`, 2D ResNet-34 trained on simulated slices, `--inflate centre`",
        (*LIGHT, "--encoder", FLAT, "--inflate", "centre"),
    ),
    "mean": Arm(
        "`--encoder`, 2D ResNet-34 trained on simulated slices, `--inflate mean`",
        (*LIGHT, "--encoder", FLAT, "--inflate", "mean"),
    ),
}
SCORES = ("lesion_f1", "lesion_sensitivity", "false_positives_per_scan", "matched_lesion_dice")


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--thin", type=Path)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    _cohorts(given.work)
    jobs = list(product(given.arms, given.seeds))
    with ThreadPoolExecutor(2) as pool:
        for job in [pool.submit(_train, given.work, given.thin, *job) for job in jobs]:
            job.result()
    with in_order(2) as run:
        for _ in run(_score, [(given.work, *job) for job in jobs]):
            pass
    rows = {
        arm: [json.loads(_place(given.work, arm, seed, "json").read_text()) for seed in given.seeds]
        for arm in given.arms
    }
    value = {
        "seeds": given.seeds,
        "test_cases": len(read_cohort(given.work / "test").cases),
        "arms": [_row(arm, rows[arm], rows.get(USUAL)) for arm in given.arms],
    }
    print(write("training", value).read_text())


def _cohorts(work: Path) -> None:
    data = Path(os.environ["BRAINMETS_DATA"]) / "anatomy"
    for name, cases, seed, maps in (
        ("cohort", 40, 640, range(1, 15)),
        ("test", 24, 641, range(17, 21)),
    ):
        if not (work / name).exists():
            heads = [("--anatomy", data / f"training_seg_{number:02}.nii.gz") for number in maps]
            _brainmets("simulate", work / name, "--cases", cases, "--seed", seed, *sum(heads, ()))
    _brainmets("cohort", "check", work / "cohort")
    _brainmets("cohort", "prepare", work / "cohort", "--work", work / "prep")


def _brainmets(*words: object, checkout: Path | None = None, log: Path | None = None) -> None:
    root = checkout or Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
    said = log.open("w") if log else None
    command = [sys.executable, "-W", "ignore", "-c", COMMAND, *map(str, words)]
    subprocess.run(command, check=True, env=environment, stdout=said, stderr=subprocess.STDOUT)


def _place(work: Path, arm: str, seed: int, ending: str) -> Path:
    return work / arm / f"s{seed}.{ending}"


def _train(work: Path, thin: Path | None, name: str, seed: int) -> None:
    arm, out = ARMS[name], _place(work, name, seed, "brainmets")
    if out.exists():
        return
    folder = out.parent / f"work{seed}"
    if arm.thin:
        if thin is None:
            raise SystemExit("the first version's trainer needs --thin CHECKOUT")
        folder.mkdir(parents=True, exist_ok=True)
    elif not folder.exists():
        shutil.copytree(work / "prep", folder, copy_function=os.link)
    options = [work / FLAT if word == FLAT else word for word in arm.options]
    if FLAT in arm.options and not (work / FLAT).exists():
        raise SystemExit(f"first: {sys.executable} benchmarks/flat_encoder.py {work / 'prep'} "
                         f"{work / FLAT} --leave-out {' '.join(_validated(work))}")  # fmt: skip
    started = time.monotonic()
    _brainmets(
        "train", work / "cohort", "-o", out, "--seed", seed, "--threads", 1, "--work", folder,
        *options, checkout=thin if arm.thin else None, log=_place(work, name, seed, "log"),
    )  # fmt: skip
    write_json(_place(work, name, seed, "seconds"), round(time.monotonic() - started))


def _validated(work: Path) -> Sequence[str]:
    cases = [case.case_id for case in read_cohort(work / "cohort").with_masks()]
    return cases[VALIDATION_EVERY - 1 :: VALIDATION_EVERY]


def _score(job: tuple[Path, str, int]) -> None:
    work, arm, seed = job
    out = _place(work, arm, seed, "json")
    if out.exists():
        return
    bundle = _place(work, arm, seed, "brainmets")
    scores = score_cohort(read_cohort(work / "test"), load_model(bundle))
    seconds = json.loads(_place(work, arm, seed, "seconds").read_text())
    found = {"seconds": seconds, "tallies": [tally(case)._asdict() for case in scores]}
    write_json(out, found)


def _row(arm: str, runs: Sequence[dict[str, Any]], usual: Sequence[dict[str, Any]] | None) -> Any:
    """What came out of an arm, over its seeds."""
    sums, weights = _sums(runs), draw(len(runs[0]["tallies"]), np.random.default_rng(0))
    row: dict[str, Any] = {
        "arm": arm,
        "says": ARMS[arm].says,
        "seconds": [run["seconds"] for run in runs],
        "lesion_f1_of_seeds": [round(float(_value("lesion_f1", _sums([run]))), 3) for run in runs],
    }
    for name in SCORES:
        row[name] = _with_interval(lambda w, name=name: _value(name, sums, w), weights)
    if usual is not None and arm != USUAL:
        other = _sums(usual)
        row["usual_is_better_by"] = _with_interval(
            lambda w: _value("lesion_f1", other, w) - _value("lesion_f1", sums, w), weights
        )
    return row


def _sums(runs: Sequence[dict[str, Any]]) -> FloatArray:
    """Of each test case over the runs, (cases, sums of a tally)."""
    return np.sum(
        [[[t[name] for name in Tally._fields] for t in run["tallies"]] for run in runs], axis=0
    )


def _value(name: str, sums: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    weights = np.ones(len(sums)) if weights is None else weights
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(POOLED[name][0](Tally(*np.moveaxis(weights @ sums, -1, 0))))


def _with_interval(of: Any, weights: FloatArray) -> dict[str, float]:
    bounds = interval(of, weights)
    named = {"value": float(of(np.ones(weights.shape[1]))), "low": bounds.low, "high": bounds.high}
    return {key: round(number, 3) for key, number in named.items()}


if __name__ == "__main__":
    main()
