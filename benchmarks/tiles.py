"""What larger tiles win and lose: one tile for a brain where it fits, against cubes of 128³.

Each case is read, stripped and prepared once, and predicted with either, on the engine that
`predict` would take and with all that it does; seconds are those of the whole brain's network.
Cases with a reference mask are scored; the real ones are compared with each other alone.

The recorded cohort: brainmets simulate TEST --cases 24 --seed 3, with label maps 17–20.

    python benchmarks/tiles.py [--cohort TABLE] [--cases N] [--model NAME]
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from brainmets.cohort import read_cohort
from brainmets.evaluation.case import score
from brainmets.evaluation.sameness import compare
from brainmets.inference.predict import predict
from brainmets.inference.tiles import plan, read_tile
from brainmets.io import images
from brainmets.lesions import find
from brainmets.pipeline import find_brain, load_model, probability_of
from brainmets.preprocess.prepare import prepare
from brainmets.training.tune import reference_of
from brainmets.volume import on_grid
from loss_gate import real_cases
from record import write


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohort", type=Path)
    parser.add_argument("--cases", type=int, help="at most so many")
    parser.add_argument("--model", default="starter")
    given = parser.parse_args()
    model = load_model(given.model, "cpu", large_tiles=True)
    cases = (*(read_cohort(given.cohort) if given.cohort else ()), *real_cases())[: given.cases]
    rows = []
    for case in cases:
        scan = images.read_case(case).volume
        brain = find_brain(scan, case.brain_mask)
        grow = brain.extractor != "already stripped"
        prepared = prepare(scan, brain.kept, model.bundle.recipe, grow=grow)
        row: dict[str, Any] = {"case": case.case_id}
        masks = {}
        for name, largest in (("cubes", 0), ("large", model.largest_vox)):
            tiles = plan(prepared.volume.grid.shape, prepared.box, model.bundle.tiling, largest)
            model.engine(read_tile(np.asarray(prepared.volume.data, np.float32), tiles[0]))
            started = time.perf_counter()  # that was to compile
            predict(prepared, model.engine, model.bundle.tiling, largest_vox=largest)
            seconds = time.perf_counter() - started
            found, _ = probability_of(prepared, replace(model, largest_vox=largest))
            masks[name] = find(found, model.bundle.rule)
            row[name] = {"tiles": len(tiles), "seconds": round(seconds, 3)}
            if case.mask is not None:
                truth = on_grid(reference_of(case), masks[name].grid, "reference and scan")
                scores = score(masks[name], truth, case_id=case.case_id)
                there = scores.lesions.reference
                row[name] |= {
                    "dice": scores.scores["dice"].value, "lesions": len(there),
                    "found": sum(lesion.matched for lesion in there),
                    "false_positives": scores.scores["false_positives"].value,
                }  # fmt: skip
        seen = compare(*(np.asarray(mask.data) for mask in masks.values()))
        row["same_lesions"] = seen.is_same
        print(row, flush=True)
        rows.append(row)
    value = summary(rows, model.engine.name)
    print(write("tiles", value).read_text())


def summary(rows: list[dict[str, Any]], engine: str) -> dict[str, Any]:
    """Ratios and sums."""
    scored = [row for row in rows if "dice" in row["large"]]
    value: dict[str, Any] = {
        "engine": engine,
        "cases": len(rows),
        "scored": len(scored),
        "median_ratio_of_seconds": round(
            float(np.median([r["cubes"]["seconds"] / r["large"]["seconds"] for r in rows])), 2
        ),
        "cases_with_the_same_lesions": sum(row["same_lesions"] for row in rows),
    }
    for name in ("cubes", "large"):
        mine = [row[name] for row in scored]
        value[name] = {
            "tiles_median": float(np.median([row[name]["tiles"] for row in rows])),
            "lesions": sum(row["lesions"] for row in mine),
            "found": sum(row["found"] for row in mine),
            "false_positives": sum(row["false_positives"] for row in mine),
            "mean_dice": round(
                float(np.mean([row["dice"] for row in mine if row["lesions"]] or [np.nan])), 4
            ),
        }
    return value


if __name__ == "__main__":
    main()
