"""The study: how often its tests reject and its intervals cover, and a whole one of 642 patients.

python benchmarks/study.py                 # rows of patients: 2,000 cohorts without a difference
python benchmarks/study.py --images        # then 379 + 91 + 172 patients at 240×240×155

The masks of the second part are the simulator's metastases in its heads; predictions are degraded
copies, worse for lung. Nothing here says how well a model works.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from functools import cache
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, stats

import record
from brainmets.evaluation.paper.auc import area, paper_auc_test
from brainmets.evaluation.paper.comparisons import compare_groups, compare_pairs, saving
from brainmets.evaluation.paper.families import holm
from brainmets.evaluation.statistics import bootstrap
from brainmets.io import nifti
from brainmets.simulate.anatomy import Anatomy, embedded_head
from brainmets.simulate.contrast import warp
from brainmets.simulate.metastases import paint, plan_metastases
from brainmets.volume import Grid, Volume

COHORTS = 2000
PATIENTS = 91
SIZES = (20, 74, 91, 172)
RESAMPLES = 2000
SHAPES = {"dice": (8, 2), "auc": (20, 1.5), "lesion_sensitivity": (4, 1)}
"""Of beta distributions: skewed as scores are."""

GRID = Grid((240, 240, 155), np.eye(4))
PARTS = {"training": 379, "internal": 91, "external": 172}


def reject(seed: int) -> list[float]:
    """P values of 12 tests on one cohort in which nothing differs."""
    rng = np.random.default_rng([1, seed])
    groups = {
        "sex": rng.integers(0, 2, PATIENTS),
        "age": (rng.normal(60, 11, PATIENTS) >= 60).astype(int),
        "primary": (rng.random(PATIENTS) < 0.55).astype(int),
        "site": rng.integers(0, 3, PATIENTS),
    }
    scores = {name: rng.beta(*shape, PATIENTS) for name, shape in SHAPES.items()}
    found = []
    for score in scores.values():
        for name, group in groups.items():
            if name == "site" and score is not scores["dice"]:
                continue  # eleven tests with times; the family stays at most twelve
            parts = {str(level): score[group == level] for level in np.unique(group)}
            found.append(compare_groups(parts, rng, resamples=2).p)
    manual = rng.gamma(9, 12, PATIENTS)
    found.append(compare_pairs(manual, manual + rng.normal(0, 9, PATIENTS), rng).p)
    return found


def cover(job: tuple[int, int]) -> dict[str, bool]:
    """Whether each interval of one cohort holds the truth."""
    patients, seed = job
    rng = np.random.default_rng([2, patients, seed])
    beta = stats.beta(*SHAPES["dice"])
    scores = beta.rvs(patients, random_state=rng)
    mean = bootstrap(scores, rng, resamples=RESAMPLES)
    middle = bootstrap(scores, rng, statistic="median", method="percentile", resamples=RESAMPLES)
    manual = rng.gamma(9, 12, patients)
    model = manual * 0.4 + rng.gamma(4, 5, patients)
    saved = saving(manual, model, rng)
    half = patients // 2
    worse = compare_groups(
        {"a": rng.normal(-0.5, 1, half), "b": rng.normal(0, 1, patients - half)}, rng
    )
    delta = 2 * stats.norm.cdf(-0.5 / np.sqrt(2)) - 1
    return {
        "mean (BCa)": mean.low <= beta.mean() <= mean.high,
        "median (percentile)": middle.low <= beta.median() <= middle.high,
        "share of time saved (BCa)": saved.low <= 1 - (0.4 * 108 + 20) / 108 <= saved.high,
        "Cliff's delta (Newcombe)": worse.low <= delta <= worse.high,
    }


def pooled(seed: int) -> tuple[float, float]:
    """P of the papers' test on pooled voxels, and of ranks of patients, nothing differing."""
    rng = np.random.default_rng([4, seed])
    areas, patients = [], []
    truth = np.tile(np.r_[np.ones(50), np.zeros(50)], PATIENTS // 2)
    for _ in range(2):
        shift = np.repeat(rng.normal(1.5, 0.5, PATIENTS // 2), 100)
        values = rng.normal(0, 1, truth.size) + shift * truth
        areas.append(area(values, truth))
        pairs = zip(np.split(values, PATIENTS // 2), np.split(truth, PATIENTS // 2), strict=True)
        patients.append([area(v, t).value for v, t in pairs])
    return paper_auc_test(*areas).p, compare_groups(dict(enumerate(patients)), rng).p


def rows_only() -> dict[str, Any]:
    """Rejections and coverage."""
    with Pool() as pool:
        p = np.array(pool.map(reject, range(COHORTS), chunksize=50))
        adjusted = np.array([holm(family) for family in p])
        coverage = {
            str(n): _shares(pool.map(cover, [(n, s) for s in range(COHORTS)], chunksize=50))
            for n in SIZES
        }
        areas = np.array(pool.map(pooled, range(COHORTS), chunksize=50))
    each = (p < 0.05).mean(axis=0)
    return {
        "cohorts": COHORTS,
        "patients": PATIENTS,
        "tests": p.shape[1],
        "rejected": {"least": float(each.min()), "most": float(each.max())},
        "families_after_holm": float((adjusted < 0.05).any(axis=1).mean()),
        "coverage": coverage,
        "pooled_voxels": dict(
            zip(("paper_auc_test", "patients"), (areas < 0.05).mean(axis=0).tolist(), strict=True)
        ),
    }


def _shares(rows: list[dict[str, bool]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def images(folder: Path, parts: dict[str, int], workers: int) -> dict[str, Any]:
    """A whole study on disk, through the command."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(folder, name, n) for name, count in parts.items() for n in range(count)]
    with Pool(workers) as pool:
        rows = pool.map(_patient, jobs, chunksize=4)
    for name in parts:
        mine = [row for row in rows if row["site"] == name]
        with (folder / f"{name}.tsv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(mine[0]), delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(mine)
    subgroups = [
        ("sex", ""),
        ("age", "cuts = [60]"),
        ("primary", ""),
        ("reference_lesions", "cuts = [2, 5]"),
    ]
    text = 'title = "Simulated study of the published size"\n'
    for name in parts:
        text += f'[[cohort]]\nname = "{name}"\ntable = "{name}.tsv"\npredictions = "{name}"\n'
    for column, cuts in subgroups:
        text += f'[[subgroup]]\ncolumn = "{column}"\n{cuts}\n'
    (folder / "study.toml").write_text(text)
    command = [Path(sys.executable).with_name("brainmets"), "study", folder / "study.toml"]
    started = time.monotonic()
    subprocess.run(
        [*map(str, command), "-o", str(folder / "out"), "--workers", str(workers)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    first = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    started = time.monotonic()
    subprocess.run(
        [*map(str, command), "-o", str(folder / "out"), "--workers", str(workers)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return {
        "patients": sum(parts.values()),
        "shape": list(GRID.shape),
        "seconds": round(first, 1),
        "seconds_again": round(time.monotonic() - started, 1),
        "peak_bytes_of_largest_process": peak,
        "workers": workers,
        "found": _found(folder / "out"),
    }


def _found(out: Path) -> list[dict[str, Any]]:
    with (out / "tests.csv").open(newline="", encoding="utf-8") as file:
        tests = list(csv.DictReader(file))
    with (out / "times.csv").open(newline="", encoding="utf-8") as file:
        times = list(csv.DictReader(file))
    keys = ("cohort", "subgroup", "measure", "size", "low", "high", "p_holm")
    kept = [t for t in tests if t["subgroup"] in ("sex", "primary") and t["measure"] == "auc"]
    rows = [{k: row[k] for k in keys} for row in kept]
    rows += [
        {
            "cohort": row["cohort"], "subgroup": "time", "measure": "share saved",
            "size": row["saved_share"], "low": row["saved_share_low"],
            "high": row["saved_share_high"], "p_holm": row["p"],
        }
        for row in times
    ]  # fmt: skip
    return rows


@cache
def _heads() -> tuple[Anatomy, ...]:
    """A few warped heads, made once a process."""
    head = embedded_head()
    return tuple(warp(head, np.random.default_rng([5, n])) for n in range(4))


def _truth(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The simulator's metastases in one of its heads, cut to the study's grid."""
    head = _heads()[int(rng.integers(len(_heads())))]
    plans = plan_metastases(head, int(min(1 + rng.geometric(0.35), 12)), rng)
    occupancy = paint(np.zeros(head.labels.shape, np.float32), head, plans, rng)
    data = np.zeros(GRID.shape, np.uint8)
    middle = np.argwhere(head.labels > 0)[::997].mean(axis=0)
    shift = np.round(np.array(GRID.shape) / 2 - middle).astype(int)
    at = np.argwhere(occupancy >= 0.5) + shift
    at = at[((at >= 0) & (at < GRID.shape)).all(axis=1)]
    data[tuple(at.T)] = 1
    return data


def _degraded(
    truth: npt.NDArray[np.uint8], rng: np.random.Generator, *, lung: bool
) -> npt.NDArray[np.uint8]:
    """A reader worse for lung: small lesions missed, others outlined too small, some invented."""
    found = np.zeros_like(truth)
    labels, _ = ndimage.label(truth, np.ones((3, 3, 3)))
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        inside = np.pad(labels[box] == number, 1)
        radius = (inside.sum() * 3 / (4 * np.pi)) ** (1 / 3)
        if rng.random() >= (0.75 if lung else 0.88) * min(1, radius / 2):
            continue
        depth = ndimage.distance_transform_edt(inside)
        lost = abs(rng.normal(0.22 if lung else 0.1, 0.05)) * depth.max()
        kept = depth > max(lost, 0.5) + 0.4 * rng.random()
        found[box] |= kept[1:-1, 1:-1, 1:-1].astype(np.uint8)
    if rng.random() < 0.4:
        _ellipsoid(found, rng.uniform([60, 60, 50], [180, 180, 110]), rng.uniform(1.5, 3, 3))
    return found


def _patient(job: tuple[Path, str, int]) -> dict[str, Any]:
    folder, part, number = job
    rng = np.random.default_rng([3, *part.encode(), number])
    case = f"{part}{number:03d}"
    lung = bool(rng.random() < 0.55)
    truth = _truth(rng)
    _write(truth, folder / f"{case}-seg.nii.gz")
    place = folder / part / case
    place.mkdir(parents=True, exist_ok=True)
    _write(_degraded(truth, rng, lung=lung), place / "mask.nii.gz")
    seconds = float(rng.normal(67, 6))
    (place / "run.json").write_text(json.dumps({"seconds_by_stage": {"all": seconds}}))
    return {
        "case": case, "image": f"{case}-seg.nii.gz", "mask": f"{case}-seg.nii.gz",
        "patient": case, "sex": "FM"[int(rng.integers(0, 2))], "site": part,
        "age": int(np.clip(rng.normal(60, 11), 20, 90)), "primary": "lung" if lung else "other",
        "manual_time_s": round(float(rng.gamma(16, 6.8)), 1),
    }  # fmt: skip


def _ellipsoid(data: Any, centre: Any, axes_mm: Any) -> None:
    reach = np.ceil(axes_mm).astype(int) + 2
    low = np.maximum(np.floor(centre).astype(int) - reach * 2, 0)
    high = np.minimum(np.ceil(centre).astype(int) + reach * 2, data.shape)
    where = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    at = np.indices(tuple(high - low)).astype(np.float32)
    shift = (low - centre)[:, None, None, None]
    spacing = np.diag(GRID.affine)[:3, None, None, None]
    inside = (((at + shift) * spacing / np.reshape(axes_mm, (3, 1, 1, 1))) ** 2).sum(0) <= 1
    data[where] |= inside.astype(np.uint8)


def _write(mask: Any, path: Path) -> None:
    nifti.write(Volume(mask, GRID), path)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", action="store_true")
    parser.add_argument("--few", action="store_true", help="a tenth of the patients, not recorded")
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    if chosen.images:
        parts = {k: v // 10 for k, v in PARTS.items()} if chosen.few else PARTS
        with tempfile.TemporaryDirectory() as folder:
            name, value = "study_images", images(Path(folder), parts, chosen.workers)
    else:
        name, value = "study", rows_only()
    print(json.dumps(value, indent=1))
    if not chosen.few:
        print(record.write(name, value))


if __name__ == "__main__":
    main()
