"""From a cohort to the prepared store: each case read, prepared and written once."""

import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from brainmets.cohort import Case, Cohort
from brainmets.concurrency import in_order
from brainmets.config import Recipe, to_mapping
from brainmets.errors import CohortError
from brainmets.evaluation.voxel import target
from brainmets.io import images, nifti
from brainmets.io.storage import require_writable, sweep, whole_folder, write_json
from brainmets.preprocess.brain import builtin_sha256, extract_brain, given_mask
from brainmets.preprocess.prepare import prepare
from brainmets.preprocess.resample import resample
from brainmets.training.store import (
    DEPTH_STEP_MM,
    FACTS,
    LAYOUT,
    LEVELS_MM,
    PreparedCase,
    open_entry,
    write_array,
)
from brainmets.volume import Array, on_grid, to_nearest_ras

SURROUNDING_MM = 4.0
"""Tissue kept around the brain, from which training cuts masks of varying depth."""


def prepare_cohort(
    cohort: Cohort,
    recipe: Recipe,
    store: Path,
    *,
    target_labels: Collection[int] | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[PreparedCase, ...]:
    """Prepare every case that is not in the store yet, and open all.

    An entry's name is a hash of the case's files, the recipe, the extractor and the layout: what
    changed is prepared anew, what did not is kept.

    Args:
        cohort: cases with reference masks.
        recipe: how scans are prepared.
        store: folder of the store; made if absent.
        target_labels: labels of the reference masks that are lesion (BraTS: 1 and 3);
            None: all above 0.
        workers: processes to use.
        progress: called with (done, total).

    Raises:
        CohortError: a case without reference mask, or no case at all.
        GridMismatchError: a mask of another grid than its scan's.
    """
    if not len(cohort):
        raise CohortError("no case to train on; the cohort has no case with a mask")
    require_writable(store)
    sweep(store)
    prepared = []
    jobs = [(case, recipe, store, target_labels) for case in cohort]
    with in_order(workers) as run:
        for done, folder in enumerate(run(_prepared_folder, jobs), start=1):
            prepared.append(open_entry(folder, cohort.cases[done - 1].case_id))
            if progress:
                progress(done, len(cohort))
    return tuple(prepared)


def _prepared_folder(job: tuple[Case, Recipe, Path, Collection[int] | None]) -> Path:
    case, recipe, store, target_labels = job
    folder = store / _key(case, recipe, target_labels)
    if not folder.is_dir():
        _prepare_case(case, recipe, folder, target_labels)
    return folder


def _key(case: Case, recipe: Recipe, target_labels: Collection[int] | None) -> str:
    labels = None if target_labels is None else sorted(target_labels)
    extractor = None if case.brain_mask else builtin_sha256()
    settings = [LAYOUT, to_mapping(recipe), labels, extractor]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(images.image_sha256(case) + (case.series or "").encode())
    for path in (case.mask, case.brain_mask):
        digest.update(path.read_bytes() if path else b"none")
    return digest.hexdigest()[:24]


def _prepare_case(
    case: Case, recipe: Recipe, folder: Path, target_labels: Collection[int] | None
) -> None:
    if case.mask is None:
        raise CohortError(f"case {case.case_id!r} has no reference mask")
    scan = images.read_case(case).volume
    pair = f"case {case.case_id!r}: scan and mask"
    mask = on_grid(nifti.read_labels(case.mask), scan.grid, pair)
    if case.brain_mask:
        brain = given_mask(scan, nifti.read_labels(case.brain_mask))
    else:
        brain = extract_brain(scan)
    wide = prepare(scan, brain.kept, replace(recipe, brain_margin_mm=SURROUNDING_MM))
    lesion = target(mask, target_labels)
    share = lesion.with_data(lesion.data.astype(np.float32))
    inside = resample(to_nearest_ras(share), recipe.spacing_mm).data >= 0.5
    inner = resample(to_nearest_ras(brain.kept), recipe.spacing_mm).data >= 0.5
    box = wide.box
    depth = _signed_distance(inner[box], recipe.spacing_mm)
    labels, _ = ndimage.label(inside[box], np.ones((3, 3, 3)))
    with whole_folder(folder) as temporary:
        image = wide.volume.data[box].astype(np.float16)
        write_array(temporary, "image", image)
        write_array(temporary, "labels", np.minimum(labels, 255).astype(np.uint8))
        write_array(temporary, "depth", depth)
        facts = {"lesions": _centres(labels), "levels": score_levels(image, depth)}
        write_json(temporary / FACTS, facts)


def _signed_distance(inner: Array, spacing_mm: float) -> npt.NDArray[np.int8]:
    outside = ndimage.distance_transform_edt(~inner) - ndimage.distance_transform_edt(inner)
    steps = np.rint(outside * spacing_mm / DEPTH_STEP_MM)
    return np.clip(steps, -127, 127).astype(np.int8)


def score_levels(
    image: npt.NDArray[np.float16], depth: npt.NDArray[np.int8]
) -> list[tuple[float, float]]:
    """Mean and standard deviation of ``image`` inside each of LEVELS_MM."""
    levels = []
    for level in LEVELS_MM:
        inside = image[depth * DEPTH_STEP_MM <= level].astype(np.float64)
        levels.append((float(inside.mean()), max(float(inside.std()), 1e-3)))
    return levels


def _centres(labels: Array) -> list[list[int]]:
    boxes = ndimage.find_objects(np.minimum(labels, 255))
    return [[(s.start + s.stop) // 2 for s in box] for box in boxes if box]
