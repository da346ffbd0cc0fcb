"""What the built-in extractor's distances would give, cut at other borders.

It tells whether a Dice is low for what the network sees, or for where its mask is cut. Real
heads, and the label maps on which the borders were chosen.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import mindgrab
from brain_scans import CONTRASTS, TUNING_MAPS, Target, dice, kept, simulated, targets
from brainmets.preprocess.brain import builtin, cut, find_surfaces
from brainmets.volume import to_nearest_ras

BORDERS_MM = tuple(step / 8 for step in range(-12, 25))


def border_rows(cache: Path) -> Iterator[dict[str, Any]]:
    """Of each scan: Dice and share held by surface and border, and MindGrab's where it was run."""
    for target in (*_tuning(), *(t for t in targets() if not t.name.startswith("map_"))):
        row = _row(target, cache)
        print(row, flush=True)
        yield row


def _tuning() -> Iterator[Target]:
    for contrast in CONTRASTS:
        for number in TUNING_MAPS:
            read = partial(simulated, number, contrast)
            yield Target(f"map_{number}_{contrast}", f"maps 15–16, {contrast}", read)


def _row(target: Target, cache: Path) -> dict[str, Any]:
    scan, reference = target.read()
    network, card = builtin()
    turned = to_nearest_ras(scan)
    surfaces = find_surfaces(turned, network, float(card["spacing_mm"]))
    truth = np.asarray(to_nearest_ras(reference).data > 0)
    fits: dict[str, list[list[float]]] = {}
    for name, distances in (("brain", surfaces.brain), ("outer", surfaces.outer)):
        cuts = [cut(distances, border, turned.grid) for border in BORDERS_MM]
        fits[name] = [
            [border, round(dice(mask, truth), 4), round(kept(truth, mask), 4)]
            for border, mask in zip(BORDERS_MM, cuts, strict=True)
        ]
    row = {
        "scan": target.name, "group": target.group, "fits": fits,
        "border_mm": {"brain": card["border_mm"], "outer": card["outer_border_mm"]},
    }  # fmt: skip
    other = mindgrab.cached(target.name, scan, cache, compute=False)
    if other is not None:
        row["mindgrab"] = round(dice(other, reference.data), 4)
    return row
