"""One whole patient: ``brainmets predict`` against MONAI's sliding window and nnU-Net.

Wall time and peak memory of whole processes, from NIfTI to mask (MONAI, nnU-Net) or to mask,
measurements and report (brainmets). MONAI has the first network of `starter`; nnU-Net its own, of
random weights, and in the last row that of `starter`. Only brainmets looks for the brain.
nnU-Net's default, which mirrors every patch seven times, comes last and on one scan only. What
is measured is recorded as it comes; rows of ways and scans that are not asked for stay as they
were, each with its commit.

    BRAINMETS_DATA=FOLDER python benchmarks/peers/whole_patient.py [--runs 2] [--scans NAME...]
        [--ways NAME...]
"""

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RECORD = runpy.run_path(str(HERE.parent / "record.py"))
NAME = "whole_patient_peers"
ONE = "met_00110 (real, skull off)"
DATA = "{data}"
FOLDER = "{folder}"
SCANS = {
    ONE: f"{DATA}/scans/met_00110/BraTS-MET-00110-000-t1c.nii.gz",
    "chris_t1 (real, whole head)": f"{DATA}/heads/chris_t1.nii.gz",
    "simulated whole head, 0.5×0.5×1 mm": f"{FOLDER}/large.nii.gz",
}
PREDICT = (str(Path(sys.executable).with_name("brainmets")), "predict", "{scan}", "-o", "{out}")
MONAI = (sys.executable, "-W", "ignore", str(HERE / "slide_with_monai.py"), "{scan}", "{out}")
NNUNET = (
    str(HERE.parents[1] / ".venv-nnunet" / "bin" / "python"), "-W", "ignore",
    str(HERE / "predict_with_nnunet.py"), "{scan}", "{out}",
)  # fmt: skip
MIRRORED = "nnU-Net, its default (mirroring)"
WAYS = {
    "brainmets": PREDICT,
    "brainmets, the first network alone": (*PREDICT, "--model", f"{FOLDER}/first.brainmets"),
    "brainmets, PyTorch, float32": (*PREDICT, "--engine", "torch", "--precision", "f32"),
    "brainmets, the paper's network": (*PREDICT, "--model", f"{FOLDER}/paper.brainmets"),
    "MONAI, float32, the whole image": MONAI,
    "MONAI, bfloat16, cut to what is not 0": (*MONAI, "--same"),
    "nnU-Net without mirroring": NNUNET,
    MIRRORED: (*NNUNET, "--mirror"),
    "nnU-Net, bfloat16, `starter`'s network and tiles": (
        *NNUNET, "--network", f"{FOLDER}/starter.ts", "--overlap", "0.25",
    ),
}  # fmt: skip
ONCE = ("nnU-Net without mirroring", MIRRORED)
"""Takes minutes: once, and not before to warm up."""


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--scans", nargs="+", choices=SCANS, default=list(SCANS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        places = {"data": os.environ["BRAINMETS_DATA"], "folder": name}
        subprocess.run([sys.executable, HERE / "make_inputs.py", name], check=True)
        rows = _recorded()
        last = [(ONE, 0)] if ONE in given.scans else []
        for scan, runs in [*((scan, given.runs) for scan in given.scans), *last]:
            ways = [way for way in given.ways if (way == MIRRORED) == (runs == 0)]
            rows |= {(row["scan"], row["way"]): row for row in _rows(scan, ways, runs, places)}
            order = [rows[scan, way] for scan in SCANS for way in WAYS if (scan, way) in rows]
            value = {"runs": given.runs, "threads": os.cpu_count(), "rows": order}
            path = RECORD["write"](NAME, value)
    print(path.read_text())


def _recorded() -> dict[tuple[str, str], dict[str, Any]]:
    path = RECORD["RESULTS"] / f"{NAME}.json"
    rows = json.loads(path.read_text())["value"]["rows"] if path.is_file() else []
    return {(row["scan"], row["way"]): row for row in rows}


def _rows(scan: str, ways: list[str], runs: int, places: dict[str, str]) -> list[dict[str, Any]]:
    """Some ways with one scan, in turns, after one to warm up."""
    file = SCANS[scan].format(**places)
    found: dict[str, list[tuple[float, int]]] = {way: [] for way in ways}
    for turn in range(runs + 1):
        for way in ways:
            if turn and way in ONCE:
                continue
            words = [word.format(scan=file, out="{out}", **places) for word in WAYS[way]]
            found[way].append(_timed(words))
            print(scan, way, found[way][-1], flush=True)
    counted = {way: each if way in ONCE else each[1:] for way, each in found.items()}
    return [
        {
            "scan": scan,
            "way": way,
            "seconds": round(statistics.median(seconds for seconds, _ in each), 1),
            "peak_memory_mb": max(peak for _, peak in each),
            "commit": RECORD["commit"](),
        }
        for way, each in counted.items()
    ]


def _timed(words: list[str]) -> tuple[float, int]:
    """Seconds of a whole process, and MiB at its peak."""
    with tempfile.TemporaryDirectory() as out:
        command = [word.format(out=out) for word in words]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status or not any(Path(out).rglob("*mask*")):
            raise SystemExit(f"{' '.join(words)}: no mask was made (status {status})")
    return seconds, usage.ru_maxrss // 1024


if __name__ == "__main__":
    main()
