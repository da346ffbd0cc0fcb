"""One whole patient: ``brainmets predict`` against MONAI's sliding window, with the same network.

Wall time and peak memory of whole processes, from NIfTI to mask (MONAI) or to mask, measurements
and report (brainmets). The scan has no skull, so that neither looks for the brain.

    BRAINMETS_DATA=FOLDER python benchmarks/peers/sliding_window.py [--runs 2]
"""

import argparse
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
write = runpy.run_path(str(HERE.parent / "record.py"))["write"]
SCAN = "scans/met_00110/BraTS-MET-00110-000-t1c.nii.gz"
PREDICT = (str(Path(sys.executable).with_name("brainmets")), "predict")
MONAI = (sys.executable, "-W", "ignore", str(HERE / "slide_with_monai.py"))
WAYS = {
    "brainmets": (*PREDICT, "{scan}", "-o", "{out}"),
    "brainmets, PyTorch, float32": (
        *PREDICT, "{scan}", "-o", "{out}", "--engine", "torch", "--precision", "f32",
    ),
    "MONAI, float32, the whole image": (*MONAI, "{scan}", "{out}"),
    "MONAI, bfloat16, cut to the brain": (*MONAI, "{scan}", "{out}", "--same"),
}  # fmt: skip


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2)
    given = parser.parse_args()
    scan = Path(os.environ["BRAINMETS_DATA"]) / SCAN
    found: dict[str, list[tuple[float, int]]] = {way: [] for way in WAYS}
    for _ in range(given.runs + 1):
        for way, words in WAYS.items():
            found[way].append(_timed(words, scan))
            print(way, found[way][-1], flush=True)
    rows = [
        {
            "way": way,
            "seconds": round(statistics.median(seconds for seconds, _ in runs[1:]), 1),
            "peak_memory_mb": max(peak for _, peak in runs[1:]),
        }
        for way, runs in found.items()
    ]
    value = {"scan": "met_00110", "runs": given.runs, "threads": os.cpu_count(), "rows": rows}
    print(write("sliding_window_peers", value).read_text())


def _timed(words: tuple[str, ...], scan: Path) -> tuple[float, int]:
    """Seconds of a whole process, and MiB at its peak."""
    with tempfile.TemporaryDirectory() as out:
        command = [word.format(scan=scan, out=out) for word in words]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status or not any(Path(out).rglob("*mask*")):
            raise SystemExit(f"{' '.join(words[:2])}: no mask was made (status {status})")
    return seconds, usage.ru_maxrss // 1024


if __name__ == "__main__":
    main()
