"""What the built-in brain extractor keeps, how well it fits, and what it costs.

Parts: ``scans`` (real heads, and label maps 17–20 simulated in four contrasts, MindGrab side by
side), ``lesions`` (200 simulated ones near the surface), ``perturbed`` (heads that are rotated,
cropped, thick or noisy: does the mask suffer, and is it told?), ``time``, ``borders`` (how masks
cut elsewhere would fit); and on label maps 15–16 ``tuning``: what the warnings look at, where
their limits were set, and ``surface``: lesions as in ``lesions``, by the border of the outer
surface, which was chosen there. Masks of MindGrab take minutes each: with ``--mindgrab`` those
that are missing are computed; they are kept in the cache.

    BRAINMETS_DATA=FOLDER python benchmarks/brain.py [--parts scans,time] [--synthstrip FILE]
"""

import argparse
import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

import mindgrab
from brain_borders import border_rows
from brain_scans import (
    CONTRASTS,
    MAPS,
    TUNING_MAPS,
    Target,
    anatomy_path,
    dice,
    kept,
    simulated,
    targets,
)
from brain_times import time_rows
from brainmets.config import Recipe
from brainmets.preprocess.brain import (
    Brain,
    builtin,
    builtin_sha256,
    cut,
    extract_brain,
    find_surfaces,
    held,
)
from brainmets.preprocess.brain_quality import (
    CUT_SHARE,
    bright_spots,
    edge_contact,
    edge_slope,
    surfaces_apart,
)
from brainmets.preprocess.prepare import bounding_box, grown
from brainmets.preprocess.resample import resample
from brainmets.simulate.anatomy import read_anatomy
from brainmets.simulate.contrast import Style, render, warp
from brainmets.simulate.metastases import Plan, paint
from brainmets.simulate.scanner import NEUROLOGICAL, Protocol, acquire, acquire_truth
from brainmets.training.heads import brain_of, signed_distance
from brainmets.volume import Grid, Volume, apply, to_nearest_ras
from record import RESULTS, made, write

Mask = npt.NDArray[np.bool_]
MARGIN_MM = Recipe().brain_margin_mm
LESIONS_A_HEAD, HEADS_A_MAP = 50, 1
NEAR_MM = 3.0
SURFACE_BORDERS_MM = tuple(step / 4 for step in range(3, 9))
FALL = 0.02
"""More than this is a fall of Dice."""


def main() -> None:
    """Run the parts that are asked for and put them beside those already there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="scans,lesions,perturbed,time")
    parser.add_argument("--cache", type=Path, default=Path(__file__).parents[1] / "work" / "brain")
    parser.add_argument("--scans", default="", help="beginnings of names; all if none")
    parser.add_argument("--mindgrab", action="store_true", help="compute its missing masks")
    parser.add_argument("--synthstrip", type=Path, help="a network of SynthStrip's shape")
    options = parser.parse_args()
    names = options.scans.split(",")

    def chosen(name: str) -> bool:
        return any(name.startswith(start) for start in names)

    parts: dict[str, Callable[[], Any]] = {
        "scans": lambda: [_scan_row(t, options) for t in targets() if chosen(t.name)],
        "lesions": _lesions_kept,
        "perturbed": lambda: list(_perturbed_rows(chosen)),
        "tuning": lambda: list(_tuning_rows()),
        "surface": lambda: list(_surface_rows()),
        "borders": lambda: list(border_rows(options.cache)),
        "time": lambda: time_rows(options.synthstrip),
    }
    for part in options.parts.split(","):
        found, before = parts[part](), _stored()
        measured = {**before.get("measured", {}), part: made()}
        print(write("brain", {**before, part: found, "measured": measured}).read_text())


def _stored() -> dict[str, Any]:
    """What was measured before of the extractor that ships now."""
    path = RESULTS / "brain.json"
    value = json.loads(path.read_text())["value"] if path.is_file() else {}
    return value if value.get("sha256") == builtin_sha256() else {"sha256": builtin_sha256()}


def _widened(brain: Brain) -> Mask:
    """What the line keeps, grown by the recipe's margin: all that a model sees."""
    return np.asarray(grown(brain.kept, MARGIN_MM).data)


# --- scans ------------------------------------------------------------------------


def _scan_row(target: Target, options: argparse.Namespace) -> dict[str, Any]:
    """Dice of each mask with the reference, and how much of the reference is kept."""
    scan, reference = target.read()
    brain = extract_brain(scan, extractor="builtin")
    wide = _widened(brain)
    litres = scan.grid.voxel_volume_mm3 / 1e6
    row = {
        "scan": target.name,
        "group": target.group,
        "dice": round(dice(brain.mask.data, reference.data), 4),
        "recall": round(kept(reference.data, brain.mask.data), 5),
        "recall_of_what_is_kept": round(kept(reference.data, brain.kept.data), 5),
        "recall_with_margin": round(kept(reference.data, wide), 5),
        "litres": round(brain.mask.data.sum() * litres, 3),
        "litres_with_margin": round(wide.sum() * litres, 3),
        "warnings": list(brain.notes),
        "reference_is_cut": edge_contact(to_nearest_ras(reference).data) > CUT_SHARE,
    }
    other = mindgrab.cached(target.name, scan, options.cache, compute=options.mindgrab)
    if other is not None:
        row["mindgrab"] = {
            "dice": round(dice(other, reference.data), 4),
            "recall": round(kept(reference.data, other), 5),
        }
    print(row, flush=True)
    return row


# --- lesions ----------------------------------------------------------------------


def _lesions_kept() -> dict[str, Any]:
    """200 lesions centred within 3 mm of the brain's surface."""
    counts = np.zeros(3, int)
    lost, lesions, shares = 0, 0, []
    for number in MAPS:
        for image in range(HEADS_A_MAP):
            for places, near, wide in _surface_lesions(number, image):
                inside = np.array([len(places), near[places].sum(), wide[places].sum()])
                counts += [np.count_nonzero(places), *inside[1:]]
                lost += inside[1] == 0
                lesions += 1
                shares.append(inside[1] / np.count_nonzero(places))
        print("lesions", number, lesions, counts, lost, flush=True)
    return {
        "lesions": lesions,
        "voxels_in_brain_and_csf": int(counts[0]),
        "kept_without_margin": round(counts[1] / counts[0], 5),
        "kept_with_margin": round(counts[2] / counts[0], 5),
        "lost_whole": int(lost),
        "least_share_of_a_lesion_without_margin": round(float(min(shares)), 4),
    }


def _surface_lesions(number: int, image: int) -> Iterator[tuple[Mask, Mask, Mask]]:
    """For each lesion its voxels within brain + CSF, what is kept, and that with its margin."""
    scan, lesions = _with_surface_lesions(number, image)
    found = extract_brain(scan, extractor="builtin")
    wide = _widened(found)
    for places in lesions:
        yield places, found.kept.data, wide


def _surface_rows() -> Iterator[dict[str, Any]]:
    """Of tuning heads: what is kept of lesions at the surface, by the outer surface's border."""
    network, card = builtin()
    for number, image in product(TUNING_MAPS, range(3)):
        scan, lesions = _with_surface_lesions(number, image)
        turned = to_nearest_ras(scan)
        places = np.asarray(to_nearest_ras(scan.with_data(np.any(list(lesions), axis=0))).data)
        surfaces = find_surfaces(turned, network, card["spacing_mm"])
        mask = cut(surfaces.brain, card["border_mm"], turned.grid)
        wide = {
            border: grown(turned.with_data(held(mask, cut(surfaces.outer, border, turned.grid))),
                          MARGIN_MM).data
            for border in SURFACE_BORDERS_MM
        }  # fmt: skip
        row = {
            "map": number,
            "voxels": int(places.sum()),
            "kept": [[border, int(places[found].sum())] for border, found in wide.items()],
        }
        print(row, flush=True)
        yield row


def _with_surface_lesions(number: int, image: int) -> tuple[Volume, Iterator[Mask]]:
    """A simulated head, and of each lesion at its surface the voxels within brain + CSF."""
    rng = np.random.default_rng([number, image, 200])
    head = warp(read_anatomy(anatomy_path(number)), rng)
    signal = render(head, Style(spin_echo=False, contrast=True), rng)
    brain = brain_of(head.labels)
    plans = _plan_near_surface(brain, rng)
    protocol = Protocol((1.0, 1.0, 1.0), NEUROLOGICAL, (0.0, 0.0, 0.0), 0.03, 0.15)
    paint(signal, head, plans, rng)
    scan, _ = acquire(signal, protocol, rng)
    inside = acquire_truth(brain.astype(np.float32), protocol).data > 0
    return scan, (_ball(plan, inside.shape) & inside for plan in plans)


def _plan_near_surface(brain: Mask, rng: np.random.Generator) -> tuple[Plan, ...]:
    near = np.argwhere(np.abs(signed_distance(brain)) < NEAR_MM)
    near = near[brain[tuple(near.T)]]
    plans: list[Plan] = []
    while len(plans) < LESIONS_A_HEAD:
        x, y, z = (int(i) for i in near[rng.integers(len(near))])
        diameter = float(np.exp(rng.uniform(np.log(3), np.log(18))))
        plan = Plan((x, y, z), diameter, "solid" if diameter < 7 else "ring",
                    float(rng.uniform(1.35, 2.5)))  # fmt: skip
        apart = [np.linalg.norm(np.subtract(plan.centre_vox, other.centre_vox)) for other in plans]
        if all(a > 18 for a in apart):
            plans.append(plan)
    return tuple(plans)


def _ball(plan: Plan, shape: tuple[int, ...]) -> Mask:
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    squares = sum((a - c) ** 2 for a, c in zip(axes, plan.centre_vox, strict=True))
    return np.asarray(squares <= (plan.diameter_mm / 2) ** 2)


# --- tuning -----------------------------------------------------------------------


def _tuning_rows() -> Iterator[dict[str, Any]]:
    """What the warnings look at, on heads as they are: label maps 15–16 in four contrasts."""
    network, card = builtin()
    for number in TUNING_MAPS:
        for contrast in CONTRASTS:
            scan, reference = simulated(number, contrast)
            turned = to_nearest_ras(scan)
            found = find_surfaces(turned, network, card["spacing_mm"])
            truth = to_nearest_ras(reference).data
            mask = cut(found.brain, card["border_mm"], turned.grid)
            near = held(mask, cut(found.outer, card["outer_border_mm"], turned.grid))
            row = {
                "scan": f"map_{number}_{contrast}",
                "slope": round(edge_slope(found.brain), 3),
                "mirrored_mm": round(found.mirrored, 3),
                "apart_mm": round(surfaces_apart(found.brain, found.outer), 3),
                "edge": round(edge_contact(mask), 4),
                "spots": len(bright_spots(turned, mask, near)),
                "dice": round(dice(mask, truth), 4),
                "kept": round(kept(truth, near), 4),
            }  # fmt: skip
            print(row, flush=True)
            yield row


# --- perturbed --------------------------------------------------------------------


def _perturbed_rows(chosen: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    """Each head as it is, then perturbed: Dice with brain + CSF, and warnings."""
    for number in MAPS:
        if not chosen(f"map_{number}_T1c"):
            continue
        scan, whole = simulated(number, "T1c")
        start = _judged(scan, whole)
        for name, perturb in PERTURBATIONS.items():
            changed, reference = perturb(scan, whole)
            row = {"scan": f"map_{number}_T1c", "perturbation": name,
                   **_judged(changed, reference), "dice_before": start["dice"]}  # fmt: skip
            row["fall"] = round(row["dice_before"] - row["dice"], 4)
            print(row, flush=True)
            yield row


def _judged(scan: Volume, reference: Volume) -> dict[str, Any]:
    brain = extract_brain(scan, extractor="builtin")
    return {
        "dice": round(dice(brain.mask.data, reference.data), 4),
        "recall": round(kept(reference.data, _widened(brain)), 5),
        "warnings": list(brain.notes),
    }


def _rotated(axes: tuple[int, int], scan: Volume, brain: Volume) -> tuple[Volume, Volume]:
    """By 30° about the head's centre; the field grows to hold it."""
    low = float(scan.data.min())
    image = ndimage.rotate(scan.data.astype(np.float32), 30, axes, order=1, cval=low)
    mask = ndimage.rotate(brain.data.astype(np.float32), 30, axes, order=1) >= 0.5
    grid = Grid(image.shape, scan.grid.affine)
    return Volume(image, grid), Volume(mask, grid)


def _cropped(part: str, scan: Volume, brain: Volume) -> tuple[Volume, Volume]:
    """Without the brain's upper 25 mm, or its lower 20 mm and all below."""
    rows = bounding_box(brain.data)[2]
    keep = slice(None, rows.stop - 25) if part == "crown" else slice(rows.start + 20, None)
    affine = scan.grid.affine.copy()
    affine[:3, 3] = apply(affine, np.array([0, 0, keep.start or 0]))
    image, mask = scan.data[:, :, keep], brain.data[:, :, keep]
    return Volume(image, Grid(image.shape, affine)), Volume(mask, Grid(image.shape, affine))


def _thick(scan: Volume, brain: Volume) -> tuple[Volume, Volume]:
    """Slices of 5 mm."""
    image = resample(scan, (1.0, 1.0, 5.0))
    share = resample(brain.with_data(brain.data.astype(np.float32)), (1.0, 1.0, 5.0))
    return image, share.with_data(share.data >= 0.5)


def _noisy(scan: Volume, brain: Volume) -> tuple[Volume, Volume]:
    """Three times the noise: Rayleigh's mean in the air tells how much there is."""
    data = scan.data.astype(np.float32)
    level = float(data[:8, -8:, -8:].mean()) / 1.2533 * np.sqrt(8)
    rng = np.random.default_rng(9)
    real, imaginary = (level * rng.standard_normal(data.shape, np.float32) for _ in range(2))
    return scan.with_data(np.hypot(data + real, imaginary)), brain


PERTURBATIONS = {
    "nodded by 30°": lambda s, b: _rotated((1, 2), s, b),
    "turned by 30°": lambda s, b: _rotated((0, 1), s, b),
    "cropped at the crown": lambda s, b: _cropped("crown", s, b),
    "cropped at the neck": lambda s, b: _cropped("neck", s, b),
    "5 mm slices": _thick,
    "noise × 3": _noisy,
}


if __name__ == "__main__":
    main()
