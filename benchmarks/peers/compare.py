"""Scores of other packages against brainmets' own: equal answers, seconds and memory.

    BRAINMETS_DATA=FOLDER python benchmarks/peers/compare.py [--runs N]

Each package runs in an environment of its own, made by ``make bench-peers``. On real pairs a
worker of each side scores in turn, A B A B, after one round that is not counted. Writes
``results/scores_peers.json``; fails when answers differ and no reason is known.
"""

import argparse
import contextlib
import json
import math
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pairs import Pair, real, synthetic

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
write = runpy.run_path(str(HERE.parent / "record.py"))["write"]

EQUAL = 1e-6
"""Largest difference between equal answers; relative for those above 1."""


@dataclass(frozen=True)
class Job:
    """Something that a peer and brainmets both compute.

    Attributes:
        peer: the package, as in the tables.
        environment: ``.venv-ENVIRONMENT``.
        module: script of the peer.
        name: of the job.
        numbered: whether lesions come numbered.
        timed: whether it is timed on real pairs.
        reasons: why scores differ that are defined otherwise there.
        gaps: why one side alone may have a value; values must be equal all the same.
    """

    peer: str
    environment: str
    module: str
    name: str
    numbered: bool = False
    timed: bool = True
    reasons: dict[str, str] = field(default_factory=dict)
    gaps: dict[str, str] = field(default_factory=dict)

    def file(self, pair: Pair) -> Path:
        """The file of a pair that this job takes."""
        return pair.numbered if self.numbered else pair.masks


IN_VOXELS = (
    "panoptica measures whole masks in voxels, whatever the spacing, with a tolerance of 0.5; "
    "equal when brainmets does so too (next job)"
)
IN_FLOAT32 = (
    "MONAI takes false positives for the difference of two counts in float32, which holds whole "
    "numbers up to 16.8 million: in a scan of 24.6 million voxels it counts 192 of 193"
)
NO_PAIR = "without a pair panoptica gives 0, unless told otherwise; brainmets no value"
JOBS = (
    Job(
        "panoptica",
        "panoptica",
        "with_panoptica",
        "lesions",
        gaps={"sq_iou": NO_PAIR, "sq_dice": NO_PAIR},
    ),
    Job(
        "panoptica",
        "panoptica",
        "with_panoptica",
        "lesion surfaces",
        reasons={"whole_nsd": IN_VOXELS, "whole_hd95_mm": IN_VOXELS},
        gaps={"sq_dice": NO_PAIR, "sq_nsd": NO_PAIR},
    ),
    Job("panoptica", "panoptica", "with_panoptica", "whole masks in voxels", timed=False),
    Job(
        "MONAI",
        "monai",
        "with_monai",
        "masks",
        reasons={
            "hd95_mm": "MONAI interpolates the percentile in float32; equal when its own "
            "distances are ranked in float64 (next job)",
            **dict.fromkeys(("iou", "precision", "mcc"), IN_FLOAT32),
        },
    ),
    Job("MONAI", "monai", "with_monai", "HD95 in float64", timed=False),
    Job("MONAI", "monai", "with_monai", "numbered lesions", numbered=True),
    Job("surface-distance", "surface-distance", "with_surface_distance", "surfaces"),
)


class Worker:
    """A process that scores with one tool."""

    def __init__(self, python: Path, module: str) -> None:
        """Start it and wait until it has imported the tool."""
        command = [str(python), str(HERE / "worker.py"), module]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.hello = self._answer()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self._process.communicate()

    def score(self, path: Path, job: str) -> dict[str, Any]:
        """Scores, seconds and peak memory of one job on one pair."""
        print(json.dumps({"pair": str(path), "job": job}), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args} ended without an answer")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main() -> None:
    """Run, record, and fail if answers differ without a reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    data = os.environ.get("BRAINMETS_DATA")
    if not data:
        raise SystemExit("BRAINMETS_DATA is not set; give the folder with lesion_masks")
    with tempfile.TemporaryDirectory() as name:
        odd = synthetic(Path(name))
        timed = real(Path(data), Path(name))
        jobs = [_job(job, timed, odd, runs) for job in JOBS]
    versions = {k: v for job in jobs for k, v in job.pop("versions").items()}
    path = write("scores_peers", {
        "runs": runs,
        "equal_to": EQUAL,
        "pairs": {pair.name: pair.facts for pair in [*timed, *odd]},
        "environments": versions,
        "jobs": jobs,
    })  # fmt: skip
    print(path.read_text())
    unexplained = [
        f"{job['peer']}, {job['job']}: {row['score']}"
        for job in jobs
        for row in job["differences"]
        if not row["equal"] and row["reason"] is None
    ]
    if unexplained:
        raise SystemExit(f"not equal, and no reason is known: {unexplained}")


def _job(job: Job, timed: list[Pair], odd: list[Pair], runs: int) -> dict[str, Any]:
    """One job on all pairs: new workers for each that is timed, so that memory is its own."""
    groups = [[pair] for pair in timed] if job.timed else [timed]
    groups[-1] = [*groups[-1], *odd]
    scored, seconds, hello = [], [], []
    for group in groups:
        with _both(job) as workers:
            hello = [worker.hello for worker in workers]
            for pair in group:
                count = runs if job.timed and pair in timed else 0
                rounds = [
                    [w.score(job.file(pair), job.name) for w in workers] for _ in range(1 + count)
                ]
                scored.append((pair.name, *(answer["scores"] for answer in rounds[0])))
                if count:
                    seconds.append({"pair": pair.name, **_seconds(rounds[1:])})
                    print(job.peer, job.name, seconds[-1], file=sys.stderr)
    sides = dict(zip(("brainmets", job.peer), hello, strict=True))
    return {
        "peer": job.peer,
        "job": job.name,
        "differences": _differences(job, scored),
        "seconds": seconds,
        "versions": {name: side["versions"] for name, side in sides.items()},
        "import_seconds": {name: round(side["import_seconds"], 1) for name, side in sides.items()},
    }


@contextlib.contextmanager
def _both(job: Job) -> Iterator[tuple[Worker, Worker]]:
    theirs = ROOT / f".venv-{job.environment}" / "bin" / "python"
    with (
        Worker(Path(sys.executable), "with_brainmets") as a,
        Worker(theirs, job.module) as b,
    ):
        yield a, b


def _seconds(rounds: list[list[dict[str, Any]]]) -> dict[str, Any]:
    sides = dict(zip(("brainmets", "peer"), zip(*rounds, strict=True), strict=True))
    medians = {
        (side, key): statistics.median(answer[key] for answer in answers)
        for side, answers in sides.items()
        for key in ("seconds", "cpu_seconds")
    }
    return {
        **{f"{side}_{key}": round(value, 3) for (side, key), value in medians.items()},
        **{
            key.replace("seconds", "ratio"): round(
                medians["peer", key] / medians["brainmets", key], 2
            )
            for key in ("seconds", "cpu_seconds")
        },
        **{
            f"{side}_memory_mb": max(answer["peak_memory_mb"] for answer in answers)
            for side, answers in sides.items()
        },
    }


def _differences(job: Job, scored: list[tuple[str, dict[str, float], dict[str, float]]]) -> Any:
    return [_difference(job, name, scored) for name in scored[0][1]]


def _difference(
    job: Job, name: str, scored: list[tuple[str, dict[str, float], dict[str, float]]]
) -> dict[str, Any]:
    """The largest difference of one score over all pairs, and where it is.

    A pair for which one side alone has a value is a gap, and counts as not equal.
    """
    apart = [(_apart(ours[name], theirs[name]), pair) for pair, ours, theirs in scored]
    largest, where = max((a for a in apart if a[0] < math.inf), default=(0.0, None))
    gaps = sum(a == math.inf for a, _ in apart)
    known = job.reasons if largest > EQUAL else job.reasons | job.gaps
    equal = largest <= EQUAL and not gaps
    return {
        "score": name,
        "largest": float(f"{largest:.1e}"),
        "largest_on": where if largest > EQUAL else None,
        "gaps": gaps,
        "pairs": len(apart),
        "pairs_equal": sum(a <= EQUAL for a, _ in apart),
        "equal": equal,
        "reason": None if equal else known.get(name),
    }


def _apart(one: float, other: float) -> float:
    """Absolute below 1, relative above; infinite if one side alone has a value."""
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    if not (math.isfinite(one) and math.isfinite(other)):
        return math.inf
    return abs(one - other) / max(1.0, abs(one))


if __name__ == "__main__":
    main()
