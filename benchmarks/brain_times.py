"""Time and memory of brain extraction, each measured in a process of its own."""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

RUNS = 3
SIZES = ((192, 256, 192), (256, 256, 256))


def time_rows(synthstrip: Path | None) -> list[dict[str, Any]]:
    """The built-in extractor; SynthStrip's network too, if weights of its shape are given."""
    rows = [_measured("builtin", (192, 256, 192), None), _measured("builtin", SIZES[1], None)]
    if synthstrip:
        rows += [_measured("synthstrip", size, synthstrip) for size in SIZES]
    return rows


def _measured(what: str, size: tuple[int, int, int], weights: Path | None) -> dict[str, Any]:
    import subprocess

    words = [sys.executable, __file__, what, json.dumps(size), str(weights or "")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout)
    print(row, flush=True)
    return row


def _main(what: str, size: tuple[int, int, int], weights: str) -> dict[str, Any]:
    """Median of three calls after a first one; peak resident memory of the whole process."""
    from brainmets.preprocess.brain import extract_brain

    scan = _head(size)
    path = Path(weights) if weights else None
    seconds = []
    for _ in range(RUNS + 1):
        started = time.monotonic()
        extract_brain(scan, extractor=what, weights=path)
        seconds.append(time.monotonic() - started)
    return {
        "extractor": what,
        "shape": "×".join(map(str, size)),
        "seconds_first": round(seconds[0], 2),
        "seconds_median": round(float(np.median(seconds[1:])), 2),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "threads": os.cpu_count(),
    }


def _head(size: tuple[int, int, int]) -> Any:
    """A simulated head of 1 mm in the middle of a field of the given size."""
    from brain_scans import simulated
    from brainmets.volume import Grid, Volume

    scan, _ = simulated(17, "T1c")
    data = np.zeros(size, np.float32)
    here, there = [], []
    for wide, found in zip(size, scan.data.shape, strict=True):
        start = (wide - found) // 2
        here.append(slice(max(start, 0), max(start, 0) + min(wide, found)))
        there.append(slice(max(-start, 0), max(-start, 0) + min(wide, found)))
    data[tuple(here)] = scan.data[tuple(there)]
    data += np.random.default_rng(0).gamma(2, 3, size).astype(np.float32)
    return Volume(data, Grid(size, np.eye(4)))


if __name__ == "__main__":
    print(json.dumps(_main(sys.argv[1], tuple(json.loads(sys.argv[2])), sys.argv[3])))
