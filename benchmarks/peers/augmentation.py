"""Augmented patches of 128³ a second, delivered by two processes: brainmets and two peers.

    python benchmarks/peers/augmentation.py [--patches N] [--rounds N]

Four simulated scans. brainmets reads its prepared store from disk, the peers hold arrays in memory.
The tools take turns, each run in a process of its own environment; given are medians of the rounds.
"""

import argparse
import json
import runpy
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from brainmets.cohort import read_cohort
from brainmets.config import Recipe
from brainmets.simulate.examination import simulate_cohort
from brainmets.training.preparing import prepare_cohort
from brainmets.training.store import ENTRIES, write_index

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
write = runpy.run_path(str(HERE.parent / "record.py"))["write"]
TOOLS = {
    "brainmets": (".venv", "augment_with_brainmets"),
    "batchgeneratorsv2": (".venv-batchgenerators", "augment_with_batchgenerators"),
    "MONAI CacheDataset": (".venv-monai", "augment_with_monai"),
}


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--scans", type=int, default=4)
    parser.add_argument("--data", type=Path, help="folder to keep the scans in")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = given.data or Path(name)
        _scans(folder, given.scans)
        answers: dict[str, list[dict[str, Any]]] = {tool: [] for tool in TOOLS}
        for _ in range(given.rounds):
            for tool in TOOLS:
                answers[tool].append(_run(tool, folder, given.patches, given.processes))
                print(tool, answers[tool][-1], flush=True)
    rates = {
        tool: statistics.median(given.patches / a["seconds"] for a in found)
        for tool, found in answers.items()
    }
    rows = [
        {
            "tool": tool,
            "version": next(iter(answers[tool][0]["versions"].values())),
            "patches_per_second": round(rate, 2),
            "brainmets_times_faster": round(rates["brainmets"] / rate, 2),
        }
        for tool, rate in rates.items()
    ]
    value = {"patches": given.patches, "rounds": given.rounds, "processes": given.processes}
    print(write("augmentation_peers", {**value, "rows": rows}).read_text())


def _scans(folder: Path, count: int) -> None:
    """Simulated scans, prepared, and as arrays."""
    simulate_cohort(folder / "scans", cases=count, seed=77, workers=2)
    cohort = read_cohort(folder / "scans")
    prepared = folder / "prepared"
    cases = prepare_cohort(cohort, Recipe(), prepared / ENTRIES, workers=2)
    write_index(prepared, cohort, [case.key for case in cases], Recipe(), None)
    for number, case in enumerate(cases):
        whole = (slice(None),) * 3
        np.save(folder / f"image{number}.npy", case.image[whole])
        np.save(folder / f"labels{number}.npy", case.labels[whole])


def _run(tool: str, folder: Path, patches: int, processes: int) -> dict[str, Any]:
    environment, module = TOOLS[tool]
    python = ROOT / environment / "bin" / "python"
    command = [str(python), str(HERE / "augment_worker.py"), module, str(folder), str(patches)]
    done = subprocess.run(
        [*command, str(processes)], capture_output=True, text=True, check=False, cwd=HERE
    )
    if done.returncode:
        sys.exit(f"{tool}: {done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


if __name__ == "__main__":
    main()
