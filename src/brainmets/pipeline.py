"""The straight line, for one case: read, prepare, predict, restore, find, measure, report."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import brainmets
from brainmets.cohort import Scan, stem
from brainmets.concurrency import meanwhile, threads
from brainmets.config import to_mapping
from brainmets.errors import ConfigError
from brainmets.inference.details import Details
from brainmets.inference.predict import calibrated, predict
from brainmets.inference.second_look import looked_at_again
from brainmets.io import images, nifti
from brainmets.lesions import components, doubtful, find, measure, shares_outside
from brainmets.network import bundle as bundles
from brainmets.network.bundle import Bundle
from brainmets.network.choice import Wanted, choose_engine, exact_engine, release
from brainmets.network.cost import bytes_per_voxel
from brainmets.network.detail_engine import DetailEngine, detail_engine
from brainmets.network.engines import Engine
from brainmets.preprocess.brain import AUTO, Brain, Extractor, extract_brain, given_mask
from brainmets.preprocess.prepare import Prepared, prepare, restore
from brainmets.report.content import Check, Report, check_contrast, check_scan
from brainmets.volume import Volume, on_grid

DEFAULT_MODEL = "starter"
MAX_MEMORY_GB = 3.0
MOSTLY = 0.5
"""Share of a finding outside the brain mask above which the report says so."""
AGAIN = "second look"
NETWORK_MB = {"bfloat16": 370, "float32": 420, "torch": 975, AGAIN: 440}
WEIGHT_BYTES = {"openvino": 18, "torch": 6}
DETAIL_MB, DETAIL_THREAD_MB, DETAIL_KEPT_MB = 450, 55, 100
"""What is there on two threads while the detail network runs: libraries, the scan prepared and
smoothed, patches; what a third and a fourth thread take besides; and what stays of it until a
second look is over."""
LIBRARIES_MB = 300
READ_BYTES_PER_VOXEL, FOUND_BYTES_PER_VOXEL, BESIDE_BYTES_PER_VOXEL = 5.0, 12.0, 16.0
"""Measured: see :func:`expected_peak_mb`."""
Progress = Callable[[str, int, int], None]
"""Called with a stage's name, steps done and steps in all."""


@dataclass(frozen=True)
class Model:
    """A bundle and the engine that runs it; load once, use for many cases."""

    bundle: Bundle
    engine: Engine
    reason: str = ""
    """Why this engine was taken."""

    largest_vox: int = 0
    """Voxels that a tile may have; see :func:`brainmets.inference.tiles.plan`."""

    exact: Engine | None = None
    """Computes again where the engine's fewer bits leave doubt; None: nothing does."""

    detail: DetailEngine | None = None
    """Looks for small metastases; None: the bundle has no such network."""


def load_model(
    name: str | Path = DEFAULT_MODEL,
    device: str = "auto",
    *,
    engine: str = "auto",
    precision: str = "auto",
    prove: bool = True,
    large_tiles: bool = False,
    max_memory_gb: float | None = None,
) -> Model:
    """Load a shipped model by name, or a ``.brainmets`` file.

    Args:
        name: of the model or of its file.
        device: ``auto``, ``cpu`` or ``cuda``.
        engine: ``auto``, ``torch`` or ``openvino``.
        precision: ``auto``, ``f32``, ``bf16`` or ``int8``.
        prove: whether the example is run when OpenVINO compiles the model for the first time.
        large_tiles: whether the brain is covered by fewer tiles than the bundle's cubes, which
            is faster, and not quite as good.
        max_memory_gb: what the network may take twice over; None: whatever the bundle's cubes
            need, and 3 for large tiles.

    Raises:
        BundleError: no such model, or a damaged file.
        ConfigError: the device or the engine is not there, or too little memory is allowed.
    """
    bundle = bundles.read(bundles.find(name))
    wanted = Wanted(engine, device, precision)
    chosen, reason = choose_engine(bundle, wanted, prove=prove)
    exact = exact_engine(bundle, chosen, prove=prove)
    costlier = exact.name if exact else chosen.name
    largest = largest_tile(bundle, costlier, max_memory_gb or MAX_MEMORY_GB)
    if max_memory_gb is not None:
        _require_memory(bundle, costlier, largest, max_memory_gb)
    tile = largest if large_tiles else 0
    model = run_by(bundle, chosen, exact, prove=prove)
    return replace(model, reason=reason, largest_vox=tile)


def run_by(
    bundle: Bundle, engine: Engine, exact: Engine | None = None, *, prove: bool = True
) -> Model:
    """A bundle on an engine, its detail network, if it has one, on the same library.

    Args:
        bundle: the model.
        engine: runs its network.
        exact: as of :class:`Model`.
        prove: as of :func:`load_model`, of the detail network.
    """
    detail = detail_engine(bundle, engine.name, prove=prove)
    return Model(bundle, engine, exact=exact, detail=detail)


def largest_tile(bundle: Bundle, engine: str, max_memory_gb: float) -> int:
    """Voxels that a tile may have, for the network to take half of the memory at most."""
    each = bytes_per_voxel(bundle.architecture, engine) * bundle.networks
    return int(max_memory_gb * 1e9 / 2 / each)


def expected_peak_mb(model: Model, voxels: int, *, several: bool = False) -> int:
    """What one scan will take at most, as measured on scans of 7 to 105 million voxels (MiB).

    The peak lies where the network runs: libraries, its weights (in several copies while OpenVINO
    compiles them), its tile, the prepared scan, and the scan itself; or where it runs again in
    float32, if the scan needs that; or where the detail network runs; or, in large scans, where
    probabilities are back on the scan's voxels. On Linux with the built-in extractor; a test
    holds it against the recorded figures.

    Args:
        model: with its engine.
        voxels: of the scan.
        several: whether another like it is read meanwhile, and another written.
    """
    engine = model.engine.name
    library = "openvino" if "openvino" in engine else "torch"
    kind = (
        next((k for k in NETWORK_MB if k in engine), "float32") if library != "torch" else library
    )
    networks = [(kind, engine)] + ([(AGAIN, model.exact.name)] if model.exact else [])
    weights = WEIGHT_BYTES[library] * sum(values.size for values in model.bundle.weights.values())
    beside = BESIDE_BYTES_PER_VOXEL * voxels if several else 0
    kept = DETAIL_KEPT_MB if model.detail else 0
    stages = [
        NETWORK_MB[each] + _tile_bytes(model, name) / 2**20 + kept * (each == AGAIN)
        for each, name in networks
    ]
    if model.detail:
        stages.append(DETAIL_MB + DETAIL_THREAD_MB * max(0, min(threads(), 4) - 2))
    running = max(stages) + READ_BYTES_PER_VOXEL * voxels / 2**20
    found = kept + LIBRARIES_MB + FOUND_BYTES_PER_VOXEL * voxels / 2**20
    return round(max(running, found) + (weights + beside) / 2**20)


def _tile_bytes(model: Model, engine: str) -> float:
    """What all networks of a model take for one tile."""
    tile = max(model.bundle.tiling.tile_vox**3, model.largest_vox)
    return tile * bytes_per_voxel(model.bundle.architecture, engine) * model.bundle.networks


def _require_memory(bundle: Bundle, engine: str, largest: int, max_memory_gb: float) -> None:
    cube = bundle.tiling.tile_vox**3
    if largest < cube:
        each = bytes_per_voxel(bundle.architecture, engine) * bundle.networks
        least = cube * 2 * each / 1e9
        raise ConfigError(
            f"{max_memory_gb:g} GB is too little for {bundle.name} on {engine}; allow at least "
            f"{math.ceil(10 * least) / 10:g} GB"
        )


def analyse(
    scan: str | Path | Scan,
    *,
    model: str | Path | Model = DEFAULT_MODEL,
    device: str = "auto",
    brain_mask: str | Path | None = None,
    extractor: Extractor = AUTO,
    case_id: str | None = None,
    series: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Find, outline and measure every metastasis in one contrast-enhanced T1 scan.

    Args:
        scan: a NIfTI file, a DICOM file, folder or zip, or a scan already read.
        model: a shipped model's name, a ``.brainmets`` file, or a loaded model.
        device: ``auto``, ``cpu`` or ``cuda``; for a model that is not loaded yet.
        brain_mask: mask of brain and CSF on the scan's grid, instead of extraction.
        extractor: what finds the brain if no mask is given.
        case_id: name in the report; by default the file's name, or digits for a DICOM study.
        series: the series to read of a DICOM study, by number or UID; the best by default.
        progress: see :data:`Progress`.

    Returns:
        The report; :func:`brainmets.report.case.write_case` puts it on disk.

    Raises:
        InputError: the scan, the mask or the model cannot be used; its kind says why.
    """
    told = progress or _silent
    model = model if isinstance(model, Model) else load_model(model, device)
    told("read", 0, 1)
    fallback = stem(Path(scan)) if isinstance(scan, str | Path) else "scan"
    scan = scan if isinstance(scan, Scan) else images.read(scan, series=series)
    name = case_id or scan.case_id or fallback
    told("brain", 0, 1)
    brain = find_brain(scan.volume, brain_mask, extractor)
    told("prepare", 0, 1)
    grow = brain.extractor != "already stripped"
    with meanwhile(lambda: (*check_scan(scan), check_contrast(scan, brain.kept))) as seen:
        prepared = prepare(scan.volume, brain.kept, model.bundle.recipe, grow=grow)
    probability, places = probability_of(prepared, model, told)
    del prepared
    told("lesions", 0, 1)
    mask = find(probability, model.bundle.rule)
    probability = calibrated(probability, model.bundle.temperature)
    lesions = measure(mask, probability=probability, brain=brain.kept)
    outside = outside_checks(mask, brain.kept)
    checks = (*seen(), *brain_checks(brain), *outside)
    provenance = _provenance(brain, model, places)
    return Report(name, scan, mask, lesions, checks, probability, brain.kept, provenance)


def probability_of(
    prepared: Prepared, model: Model, progress: Progress | None = None
) -> tuple[Volume, int]:
    """Probabilities on the scanner's grid; where fewer bits leave doubt, those of float32.

    Returns:
        The probabilities, and how many places were in doubt.

    Raises:
        RunError: the network gave another shape, or numbers that are not finite.
    """
    told = progress or _silent
    told("predict", 0, 1)
    tiling, largest = model.bundle.tiling, model.largest_vox
    tiles = predict(
        prepared, model.engine, tiling, largest_vox=largest,
        progress=lambda done, total: told("predict", done, total),
    )  # fmt: skip
    details: Details | None = None
    if model.detail is not None:
        told("details", 0, 1)
        release(model.engine)
        details = Details(prepared, model.detail)
        tiles = details.apply(tiles, keep=model.exact is not None)
        details = details if model.exact else None  # its memory is free while restoring
    told("restore", 0, 1)
    probability = restore(tiles, prepared)
    if model.exact is None:
        return probability, 0
    told("second look", 0, 1)
    places = doubtful(probability, model.bundle.rule)
    judged = details.in_doubt if details is not None else ()
    if not (places or judged):
        return probability, 0
    del probability
    release(model.engine)
    if details is not None:
        tiles = details.undo(tiles)
    tiles = looked_at_again(
        prepared, tiles, places, model.exact, tiling, besides=judged, largest_vox=largest,
        progress=lambda done, total: told("second look", done, total),
    )  # fmt: skip
    release(model.exact)
    if details is not None:
        tiles = details.apply(tiles)
    del details
    return restore(tiles, prepared), len(places) + len(judged)


def measure_mask(scan: Scan, mask: Volume, *, case_id: str = "scan") -> Report:
    """The same report from anybody's mask; no model is used.

    A mask of one label is split into its 26-connected components; with several labels, so
    is everything above 0, since labels of tissue (core, oedema) are no lesion numbers.

    A mask of the same voxels whose array axes run in another order is turned, and that is noted.

    Raises:
        GridMismatchError: mask and scan do not lie on the same voxels.
    """
    turned = on_grid(mask, scan.volume.grid, "mask and scan")
    labels = components(turned)
    lesions = measure(labels)
    checks = check_scan(scan)
    if not mask.grid.agrees(scan.volume.grid):
        detail = "its axes ran in another order than the scan's; turned, nothing interpolated"
        checks = (*checks, Check("mask", None, detail))
    return Report(case_id, scan, labels, lesions, checks, None, None, _provenance())


def find_brain(
    volume: Volume, brain_mask: str | Path | None = None, extractor: Extractor = AUTO
) -> Brain:
    """Brain and CSF: from the mask that is given, or by extraction."""
    if brain_mask is None:
        return extract_brain(
            volume, extractor=extractor.name, weights=extractor.weights, engine=extractor.engine
        )
    return given_mask(volume, nifti.read_labels(brain_mask))


def outside_checks(mask: Volume, brain: Volume) -> tuple[Check, ...]:
    """A line of the report's quality section on findings most of which the brain mask leaves out.

    Args:
        mask: labels 1…n of the lesions.
        brain: what was kept of the head, on the same grid, without the recipe's margin.
    """
    shares = shares_outside(mask, brain)
    labels = [str(label) for label, share in shares.items() if share > MOSTLY]
    if not labels:
        return ()
    many = "finding" if len(labels) == 1 else "findings"
    detail = (
        f"{many} {', '.join(labels)}: mostly outside the brain mask, in the margin around it. Fat "
        "behind an eye looks like this; so may a metastasis of the dura, or one that the mask "
        "leaves out"
    )
    return (Check("outside the brain", False, detail),)


def brain_checks(brain: Brain) -> tuple[Check, ...]:
    """The extractor's remarks as lines of the report's quality section."""
    used = Check("brain mask", None, f"by: {brain.extractor} {brain.version}".strip())
    return (used, *(Check("brain mask", False, note) for note in brain.notes))


def _provenance(
    brain: Brain | None = None, model: Model | None = None, places: int = 0
) -> Mapping[str, Any]:
    values: dict[str, Any] = {
        "brainmets_version": brainmets.__version__, "model": None, "extractor": None,
        "recipe": None, "decision_rule": None, "engine": None, "options": {},
    }  # fmt: skip
    if brain:
        values["extractor"] = {
            "name": brain.extractor, "version": brain.version, "sha256": brain.sha256,
            "notes": list(brain.notes),
        }  # fmt: skip
    if model:
        bundle, detail = model.bundle, model.bundle.detail
        values["model"] = {"name": bundle.name, "sha256": bundle.sha256, "card": dict(bundle.card)}
        values["recipe"] = to_mapping(bundle.recipe)
        values["decision_rule"] = to_mapping(bundle.rule)
        values["options"] = {
            "tiling": to_mapping(bundle.tiling), "largest_tile_vox": model.largest_vox,
            "temperature": bundle.temperature,
            "second_look_places": places if model.exact else None,
            "detail": detail and {**detail.settings(), "identity": detail.identity()},
        }  # fmt: skip
        values["engine"] = model.engine.name
    return values


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Report progress to nobody."""
