"""A study on disk whose answers are known: small masks, two cohorts, injected differences."""

import csv
import json

import numpy as np

from brainmets.io import nifti
from brainmets.volume import Grid, Volume

GRID = Grid((20, 18, 16), np.diag([1.0, 1.0, 2.0, 1.0]))


def ball(centre, radius):
    at = np.indices(GRID.shape).astype(float) * np.array([1, 1, 2.0])[:, None, None, None]
    world = np.array(centre) * [1, 1, 2.0]
    return (np.linalg.norm(at - world[:, None, None, None], axis=0) <= radius).astype(np.uint8)


def write_mask(path, data, grid=GRID):
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti.write(Volume(data, grid), path)


def write_rows(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_cohort(folder, name, count, *, seed, lost=0.5):
    """Lung: lesions outlined too small. Sex: nothing. Time by hand: 1.6 times the model's."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        case = f"{name}{number:03d}"
        lung = number % 2 == 0
        radius = rng.uniform(3.2, 4.5)
        truth = ball((10, 9, 8), radius)
        found = ball(
            (10 + int(rng.integers(0, 2)), 9, 8),
            radius - (lost * 2 if lung else lost * rng.uniform(0, 0.9)),
        )
        write_mask(folder / f"{case}-seg.nii.gz", truth)
        write_mask(folder / name / case / "mask.nii.gz", found)
        record = {"seconds_by_stage": {"read": 20.0, "predict": float(rng.uniform(40, 60))}}
        (folder / name / case / "run.json").write_text(json.dumps(record))
        rows.append(
            {
                "case": case, "image": f"{case}-seg.nii.gz", "mask": f"{case}-seg.nii.gz",
                "patient": f"p{case}", "sex": "FM"[(number // 2) % 2],
                "age": str(rng.integers(30, 85)), "primary": "lung" if lung else "other",
                "manual_time_s": f"{70 * 1.6 + rng.normal(0, 8):.1f}", "split": "test",
            }
        )  # fmt: skip
    write_rows(folder / f"{name}.tsv", rows)
    return rows


STUDY = """
title = "Two hospitals"
resamples = 400
[[cohort]]
name = "internal"
table = "in.tsv"
predictions = "in"
[[cohort]]
name = "external"
table = "ex.tsv"
predictions = "ex"
role = "external"
[[subgroup]]
column = "primary"
[[subgroup]]
column = "sex"
[[subgroup]]
column = "age"
cuts = [60]
"""


def write_study(folder, counts=(40, 34)):
    for name, count, seed in zip(("in", "ex"), counts, (1, 2), strict=True):
        write_cohort(folder, name, count, seed=seed)
    (folder / "study.toml").write_text(STUDY)
    return folder / "study.toml"
