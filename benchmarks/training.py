"""What the trainer's parts and the simulator's ingredients are worth: whole trainings, compared.

40 simulated cases of label maps 01–14 to learn from (every sixth chooses the rule), 24 of label
maps 17–20 to test on. A training is the command as a user gives it, on one thread, two at a time.
Of each model the test cases are scored by its own rule; differences between arms have bootstrap
intervals over test cases, the seeds of an arm together.

Table `training`: ways to train. `thin` is the first version's trainer, from a checkout of commit
0592bea, at its defaults and for as many steps as take at least as long; it prepares for itself, so
give its work folders a store that it has prepared before, or its seconds hold that too.

Table `ablation`: all from random weights but two, which start from a 2D ResNet-34 that
benchmarks/flat_encoder.py trains on slices of the same cases. Some learn from the same heads and
metastases without an ingredient of the simulator; all are tested on whole simulations, and looked
at on the real scans with contrast.

What is in the work folder is not done again.

    git worktree add ../thin 0592bea
    BRAINMETS_DATA=FOLDER python benchmarks/training.py --work FOLDER --thin ../thin
    BRAINMETS_DATA=FOLDER python benchmarks/training.py --work FOLDER --table ablation
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
from starter import TARGETS, judged

ONE = Lock()
COMMAND = "from brainmets.apps.cli import main; main()"
LIGHT = ("--steps", "160", "--validate-every", "160")
RANDOM = (*LIGHT, "--start", "none")
STEPS = 500
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
        without: what is left out of the scans it learns from.
    """

    says: str
    options: tuple[str, ...]
    against: str | None = None
    seeds: tuple[int, ...] = (1,)
    thin: bool = False
    without: str | None = None


def _long(steps: int, *options: str, start: bool = True) -> tuple[str, ...]:
    count = str(steps)
    begin = ("--start", "none") if start else ()
    return ("--steps", count, "--validate-every", count, *begin, *options)


THREE = (1, 2, 3)
TRAINING = {
    "thin": Arm("the first version's trainer", ("--steps", "200"), None, THREE, thin=True),
    "light": Arm("`--preset light`", LIGHT, "thin", THREE),
    "random": Arm("`--preset light --start none`", RANDOM, "thin"),
    "cc": Arm(
        "`--preset light --start none --loss dice+ce+cc`",
        (*RANDOM, "--loss", "dice+ce+cc"), "random",
    ),
}  # fmt: skip
ABLATION = {
    "whole": Arm("`--start none`", _long(STEPS)),
    "seed": Arm("the same, another seed", _long(STEPS), "whole", (2,)),
    "dice+ce+cc": Arm("`--loss dice+ce+cc`", _long(STEPS, "--loss", "dice+ce+cc"), "whole"),
    "centre": Arm(
        "2D ResNet-34 of simulated slices, `--inflate centre`",
        _long(STEPS, "--encoder", FLAT, "--inflate", "centre", start=False), "whole",
    ),
    "mean": Arm(
        "2D ResNet-34 of simulated slices, `--inflate mean`",
        _long(STEPS, "--encoder", FLAT, "--inflate", "mean", start=False), "whole",
    ),
    "sinuses": Arm("no sinuses", _long(STEPS), "whole", without="sinuses"),
    "vessels": Arm("no vessels", _long(STEPS), "whole", without="vessels"),
    "mass-effect": Arm("no mass effect", _long(STEPS), "whole", without="mass-effect"),
    "small": Arm(
        "patches of 64³, of as many voxels together",
        _long(round(STEPS * (96 / 64) ** 3), "--patch", "64"), "whole",
    ),
    "half": Arm("half as many steps", _long(STEPS // 2), "whole"),
}  # fmt: skip
TABLES = {"training": TRAINING, "ablation": ABLATION}
TURNS = {
    "training": (("thin", "light", "random"), ("cc",)),
    "ablation": (("whole", "centre"), tuple(ABLATION)),  # flat.pt is there when `mean` asks for it
}
"""Arms whose seeds take turns, so that all of them meet the same machine."""
SCORES = ("lesion_f1", "lesion_sensitivity", "false_positives_per_scan", "matched_lesion_dice")


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--thin", type=Path)
    parser.add_argument("--table", choices=TABLES, default="training")
    parser.add_argument("--arms", nargs="+", help="of the table; all by default")
    parser.add_argument(
        "--score", nargs=2, metavar=("ARM", "SEED"), help="of a model that is there"
    )
    given = parser.parse_args()
    if given.score:
        _score(given.work, given.score[0], int(given.score[1]), real=given.table == "ablation")
        return
    arms = {name: TABLES[given.table][name] for name in given.arms or TABLES[given.table]}
    given.work.mkdir(parents=True, exist_ok=True)
    for left_out in sorted({arm.without or "" for arm in arms.values()}):
        _cohorts(given.work, left_out)
    jobs = [
        (name, seed)
        for turn in TURNS[given.table]
        for seed in THREE
        for name in turn
        if name in arms and seed in arms[name].seeds
    ]
    with ThreadPoolExecutor(2) as pool:
        running = [
            pool.submit(_run, given.work, given.thin, given.table, name, seed)
            for name, seed in dict.fromkeys(jobs)
        ]
        for job in running:
            job.result()
    runs = {
        name: {
            seed: json.loads(_place(given.work, name, seed, "json").read_text())
            for seed in arm.seeds
        }
        for name, arm in arms.items()
    }
    value = {
        "test_cases": len(read_cohort(given.work / "test").cases),
        "arms": [_row(name, arms, runs) for name in arms],
    }
    print(write(given.table, value).read_text())


def _run(work: Path, thin: Path | None, table: str, name: str, seed: int) -> None:
    _train(work, thin, TABLES[table][name], name, seed)
    if not _place(work, name, seed, "json").exists():
        script = [sys.executable, __file__, "--work", str(work), "--table", table,
                  "--score", name, str(seed)]  # fmt: skip
        subprocess.run(script, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _cohorts(work: Path, left_out: str) -> None:
    """Scans to learn from, prepared, and scans to test on."""
    data = Path(os.environ["BRAINMETS_DATA"]) / "anatomy"
    cohort, prepared = _learnt_from(work, left_out)
    without = ("--without", left_out) if left_out else ()
    for folder, cases, seed, maps, options in (
        (cohort, 40, 640, range(1, 15), without),
        (work / "test", 24, 641, range(17, 21), ()),
    ):
        if not (folder / "cohort.tsv").exists():  # simulate goes on where it stopped
            heads = [("--anatomy", data / f"training_seg_{number:02}.nii.gz") for number in maps]
            _brainmets("simulate", folder, "--cases", cases, "--seed", seed, "--workers", 2,
                       *options, *sum(heads, ()))  # fmt: skip
    if not (prepared / "prepared.json").exists():
        _brainmets("cohort", "check", cohort)
        _brainmets("cohort", "prepare", cohort, "--work", prepared, "--workers", 2)


def _learnt_from(work: Path, left_out: str | None) -> tuple[Path, Path]:
    """The cohort, and where it is prepared."""
    ending = f"-without-{left_out}" if left_out else ""
    return work / f"cohort{ending}", work / f"prep{ending}"


def _brainmets(*words: object, checkout: Path | None = None, log: Path | None = None) -> None:
    root = checkout or Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
    said = log.open("w") if log else None
    command = [sys.executable, "-W", "ignore", "-c", COMMAND, *map(str, words)]
    subprocess.run(command, check=True, env=environment, stdout=said, stderr=subprocess.STDOUT)


def _place(work: Path, arm: str, seed: int, ending: str) -> Path:
    return work / arm / f"s{seed}.{ending}"


def _train(work: Path, thin: Path | None, arm: Arm, name: str, seed: int) -> None:
    out = _place(work, name, seed, "brainmets")
    if out.exists():
        return
    cohort, prepared = _learnt_from(work, arm.without)
    folder = out.parent / f"work{seed}"
    if arm.thin:
        if thin is None:
            raise SystemExit("the first version's trainer needs --thin CHECKOUT")
        folder.mkdir(parents=True, exist_ok=True)
    elif not folder.exists():
        shutil.copytree(prepared, folder, copy_function=os.link)
    if FLAT in arm.options:
        _flat_encoder(work)
    options = [work / FLAT if word == FLAT else word for word in arm.options]
    started = time.monotonic()
    _brainmets(
        "train", cohort, "-o", out, "--seed", seed, "--threads", 1, "--work", folder,
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


def _score(work: Path, arm: str, seed: int, *, real: bool) -> None:
    model = load_model(_place(work, arm, seed, "brainmets"))
    scores = score_cohort(read_cohort(work / "test"), model)
    seconds = json.loads(_place(work, arm, seed, "seconds").read_text())
    found = {"seconds": seconds, "tallies": [tally(case)._asdict() for case in scores]}
    if real:
        data = Path(os.environ["BRAINMETS_DATA"])
        found["real"] = [
            judged(target, data, model) for target in TARGETS if target.truth != "none"
        ]
    write_json(_place(work, arm, seed, "json"), found)


def _row(name: str, arms: Mapping[str, Arm], runs: Mapping[str, Mapping[int, Any]]) -> Any:
    """What came out of an arm, over its seeds."""
    arm, own = arms[name], list(runs[name].values())
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
        others = runs[arm.against]
        other = _sums([others[seed] for seed in arm.seeds if seed in others] or [*others.values()])
        row["against"] = arm.against
        row["better_by"] = _with_interval(
            lambda w: _value("lesion_f1", sums, w) - _value("lesion_f1", other, w), weights
        )
    if "real" in own[0]:
        row["real"] = _on_real_scans([scan for run in own for scan in run["real"]])
    return row


def _on_real_scans(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Added up over scans whose truth is known."""
    known = [row for row in rows if row["truth"] != "unknown"]
    keys = ("hits", "false", "false_from_27_mm3", "false_in_sinus_or_plexus")
    return {"scans": len(known)} | {key: sum(row.get(key, 0) for row in known) for key in keys}


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
