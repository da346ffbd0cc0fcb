"""Wall time and peak memory of reading 400 DICOM slices of 512×512, as a whole process.

The series is synthetic, uncompressed, one file a slice, read from a folder and from a zip;
and as one enhanced multi-frame object. Each is read once to warm the file cache, then timed.

    python benchmarks/dicom.py [--runs 3]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from dicom_series import Layout, encoded, enhanced, slices_of
from record import write

RECIPE = Layout(shape=(512, 512, 400), spacing_mm=(0.5, 0.5, 0.5))
READ = """
import json, sys, time
from pathlib import Path
from brainmets.io import dicom
from brainmets.io.images import read

def peak_kib():  # since this process began; ru_maxrss is inherited from the one that started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

resting = peak_kib()
started, used = time.monotonic(), time.process_time()
scan = read(sys.argv[1])
seconds, processor = time.monotonic() - started, time.process_time() - used
print(json.dumps([seconds, processor, (peak_kib() - resting) * 1024 / scan.volume.data.nbytes]))
"""


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        rows = [_row(label, path, runs) for label, path in _series(Path(name)).items()]
    path = write("dicom", {"runs": runs, "shape": "512×512×400", "rows": rows})
    print(path.read_text())


def _series(folder: Path) -> dict[str, Path]:
    single = folder / "single"
    single.mkdir()
    base = np.random.default_rng(0).integers(0, 900, (512, 512)).astype(np.uint16)
    values = [base + np.uint16(place) for place in range(400)]
    for number, data in enumerate(slices_of(RECIPE, values=values)):
        (single / f"{number:04d}").write_bytes(encoded(data))
    with zipfile.ZipFile(folder / "single.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for path in sorted(single.iterdir()):
            file.write(path, path.name)
    (folder / "enhanced").write_bytes(encoded(enhanced(RECIPE, values=values)))
    return {
        "folder of 400 files": single,
        "zip of 400 files": folder / "single.zip",
        "one enhanced object": folder / "enhanced",
    }


def _row(label: str, path: Path, runs: int) -> dict[str, Any]:
    measured = []
    for _ in range(runs + 1):
        words = [sys.executable, "-c", READ, str(path)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        measured.append(json.loads(done.stdout))
    seconds, processor, memory = zip(*measured[1:], strict=True)
    return {
        "source": label,
        "seconds_median": round(statistics.median(seconds), 2),
        "seconds_least": round(min(seconds), 2),
        "seconds_most": round(max(seconds), 2),
        "processor_seconds": round(statistics.median(processor), 2),
        "memory_volumes": round(max(memory), 2),
    }


if __name__ == "__main__":
    main()
