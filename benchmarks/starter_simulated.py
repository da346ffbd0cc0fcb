"""How hard the simulated test cohort is, what a simple detector finds there, and what a model does.

Test cohort: 100 scans from label maps 17–20 of BRAINMETS_DATA, and 50 without a lesion. The simple
detector takes blobs of a Laplacian of Gaussian above a threshold within the true brain mask; its
settings are chosen for sensitivity at 1 false positive per scan on label maps 15 and 16. A second
one may also ask how round a blob is. The model runs its whole line. All curves are of all
thresholds; a model's own rule is told besides.

A case is two files in the work folder, one of the model's answer and one of the detector's, so
that a stopped run goes on, and another model runs on without the detector.

    BRAINMETS_DATA=FOLDER python benchmarks/starter_simulated.py [--model NAME|FILE] [--workers N]
"""

import argparse
import dataclasses
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from brainmets import __version__
from brainmets.concurrency import in_order
from brainmets.evaluation.froc import Candidate, ScanCandidates, froc, operating_point
from brainmets.evaluation.froc_intervals import froc_summary
from brainmets.evaluation.lesionwise import SIZE_BINS
from brainmets.evaluation.statistics import draw
from brainmets.evaluation.stress import VERSION as STRESS
from brainmets.evaluation.stress import Stress, ask, examine, name_of
from brainmets.evaluation.stress_axes import SIZE
from brainmets.evaluation.stress_case import (
    PosedLesion,
    StressCase,
    from_json,
    posed,
    to_json,
)
from brainmets.evaluation.stress_tables import SEED, false_positives, median_dice, sensitivity
from brainmets.io.storage import write_json
from brainmets.lesions import bounding_box, components
from brainmets.pipeline import Model, load_model
from brainmets.preprocess.resample import resample
from brainmets.simulate.examination import VERSION as SIMULATOR
from brainmets.simulate.examination import Examination
from brainmets.volume import Volume, apply
from record import write

SEEDS = {"test": 1720, "empty": 1721, "tuning": 1516}
MAPS = {"test": (17, 18, 19, 20), "empty": (17, 18, 19, 20), "tuning": (15, 16)}
DETECTOR = 1
"""Version of the simple detector; raised when its blobs change."""
SIGMAS_MM = (0.9, 1.4, 2.3, 3.8, 6.3)
"""A ball of diameter 2 √3 σ answers most: 3 to 22 mm."""
FAINTEST = 0.15
"""Least response of a blob, in standard deviations of the brain."""
MOST_BLOBS = 400
ROUND = 0.5
"""Least roundness of a mimic; vessels and sheets of dura have less."""
LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
SMALLEST_MM, LARGEST_MM = (0.0, 4.0, 7.0), (9.0, 15.0, 30.0)
MEMORY = {"MALLOC_MMAP_THRESHOLD_": 2**32, "MALLOC_TRIM_THRESHOLD_": 2**33,
          "MALLOC_TOP_PAD_": 2**28}  # fmt: skip
"""For glibc in the workers: memory that is kept costs a third less time than memory given back."""
ROUNDNESS = (0.0, 0.3, 0.5, 0.7)
ALLOWED, ALLOWED_WITHOUT = 1.0, 0.5
"""False positives per scan at which sensitivities are told, and of a scan without a lesion."""
GOAL_BINS = {"≥ 6 mm": ("6–10 mm", "≥ 10 mm"), **{name: (name,) for name in SIZE_BINS}}


@dataclass(frozen=True)
class Blob:
    """A bright blob.

    Attributes:
        response: of the Laplacian of Gaussian, scale-normalised.
        level: grey value at its centre above white matter, in standard deviations of the brain.
        diameter_mm: of a ball that answers most at this scale.
        roundness: smallest over largest curvature: 1 for a ball, 0 for a tube or a sheet.
        hits: labels of the lesions it shares a voxel with.
    """

    response: float
    level: float
    diameter_mm: float
    roundness: float
    hits: tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """A case, and what is missing of it; goes to another process.

    Attributes:
        folder: of the model's answers.
        detected: of the simple detector's, which are the same for every model.
    """

    group: str
    number: int
    plan: Stress
    folder: Path
    detected: Path
    identity: str
    with_model: bool
    until: float


Case = tuple[StressCase | None, tuple[PosedLesion, ...], tuple[Blob, ...]]


def main() -> None:
    """Run, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--empty", type=int, default=50)
    parser.add_argument("--tuning", type=int, default=16)
    parser.add_argument("--work", type=Path, default=Path("work/starter_simulated"))
    parser.add_argument("--minutes", type=float, default=np.inf, help="stop after so long")
    parser.add_argument("--trial", action="store_true", help="print and record nothing")
    options = parser.parse_args()
    for name, size in MEMORY.items():
        os.environ.setdefault(name, str(size))
    model = load_model(options.model)
    counts = {"test": options.cases, "empty": options.empty, "tuning": options.tuning}
    jobs = [job for group, n in counts.items() for job in jobs_of(group, n, model, options)]
    groups = grouped(jobs, counts, options.workers)
    if groups is None:
        print("stopped; start again to go on")
        return
    value = told(groups, model)
    if options.trial:
        print(json.dumps(value, indent=1, ensure_ascii=False))
    else:
        print(write("starter_simulated", value).read_text())


# --- cases ------------------------------------------------------------------------------


def jobs_of(
    group: str,
    count: int,
    model: Model,
    options: argparse.Namespace,
    detected: Path | None = None,
) -> list[Job]:
    """Jobs of a group, map by map: reading one takes longer than simulating in it."""
    folder = Path(os.environ["BRAINMETS_DATA"]) / "anatomy"
    maps = tuple(folder / f"training_seg_{n:02d}.nii.gz" for n in MAPS[group])
    lesions = 0 if group == "empty" else None
    plan = Stress(options.model, max(count, 1), SEEDS[group], maps, lesions=lesions)
    asked, until = group != "tuning", time.time() + 60 * options.minutes
    work = options.work.resolve()
    blobs, identity = (detected or work).resolve(), model.bundle.identity
    jobs = [Job(group, n, plan, work, blobs, identity, asked, until) for n in range(count)]
    return sorted(jobs, key=lambda job: (job.number % len(maps), job.number))


def grouped(
    jobs: Sequence[Job], counts: dict[str, int], workers: int
) -> dict[str, list[Case]] | None:
    """The cases of each group, in order; None when time was up before all were made."""
    cases: dict[tuple[str, int], Case] = {}
    with in_order(workers) as run:
        for job, case in zip(jobs, run(made, jobs), strict=True):
            if case is not None:
                cases[job.group, job.number] = case
                print(f"{len(cases)}/{len(jobs)} {job.group} {job.number}", flush=True)
    if len(cases) < len(jobs):
        return None
    return {name: [cases[name, i] for i in range(n)] for name, n in counts.items()}


def made(job: Job) -> Case | None:
    """A case from its files, or made and written to them; None when time is up."""
    common = f"{__version__} {STRESS} {SIMULATOR} {job.plan.seed} {job.number}"
    model_key, blob_key = (
        hashlib.sha256(f"{common} {rest}".encode()).hexdigest()
        for rest in (job.identity, f"detector {DETECTOR}")
    )
    stem = f"{job.group}-{job.number:03d}"
    model_file, blob_file = job.folder / f"{stem}.model.json", job.detected / f"{stem}.blobs.json"
    answer, blobs = stored(model_file, model_key), stored(blob_file, blob_key)
    if blobs is None or (answer is None and job.with_model):
        if time.time() > job.until:
            return None
        examination = examine(job.plan, job.number)
        if blobs is None:
            blobs = detected(examination)
            write_json(blob_file, {"key": blob_key, "value": blobs})
        if answer is None and job.with_model:
            answer = to_json(ask(examination, loaded(job.plan.model), name_of(job.number)))
            write_json(model_file, {"key": model_key, "value": answer})
    lesions = tuple(PosedLesion(**row) for row in blobs["lesions"])
    found = tuple(Blob(**{**row, "hits": tuple(row["hits"])}) for row in blobs["blobs"])
    return (from_json(answer) if answer else None), lesions, found


def stored(path: Path, key: str) -> Any:
    """What an earlier run left, if it was made from the same things."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return held["value"] if held.get("key") == key else None


@lru_cache(maxsize=1)
def loaded(name: str) -> Model:
    """The model, once a process."""
    return load_model(name)


# --- the simple detector ----------------------------------------------------------------


def detected(examination: Examination) -> dict[str, Any]:
    """Blobs of a scan, and its lesions with how hard they are."""
    _, lesions = posed(examination)
    return {
        "lesions": [dataclasses.asdict(lesion) for lesion in lesions],
        "blobs": [dataclasses.asdict(blob) for blob in blobs_of(examination)],
    }


def blobs_of(examination: Examination) -> list[Blob]:
    """The blobs within the true brain mask that answer most, at 1 mm.

    Only what is brighter than the brain's 75th percentile, about white matter, is left in. Places
    and scales are the peaks of the scale-normalised Laplacian (Lindeberg 1998, Int J Comput
    Vis 30:79), as in scikit-image's ``blob_log``, which keeps no answers to make a curve of; of
    peaks within each other's reach the strongest stays.
    """
    brain = examination.brain
    values = examination.scan.data[brain.data > 0].astype(np.float32)
    centred = (examination.scan.data - np.percentile(values, 75)) / values.std()
    fine = resample(examination.scan.with_data(centred.astype(np.float32)), 1.0)
    inside = resample(brain.with_data(brain.data.astype(np.float32)), 1.0).data > 0.5
    box = bounding_box(inside)
    image = np.where(inside[box], np.maximum(fine.data[box], 0), 0).astype(np.float32)
    smooth = [ndimage.gaussian_filter(image, s) for s in SIGMAS_MM]
    cube = np.stack(
        [-(s**2) * ndimage.laplace(one) for s, one in zip(SIGMAS_MM, smooth, strict=True)]
    )
    peaks = (ndimage.maximum_filter(cube, size=3) == cube) & (cube > FAINTEST) & inside[box]
    found = np.argwhere(peaks)
    order = np.argsort(-cube[peaks], kind="stable")[: 3 * MOST_BLOBS]
    responses, scales, places = cube[peaks][order], found[order, 0], found[order, 1:]
    sigmas = np.asarray(SIGMAS_MM)[scales]
    reach = np.sqrt(3) * sigmas
    kept = strongest(places, reach)[:MOST_BLOBS]
    levels = ndimage.gaussian_filter(image, 0.7)[tuple(places.T)]
    labels = components(examination.mask)
    centres_mm = apply(fine.grid.affine, places + [side.start for side in box])
    return [
        Blob(
            round(float(responses[n]), 4), round(float(levels[n]), 4),
            round(2 * float(reach[n]), 3), roundness(smooth[scales[n]], places[n], sigmas[n]),
            hit_by(labels, centres_mm[n], float(reach[n])),
        )
        for n in kept
    ]  # fmt: skip


def roundness(smooth: npt.NDArray[np.float32], place: npt.NDArray[np.int_], sigma: float) -> float:
    """Smallest over largest curvature of a smoothed image at a peak, from differences σ apart."""
    step = max(1.0, float(sigma))

    def value(*signs: int) -> float:
        at = (place + step * np.asarray(signs))[:, None]
        return float(ndimage.map_coordinates(smooth, at, order=1, mode="nearest")[0])

    hessian = np.zeros((3, 3))
    unit = np.eye(3, dtype=int)
    for i, j in itertools.combinations_with_replacement(range(3), 2):
        both, apart = unit[i] + unit[j], unit[i] - unit[j]
        if i == j:
            curved = value(*unit[i]) + value(*-unit[i]) - 2 * value(0, 0, 0)
        else:
            curved = (value(*both) + value(*-both) - value(*apart) - value(*-apart)) / 4
        hessian[i, j] = hessian[j, i] = curved
    curvatures = np.linalg.eigvalsh(hessian)
    return (
        round(float(np.clip(curvatures[2] / curvatures[0], 0, 1)), 3) if curvatures[0] < 0 else 0.0
    )


def strongest(places: npt.NDArray[np.int_], reach: npt.NDArray[np.float64]) -> list[int]:
    """Of places, strongest first, those that lie within the reach of no stronger one that stays."""
    kept: list[int] = []
    for n, place in enumerate(places):
        away = np.linalg.norm(places[kept] - place, axis=1)
        if not (away < np.maximum(reach[kept], reach[n])).any():
            kept.append(n)
    return kept


def hit_by(labels: Volume, centre_mm: npt.NDArray[np.float64], reach_mm: float) -> tuple[int, ...]:
    """Lesions that a ball shares a voxel with; at least the voxel of its centre is looked at."""
    at = apply(np.linalg.inv(labels.grid.affine), centre_mm)
    spacing = np.asarray(labels.grid.spacing_mm)
    low = np.maximum(np.floor(at - reach_mm / spacing).astype(int), 0)
    high = np.ceil(at + reach_mm / spacing).astype(int) + 1
    part = labels.data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    axes = np.ogrid[tuple(slice(n) for n in part.shape)]
    away = sum(
        ((axis + start - place) * step) ** 2
        for axis, start, place, step in zip(axes, low, at, spacing, strict=True)
    )
    near = away <= max(reach_mm, float(spacing.max()) / 2) ** 2
    return tuple(int(n) for n in np.unique(part[near & (part > 0)]))


@dataclass(frozen=True)
class Settings:
    """Of the detector: which blobs count."""

    least_level: float
    least_mm: float
    most_mm: float
    least_roundness: float

    def counts(self, blob: Blob) -> bool:
        """Whether a blob is bright, round and large enough, and not too large."""
        sized = self.least_mm <= blob.diameter_mm <= self.most_mm
        return sized and blob.level >= self.least_level and blob.roundness >= self.least_roundness


def curve_points(cases: Sequence[Case], settings: Settings) -> list[ScanCandidates]:
    """The detector's candidates of each scan."""
    return [
        ScanCandidates(
            tuple(
                Candidate(blob.response, frozenset(blob.hits))
                for blob in blobs
                if settings.counts(blob)
            ),
            len(lesions),
        )
        for _, lesions, blobs in cases
    ]


def tuned(cases: Sequence[Case], roundness: Sequence[float]) -> Settings:
    """The settings with the best sensitivity at 1 false positive per scan; the first of equals."""
    every = [
        Settings(*four) for four in itertools.product(LEVELS, SMALLEST_MM, LARGEST_MM, roundness)
    ]

    def reached(settings: Settings) -> float:
        point = operating_point(froc(curve_points(cases, settings)), ALLOWED)
        return point.sensitivity.value if point.sensitivity.defined else 0.0

    return max(every, key=reached)


# --- what is told -----------------------------------------------------------------------


def told(groups: dict[str, list[Case]], model: Model) -> dict[str, Any]:
    """Difficulty, detector and model."""
    weights = draw(len(groups["test"]), np.random.default_rng(SEED))
    hard = difficulty(groups["test"])
    print("difficulty:", json.dumps(hard, ensure_ascii=False), flush=True)
    detectors = {}
    for name, choices in (("detector", (0.0,)), ("detector_with_shape", ROUNDNESS)):
        settings = tuned(groups["tuning"], choices)
        points = curve_points(groups["test"], settings)
        curve = froc_summary(points, range(len(points)), weights)
        detectors[name] = {"settings": dataclasses.asdict(settings), **shortened(curve)}
    return {
        "sha256": model.bundle.sha256,
        "model": model.bundle.name,
        "simulator": SIMULATOR,
        "difficulty": hard,
        **detectors,
        "starter": judged(groups, weights, model.bundle.rule.told(model.bundle.temperature).high),
    }


def difficulty(cases: Sequence[Case]) -> dict[str, Any]:
    """Contrast to noise of the lesions, and what else is as blob-like and as large as they."""
    lesions = [lesion for _, found, _ in cases for lesion in found]
    told_of = np.array([x.contrast_to_noise for x in lesions], np.float64)  # None becomes NaN
    ratios = told_of[~np.isnan(told_of)]
    low, high = np.percentile([x.diameter_mm for x in lesions], (5, 95))
    best = [
        max(b.response for b in blobs if lesion.label in b.hits)
        for _, found, blobs in cases
        for lesion in found
        if any(lesion.label in b.hits for b in blobs)
    ]
    least = float(np.percentile(best, 25))
    mimics = [
        sum(
            not b.hits
            and b.response >= least
            and b.roundness >= ROUND
            and low <= b.diameter_mm <= high
            for b in blobs
        )
        for _, _, blobs in cases
    ]
    return {
        "scans": len(cases),
        "lesions": len(lesions),
        "lesions_by_size": {
            name: sum(SIZE.groups.index(name) == SIZE_BINS.index(bin_of(x)) for x in lesions)
            for name in SIZE_BINS
        },
        "contrast_to_noise_p10": round(float(np.percentile(ratios, 10)), 2),
        "contrast_to_noise_p50": round(float(np.percentile(ratios, 50)), 2),
        "mimics_per_scan_mean": round(float(np.mean(mimics)), 2),
        "mimics_per_scan_median": float(np.median(mimics)),
        "mimics_from_mm": round(float(low), 2),
        "mimics_to_mm": round(float(high), 2),
    }


def bin_of(lesion: PosedLesion) -> str:
    """A lesion's size bin."""
    return SIZE.of(EMPTY, lesion)


EMPTY = StressCase("", {}, (), (), 0.5)


def judged(groups: dict[str, list[Case]], weights: Any, own: float) -> dict[str, Any]:
    """The model at 1 false positive per scan, at 0.5 without a lesion too, by its rule."""
    answers = {
        name: [case for case, _, _ in groups[name] if case is not None]
        for name in ("test", "empty")
    }
    summary = froc_summary(
        [case.candidates() for case in answers["test"]], range(len(answers["test"])), weights
    )
    curve = froc([case.candidates() for case in answers["test"]])
    threshold = operating_point(curve, ALLOWED).threshold
    return {
        "refused": sum(bool(case.facts.get("refused")) for case in answers["test"]),
        "at_most_1_false_positive_per_scan": at(answers, weights, threshold),
        "and_at_most_half_of_one_without_lesion": at(
            answers, weights, max(threshold, quiet_from(answers["empty"], ALLOWED_WITHOUT))
        ),
        "own_rule": at(answers, weights, own),
        **shortened(summary),
    }


def quiet_from(cases: Sequence[StressCase], allowed: float) -> float:
    """The lowest threshold at which scans without a lesion have so few findings each."""
    scores = sorted((one.score for case in cases for one in case.announced), reverse=True)
    most = int(allowed * len(cases))
    return scores[most] * (1 + 1e-6) if len(scores) > most else 0.0


def at(answers: dict[str, list[StressCase]], weights: Any, high: float) -> dict[str, Any]:
    """All figures at one threshold."""
    empty_weights = draw(max(len(answers["empty"]), 1), np.random.default_rng(SEED))
    empty = answers["empty"]
    dice = median_dice(answers["test"], high)
    return {
        "threshold": high if np.isfinite(high) else None,
        "false_positives_per_scan": shown(
            false_positives(answers["test"], weights, high=high)["per_scan"]
        ),
        "sensitivity": {
            name: row(sensitivity(answers["test"], weights, among(bins), high))
            for name, bins in {"all": SIZE_BINS, **GOAL_BINS}.items()
        },
        "median_dice_from_6_mm": None if np.isnan(dice["value"]) else round(dice["value"], 3),
        "dice_lesions": dice["lesions"],
        "false_positives_per_scan_without_lesion": shown(
            false_positives(empty, empty_weights, high=high)["per_scan"]
        )
        if empty
        else None,
    }


def among(bins: Sequence[str]) -> Callable[[StressCase, PosedLesion], bool]:
    """Whether a lesion is of some size bins."""
    return lambda case, lesion: SIZE.of(case, lesion) in bins


def row(found: dict[str, Any]) -> dict[str, Any]:
    """Found of all, share and interval."""
    return {
        "found": found["found"],
        "lesions": found["lesions"],
        **shown(found["sensitivity"]),
    }


def shown(score: dict[str, Any]) -> dict[str, Any]:
    """Value and interval to three digits; None where undefined."""
    bounds = score["interval"]
    values = {"value": score["value"], "low": bounds["low"], "high": bounds["high"]}
    return {k: None if np.isnan(v) else round(float(v), 3) for k, v in values.items()}


def shortened(summary: dict[str, Any]) -> dict[str, Any]:
    """Operating points and curve of a free-response summary."""
    return {
        "operating_points": [
            {"allowed": point["allowed"], **shown(point["sensitivity"])}
            for point in summary["operating_points"]
        ],
        "mean_sensitivity": shown(summary["mean_sensitivity"]),
    }


if __name__ == "__main__":
    main()
