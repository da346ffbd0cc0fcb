"""How much memory this process holds at its peak."""

import resource
import sys
from pathlib import Path


def peak_mb() -> int:
    """Peak resident memory (MiB) since the start, or since :func:`forget_peak`."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 if sys.platform != "darwin" else 1024**2))


def forget_peak() -> None:
    """Count the peak from now on; only Linux can (``man 5 proc``, ``clear_refs``)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return
