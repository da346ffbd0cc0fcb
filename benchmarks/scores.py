"""Seconds and peak memory of scoring a case, on the real pairs that BRAINMETS_DATA names.

Each pair is read and scored in a process of its own, as ``evaluate`` does: voxels, surfaces,
lesions, and BraTS-METS by both rule sets for ET, TC and WT. The two curve areas are timed on ten
million voxels.

    python benchmarks/scores.py [--runs 3]

Peers are measured by ``peers/scores_peers.py``; rows of both have the same keys.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import write

CORE = (1, 3)
VOXELS = 10_000_000


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(_areas() if arguments.one == "areas" else _case(arguments.one)))
        return
    folder = Path(os.environ["BRAINMETS_DATA"]) / "lesion_masks"
    scans = [p.name.removesuffix("-seg.nii.gz") for p in sorted(folder.glob("*-seg.nii.gz"))]
    rows = [_row(scan, arguments.runs) for scan in scans]
    areas = _row("areas", arguments.runs)
    path = write("scores", {"runs": arguments.runs, "rows": rows, "areas": areas})
    print(path.read_text())


def _row(what: str, runs: int) -> dict[str, Any]:
    """The median of several fresh processes."""
    command = [sys.executable, __file__, "--one", what]
    found = [
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(runs)
    ]
    row: dict[str, Any] = {**found[0], "peak_memory_mb": max(f["peak_memory_mb"] for f in found)}
    for key in ("seconds", "processor_seconds"):
        row[key] = round(statistics.median(f[key] for f in found), 2)
    return row


def _case(scan: str) -> dict[str, Any]:
    from brainmets.evaluation.case import Scoring, score
    from brainmets.io import nifti

    folder = Path(os.environ["BRAINMETS_DATA"]) / "lesion_masks"
    number = scan.split("-")[2]
    (predicted,) = (folder / "predictions").glob(f"*{number}*.nii.gz")
    clock = _Clock()
    scoring = Scoring(brats=("ET", "TC", "WT"), predicted_labels=CORE)
    reference = nifti.read_labels(folder / f"{scan}-seg.nii.gz")
    prediction = nifti.read_labels(predicted)
    result = score(prediction, reference, target_labels=CORE, scoring=scoring)
    return {
        "scan": scan,
        "voxels": "×".join(map(str, reference.grid.shape)),
        "reference_lesions": len(result.lesions.reference),
        "predicted_lesions": len(result.lesions.prediction),
        **clock.stopped(),
    }


def _areas() -> dict[str, Any]:
    import numpy as np

    from brainmets.evaluation.curves import curve_scores
    from brainmets.volume import Grid, Volume

    rng = np.random.default_rng(0)
    grid = Grid((VOXELS // 100_000, 1000, 100), np.eye(4))
    codes = rng.integers(0, 65536, grid.shape, np.uint16)
    truth = Volume(rng.random(grid.shape, np.float32) < codes / np.float32(65535) * 0.01, grid)
    probability = Volume(codes / np.float32(65535), grid)
    clock = _Clock()
    curve_scores(truth, probability)
    return {"voxels": str(VOXELS), **clock.stopped()}


class _Clock:
    """Seconds since it was made, and the peak memory of this process."""

    def __init__(self) -> None:
        self.wall, self.processor = time.monotonic(), time.process_time()

    def stopped(self) -> dict[str, float]:
        return {
            "seconds": time.monotonic() - self.wall,
            "processor_seconds": time.process_time() - self.processor,
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }


if __name__ == "__main__":
    main()
