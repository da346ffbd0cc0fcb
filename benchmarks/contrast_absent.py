"""How often the report's rule on contrast is wrong: on simulated pairs, and on real heads.

Each pair is one head of the label maps 17–20 of BRAINMETS_DATA, once with contrast agent (and
metastases, if chance has it), once without; the brain is found as in use. On real heads the rule
was not tuned, but they were looked at before its depth was fixed: they are shown, not claimed.

    BRAINMETS_DATA=FOLDER python benchmarks/contrast_absent.py [--pairs N] [--workers N]
"""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np

from brainmets.concurrency import in_order
from brainmets.io import images
from brainmets.pipeline import find_brain
from brainmets.preprocess.enhancement import SEEN, enhancement
from brainmets.simulate.anatomy import read_anatomy
from brainmets.simulate.examination import simulate
from brainmets.volume import Volume
from record import write

MAPS = tuple(f"training_seg_{n}.nii.gz" for n in (17, 18, 19, 20))
SCANS = "scans/"
REAL = (
    (True, f"{SCANS}met_00110/BraTS-MET-00110-000-t1c.nii.gz"),
    (False, f"{SCANS}met_00110/BraTS-MET-00110-000-t1n.nii.gz"),
    *((True, f"{SCANS}glioma_{n}/t1c_zscored.nii.gz") for n in ("01", "03", "05")),
    (True, f"{SCANS}head_thick/t1c.nii.gz"),
    (True, f"{SCANS}head_fg6692/t1c.nii.gz"),
    (False, f"{SCANS}head_fg6692/t1.nii.gz"),
    (False, "heads/chris_t1.nii.gz"),
    (False, "heads/mni152_t1_1mm_head.nii.gz"),
    *((False, f"heads/nichart/Subj{n}_T1.nii.gz") for n in range(1, 9)),
    (False, "dicom/head_t1_dicom.zip"),
)
"""Whether contrast was given, and the scan."""


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=4101)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    data = Path(os.environ["BRAINMETS_DATA"])
    share = -(-options.pairs // len(MAPS))
    jobs = [(data / "anatomy" / MAPS[n // share], options.seed, n) for n in range(options.pairs)]
    with in_order(options.workers) as run:
        pairs = list(run(pair, jobs))
    value = {
        "least_with_contrast": SEEN,
        "pairs": options.pairs,
        "with_contrast_called_absent": sum(given < SEEN for given, _ in pairs),
        "without_contrast_called_given": sum(plain >= SEEN for _, plain in pairs),
        "with_contrast": quartiles([given for given, _ in pairs]),
        "without_contrast": quartiles([plain for _, plain in pairs]),
        "real": [real(data, path, given=given) for given, path in REAL],
    }
    print(write("contrast_absent", value).read_text())


def pair(job: tuple[Path, int, int]) -> tuple[float, float]:
    """Enhancement of one head with and without contrast."""
    path, seed, number = job
    found = []
    for given in (True, False):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
        found.append(of(simulate(read_anatomy(path), rng, contrast=given).scan))
    return found[0], found[1]


def real(data: Path, path: str, *, given: bool) -> dict[str, Any]:
    """One row of the table of real heads."""
    seen = of(images.read(data / path).volume)
    name = path.removeprefix(SCANS)
    return {
        "scan": name,
        "contrast": given,
        "seen": round(seen, 2),
        "right": given == (seen >= SEEN),
    }


def of(scan: Volume) -> float:
    """Enhancement within the brain that is found."""
    return enhancement(scan, find_brain(scan).kept)


def quartiles(values: list[float]) -> dict[str, float]:
    """Least, quartiles and largest."""
    names = ("least", "p25", "p50", "p75", "largest")
    found = np.percentile(values, (0, 25, 50, 75, 100))
    return {name: round(float(x), 2) for name, x in zip(names, found, strict=True)}


if __name__ == "__main__":
    main()
