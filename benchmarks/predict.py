"""Wall time and peak memory of ``brainmets predict``, NIfTI to report, as a whole process.

Scans: one simulated whole head, the same in 256³ of 1 mm and in 512×512×400 of 0.5 mm, and,
where BRAINMETS_DATA names the folder of real scans, a scan without skull and a whole head.
Each is run once to warm the file cache, then
timed; the median is the figure.

With ``--avx2`` the same, in float32, as on a processor without AVX-512 (oneDNN is told to use no
more), into another record.

    python benchmarks/predict.py [--runs 3] [--avx2]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from record import write

REAL = {
    "met_00110 (real, skull off)": "scans/met_00110/BraTS-MET-00110-000-t1c.nii.gz",
    "chris_t1 (real, whole head)": "heads/chris_t1.nii.gz",
}


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--avx2", action="store_true")
    arguments = parser.parse_args()
    runs, name, options = arguments.runs, "predict", ()
    if arguments.avx2:
        os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"
        name, options = "predict_avx2", ("--precision", "f32")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rows = [_row(label, scan, folder, runs, options) for label, scan in _scans(folder).items()]
    path = write(name, {"threads": os.cpu_count(), "runs": runs, "rows": rows})
    print(path.read_text())


def _scans(folder: Path) -> dict[str, Path]:
    _brainmets("simulate", folder / "simulated", "--cases", "1", "--seed", "7")
    scans = {"simulated whole head": folder / "simulated" / "sim-0000" / "t1c.nii.gz"}
    for shape, spacing in (((256, 256, 256), 1.0), ((512, 512, 400), 0.5)):
        label = f"simulated whole head, {spacing:g} mm"
        path = folder / f"{shape[0]}.nii.gz"
        job = (scans["simulated whole head"], path, shape, (spacing,) * 3)
        with get_context("spawn").Pool(1) as pool:  # a child's peak begins with its parent's
            pool.apply(enlarge, job)
        scans[label] = path
    data = os.environ.get("BRAINMETS_DATA")
    if data:
        scans |= {label: Path(data) / place for label, place in REAL.items()}
    return scans


def enlarge(scan: Path, path: Path, shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> None:
    """The same head on a grid of this shape, in its middle, zeros around it."""
    image = nib.load(scan)
    affine = image.affine.copy()
    zoom = np.linalg.norm(affine[:3, :3], axis=0) / spacing_mm
    affine[:3, :3] /= zoom
    middle = np.array(image.shape) / 2 - np.array(shape) / 2 / zoom
    affine[:3, 3] = image.affine[:3, 3] + image.affine[:3, :3] @ middle
    data = ndimage.affine_transform(
        np.asarray(image.dataobj, np.float32), 1 / zoom, middle, shape, order=1
    )
    nib.save(nib.Nifti1Image(np.rint(data).astype(np.int16), affine), path)


def _row(
    label: str, scan: Path, folder: Path, runs: int, options: tuple[str, ...]
) -> dict[str, Any]:
    seconds, memory = [], []
    for number in range(runs + 1):
        out = folder / f"{scan.name}-{number}"
        wall, peak = _brainmets("predict", scan, "-o", out, *options)
        if number:
            seconds.append(wall)
            memory.append(peak)
    shape = "×".join(map(str, nib.load(scan).shape[:3]))
    return {
        "scan": label,
        "shape": shape,
        "seconds_median": round(statistics.median(seconds), 1),
        "seconds_least": round(min(seconds), 1),
        "seconds_most": round(max(seconds), 1),
        "peak_memory_mb": round(max(memory)),
        "second_look_places": _places(out),
    }


def _places(out: Path) -> int | None:
    """Where float32 had to decide; None where it computed everything."""
    (report,) = out.glob("*/report.json")
    found: int | None = json.loads(report.read_text("utf-8"))["provenance"]["options"][
        "second_look_places"
    ]
    return found


def _brainmets(*words: object) -> tuple[float, float]:
    """Wall seconds and peak resident MiB of one command."""
    command = [str(Path(sys.executable).with_name("brainmets")), *map(str, words)]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:2])} failed with {process.returncode}")
    return time.monotonic() - started, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
