"""What the trainer's parts are worth: whole trainings on a simulated cohort, with several seeds.

40 cases of label maps 01–14 to learn from (every sixth chooses the rule), 24 of label maps 17–20
to test on. A training is the command as a user gives it, on one thread, two at a time. Of each
model the test cases are scored by its own rule; differences between arms have bootstrap intervals
over test cases, the seeds of an arm together.

`thin` is the first version's trainer, from a checkout of commit 0592bea, at its defaults and for
as many steps as take at least as long; it prepares for itself, so give its work folders a store
that it has prepared before, or its seconds hold that too. `mean` and `centre` start from a 2D
ResNet-34 that benchmarks/flat_encoder.py trains on slices of the same cases.

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
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from brainmets.cohort import read_cohort
from brainmets.evaluation.pooled import POOLED, Tally, tally
from brainmets.evaluation.statistics import FloatArray, draw, interval
from brainmets.io.storage import write_json
from brainmets.pipeline import load_model
from brainmets.training.model import VALIDATION_EVERY
from brainmets.training.tune import score_cohort
from record import write

ONE = Lock()
COMMAND = "from brainmets.apps.cli import main; main()"
LIGHT = ("--steps", "160", "--validate-every", "160")
RANDOM = (*LIGHT, "--start", "none")
FLAT = "flat.pt"
FLAT_STEPS = 400


@dataclass(frozen=True)
class Arm:
    """A way to train.

    Attributes:
        says: for the table.
        options: of the command.
        against: the arm it is held against.
        seeds: of weights and patches.
        thin: by the first version.
    """

    says: str
    options: tuple[str, ...]
    against: str | None = None
    seeds: tuple[int, ...] = (1, 2, 3)
    thin: bool = False


ARMS = {
    "thin": Arm("the first version's trainer", ("--steps", "200"), thin=True),
    "light": Arm("`--preset light`", LIGHT, "thin"),
    "random": Arm("`--preset light --start none`", RANDOM, "thin", (1,)),
    "cc": Arm(
        "`--preset light --start none --loss dice+ce+cc`",
        (*RANDOM, "--loss", "dice+ce+cc"), "random", (1,),
    ),
    "centre": Arm(
        "`--preset light --encoder FLAT --inflate centre`",
        (*LIGHT, "--encoder", FLAT, "--inflate", "centre"), "random", (1,),
    ),
    "mean": Arm(
        "`--preset light --encoder FLAT --inflate mean`",
        (*LIGHT, "--encoder", FLAT, "--inflate", "mean"), "random", (1,),
    ),
}  # fmt: skip
TOGETHER = (("thin", "light", "random"), ("cc",), ("centre", "mean"))
"""Arms whose seeds take turns, so that all of them meet the same machine."""
SCORES = ("lesion_f1", "lesion_sensitivity", "false_positives_per_scan", "matched_lesion_dice")


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--thin", type=Path)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument(
        "--score", nargs=2, metavar=("ARM", "SEED"), help="of a model that is there"
    )
    given = parser.parse_args()
    if given.score:
        _score(given.work, given.score[0], int(given.score[1]))
        return
    given.work.mkdir(parents=True, exist_ok=True)
    _cohorts(given.work)
    with ThreadPoolExecutor(2) as pool:
        running = [
            pool.submit(_run, given.work, given.thin, arm, seed)
            for arms in TOGETHER
            for seed in (1, 2, 3)
            for arm in arms
            if arm in given.arms and seed in ARMS[arm].seeds
        ]
        for job in running:
            job.result()
    runs = {
        arm: {
            seed: json.loads(_place(given.work, arm, seed, "json").read_text())
            for seed in ARMS[arm].seeds
        }
        for arm in given.arms
    }
    value = {
        "test_cases": len(read_cohort(given.work / "test").cases),
        "arms": [_row(arm, runs) for arm in given.arms],
    }
    print(write("training", value).read_text())


def _run(work: Path, thin: Path | None, arm: str, seed: int) -> None:
    _train(work, thin, arm, seed)
    if not _place(work, arm, seed, "json").exists():
        script = [sys.executable, __file__, "--work", str(work), "--score", arm, str(seed)]
        subprocess.run(script, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _cohorts(work: Path) -> None:
    data = Path(os.environ["BRAINMETS_DATA"]) / "anatomy"
    for name, cases, seed, maps in (
        ("cohort", 40, 640, range(1, 15)),
        ("test", 24, 641, range(17, 21)),
    ):
        if not (work / name).exists():
            heads = [("--anatomy", data / f"training_seg_{number:02}.nii.gz") for number in maps]
            _brainmets("simulate", work / name, "--cases", cases, "--seed", seed, *sum(heads, ()))
    if not (work / "prep" / "prepared.json").exists():
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
    if FLAT in arm.options:
        _flat_encoder(work)
    options = [work / FLAT if word == FLAT else word for word in arm.options]
    started = time.monotonic()
    _brainmets(
        "train", work / "cohort", "-o", out, "--seed", seed, "--threads", 1, "--work", folder,
        *options, checkout=thin if arm.thin else None, log=_place(work, name, seed, "log"),
    )  # fmt: skip
    write_json(_place(work, name, seed, "seconds"), round(time.monotonic() - started))


def _validated(work: Path) -> Sequence[str]:
    cases = [case.case_id for case in read_cohort(work / "cohort").with_masks()]
    return cases[VALIDATION_EVERY - 1 :: VALIDATION_EVERY]


def _flat_encoder(work: Path) -> None:
    with ONE:
        if (work / FLAT).exists():
            return
        script = Path(__file__).with_name("flat_encoder.py")
        command = [sys.executable, script, work / "prep", work / FLAT, "--steps", FLAT_STEPS,
                   "--leave-out", *_validated(work)]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([str(word) for word in command], check=True, env=environment)


def _score(work: Path, arm: str, seed: int) -> None:
    model = load_model(_place(work, arm, seed, "brainmets"))
    scores = score_cohort(read_cohort(work / "test"), model)
    seconds = json.loads(_place(work, arm, seed, "seconds").read_text())
    found = {"seconds": seconds, "tallies": [tally(case)._asdict() for case in scores]}
    write_json(_place(work, arm, seed, "json"), found)


def _row(name: str, runs: Mapping[str, Mapping[int, Any]]) -> Any:
    """What came out of an arm, over its seeds."""
    arm, own = ARMS[name], list(runs[name].values())
    sums, weights = _sums(own), draw(len(own[0]["tallies"]), np.random.default_rng(0))
    row: dict[str, Any] = {
        "arm": name,
        "says": arm.says,
        "seeds": list(arm.seeds),
        "seconds": [run["seconds"] for run in own],
        "lesion_f1_of_seeds": [round(float(_value("lesion_f1", _sums([run]))), 3) for run in own],
    }
    for score in SCORES:
        row[score] = _with_interval(lambda w, score=score: _value(score, sums, w), weights)
    if arm.against in runs:
        other = _sums([runs[arm.against][seed] for seed in arm.seeds])
        row["against"] = arm.against
        row["better_by"] = _with_interval(
            lambda w: _value("lesion_f1", sums, w) - _value("lesion_f1", other, w), weights
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
