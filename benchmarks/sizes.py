"""What a scan costs by its size, and whether a hundred scans take more memory than ten.

Sizes: one simulated whole head, its voxels declared smaller or larger, so that the brain takes 0.4
to 1.7 times its volume; each is analysed in one process with a warm model, without a second look in
float32, whose cost depends on what is found, and with it. A straight line through the former
seconds against the brain's volume is fitted. Many: the same scan, coarser and half as long, a
hundred times by one call of ``predict_cases``; resident memory after each.

    python benchmarks/sizes.py [--runs 2] [--cases 100]
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from brainmets.batch import predict_cases
from brainmets.cohort import Case
from brainmets.pipeline import Model, analyse, load_model
from brainmets.report.content import Report
from brainmets.simulate.examination import simulate_cohort
from record import write

SCALES = (0.75, 0.85, 0.95, 1.0, 1.1, 1.2)


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--cases", type=int, default=100)
    given = parser.parse_args()
    model = load_model()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate_cohort(folder / "simulated", cases=1, seed=7)
        scan = folder / "simulated" / "sim-0000" / "t1c.nii.gz"
        rows = [_timed(_scaled(scan, scale, folder), model, given.runs) for scale in SCALES]
        held = _many(_small(scan, folder), model, folder, given.cases)
    litres = [row["brain_litres"] for row in rows]
    seconds = [row["seconds"] for row in rows]
    slope, start = np.polyfit(litres, seconds, 1)
    value = {
        "engine": model.engine.name,
        "rows": rows,
        "line": {
            "seconds_at_0": round(float(start), 2),
            "seconds_per_litre": round(float(slope), 2),
            "r_squared": round(float(np.corrcoef(litres, seconds)[0, 1] ** 2), 3),
        },
        "cases": given.cases,
        "resident_mb": {str(n): held[n - 1] for n in (1, 10, given.cases // 2, given.cases)},
        "most_resident_mb_after_10": max(held[9:]),
    }
    print(write("sizes", value).read_text())


def _scaled(scan: Path, scale: float, folder: Path) -> Path:
    image = nib.load(scan)
    affine = image.affine.copy()
    affine[:3, :3] *= scale
    path = folder / f"scaled-{scale}.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj, np.float32), affine), path)
    return path


def _small(scan: Path, folder: Path) -> Path:
    image = nib.load(scan)
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    data = ndimage.zoom(np.asarray(image.dataobj, np.float32), spacing / 2, order=1)
    affine = image.affine.copy()
    affine[:3, :3] *= np.array(image.shape) / data.shape / 2
    path = folder / "small.nii.gz"
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def _timed(scan: Path, model: Model, runs: int) -> dict[str, Any]:
    once, _ = _analysed(scan, replace(model, exact=None), runs)
    with_it, report = _analysed(scan, model, runs)
    brain = report.brain
    litres = float(brain.data.sum()) * brain.grid.voxel_volume_mm3 / 1e6 if brain else 0.0
    row = {
        "brain_litres": round(litres, 2),
        "seconds": round(once, 2),
        "seconds_with_second_look": round(with_it, 2),
        "places_in_doubt": report.provenance["options"]["second_look_places"],
    }
    print(row, flush=True)
    return row


def _analysed(scan: Path, model: Model, runs: int) -> tuple[float, Report]:
    """Median seconds after one run to warm up, and the report."""
    seconds = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        report = analyse(scan, model=model)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:]), report


def _many(scan: Path, model: Model, folder: Path, count: int) -> list[int]:
    """Resident MiB when each case ends."""
    held: dict[str, int] = {}

    def watch(case: Case, _stage: str, _done: int, _total: int) -> None:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        held[case.case_id] = round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)

    cases = [Case(f"case-{number:03}", scan) for number in range(count)]
    predict_cases(cases, folder / "out", model, watch=watch)
    return list(held.values())


if __name__ == "__main__":
    main()
