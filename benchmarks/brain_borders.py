"""Where the masks of others end, on the distances that the built-in extractor gives.

Its mask lies outside of where it fits best, so that no lesion is lost. What it would fit with the
border elsewhere tells whether a Dice is low for what the network sees, or for where its mask was
cut. Real heads, and the label maps on which the borders were chosen.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import mindgrab
from brain_scans import (
    BRAIN,
    CONTRASTS,
    TISSUE,
    TUNING_MAPS,
    Target,
    dice,
    kept,
    simulated,
    targets,
)
from brainmets.preprocess.brain import builtin, cut, find_surfaces
from brainmets.volume import to_nearest_ras

BORDERS_MM = tuple(step / 4 for step in range(-8, 11))


def border_rows(cache: Path) -> Iterator[dict[str, Any]]:
    """Of each scan: Dice and share kept by surface and border, and MindGrab's where it was run."""
    for target in (*_tuning(), *(t for t in targets() if not t.name.startswith("map_"))):
        row = _row(target, cache)
        print(row, flush=True)
        yield row


def _tuning() -> Iterator[Target]:
    for contrast in CONTRASTS:
        for number in TUNING_MAPS:
            read = partial(simulated, number, contrast)
            yield Target(f"map_{number}_{contrast}", f"maps 15–16, {contrast}", BRAIN, read)


def _row(target: Target, cache: Path) -> dict[str, Any]:
    scan, masks = target.read()
    network, card = builtin()
    turned = to_nearest_ras(scan)
    surfaces = find_surfaces(turned, network, float(card["spacing_mm"]))
    fields = {BRAIN: surfaces.brain, TISSUE: surfaces.tissue}
    references = {k: np.asarray(to_nearest_ras(mask).data > 0) for k, mask in masks.items()}
    fits: dict[str, dict[str, list[list[float]]]] = {kind: {} for kind in masks}
    for surface, distances in fields.items():
        if distances is None:
            continue
        cuts = [cut(distances, border, turned.grid) for border in BORDERS_MM]
        for kind, reference in references.items():
            fits[kind][surface] = [
                [border, round(dice(mask, reference), 4), round(kept(reference, mask), 4)]
                for border, mask in zip(BORDERS_MM, cuts, strict=True)
            ]
    row = {
        "scan": target.name, "group": target.group, "fits": fits,
        "border_mm": {BRAIN: card["border_mm"], TISSUE: card["tissue_border_mm"]},
    }  # fmt: skip
    other = mindgrab.cached(target.name, scan, cache, compute=False)
    if other is not None:
        row["mindgrab"] = {k: round(dice(other, mask.data), 4) for k, mask in masks.items()}
    return row
