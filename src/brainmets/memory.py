"""How much memory this process holds at its peak, and how little it keeps of what is freed."""

import ctypes
import resource
import sys
from pathlib import Path

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""glibc's numbers for what its heap may keep at its end, and for the size from which memory comes
from the system instead."""
KEPT_BYTES, LARGE_BYTES = 8 << 20, 8 << 20


def return_what_is_freed() -> None:
    """Let large arrays go back to the system the moment they are freed (``man 3 mallopt``).

    glibc raises the size from which it does so up to 32 MiB as it goes, and keeps what is
    smaller for itself: a fifth of what a scan takes. Of the whole process, so for commands
    to call, not for functions; nothing happens where the library is not glibc.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(TRIM_THRESHOLD, KEPT_BYTES)  # else small arrays would go back too, and be slow
            mallopt(MMAP_THRESHOLD, LARGE_BYTES)


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
