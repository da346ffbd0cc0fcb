"""Large arrays leave the process when they are freed."""

import subprocess
import sys

import pytest

KEPT = """
import numpy as np
from pathlib import Path
from brainmets import memory

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

if %r:
    memory.return_what_is_freed()
np.ones(30 << 20, np.uint8)  # from here on glibc would take up to 30 MiB from its heap
before = held()
large, small = [], []
for _ in range(20):
    large.append(np.ones(12 << 20, np.uint8))
    small.append(np.ones(1 << 12, np.uint8))  # lies above it, so that the heap cannot shrink
large.clear()
print(held() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own")
def test_what_is_freed_goes_back_to_the_system():
    def kept_mb(asked):
        run = [sys.executable, "-c", KEPT % asked]
        done = subprocess.run(  # noqa: S603  # this interpreter
            run, capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    assert kept_mb(True) < 30
    assert kept_mb(False) > 100  # else there is nothing to ask for, and the call can go
