"""Scores pairs of masks with one tool: one order a line in, one answer a line out, both JSON.

python worker.py MODULE

Run with the Python of the tool's own environment. An order names a file of a pair and one of
the module's JOBS. Only the job is timed: the masks lie in memory, in the form the tool takes.
"""

import gc
import importlib
import json
import os
import resource
import sys
import time
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import numpy as np


def main() -> None:
    """Answer orders until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    started = time.perf_counter()
    tool = importlib.import_module(sys.argv[1])
    hello = {
        "versions": {name: version(name) for name in tool.PACKAGES},
        "import_seconds": time.perf_counter() - started,
    }
    _answer(answers, hello)
    for line in sys.stdin:
        order = json.loads(line)
        _answer(answers, _carried_out(tool, order["pair"], order["job"]))


def _answer(stream: TextIO, value: dict[str, Any]) -> None:
    print(json.dumps(value), file=stream, flush=True)


def _carried_out(tool: ModuleType, path: str, job: str) -> dict[str, Any]:
    pair = _pair(tool, path)
    gc.collect()
    started, began = time.perf_counter(), time.process_time()
    scores = tool.JOBS[job](pair)
    cpu_seconds, seconds = time.process_time() - began, time.perf_counter() - started
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "scores": {name: float(value) for name, value in scores.items()},
        "peak_memory_mb": round(_peak_mib()),
    }


@lru_cache(maxsize=1)
def _pair(tool: ModuleType, path: str) -> Any:
    """The pair of a file, in the form that the tool takes."""
    with np.load(path) as file:
        spacing = tuple(float(s) for s in file["spacing_mm"])
        return tool.prepare(file["reference"], file["prediction"], spacing)


def _peak_mib() -> float:
    """Most resident memory so far; the kernel's other count includes the parent's."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
