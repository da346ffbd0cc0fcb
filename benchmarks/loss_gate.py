"""What faster arithmetic loses: lesions by each engine against those by OpenVINO's float32.

Cases: a cohort (table or folder), such as the simulated test cohort, and, where
BRAINMETS_DATA names the folder of real scans, its scans with contrast and its heads.
Each is read, stripped and prepared once; only the network differs. PyTorch's float32, several
times slower, is held against the same on the real scans and on the first ten of the cohort.

    python benchmarks/loss_gate.py [--cohort TABLE] [--cases N] [--precisions int8 bf16]
"""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np

from brainmets.cohort import Case, read_cohort
from brainmets.evaluation.sameness import compare, dice
from brainmets.io import images, nifti
from brainmets.lesions import find
from brainmets.network.bundle import find as find_bundle
from brainmets.network.bundle import read
from brainmets.pipeline import Model, load_model, probability_of
from brainmets.preprocess.brain import extract_brain
from brainmets.preprocess.prepare import prepare
from brainmets.volume import Volume, on_grid
from record import write

EXACT, SLOW = "f32", "PyTorch f32"
WITH_PYTORCH = 10
"""Of a cohort's cases, the first so many."""
REAL = ("scans/*/*t1c*.nii.gz", "heads/*.nii.gz")


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohort", type=Path)
    parser.add_argument("--cases", type=int, help="at most so many")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--precisions", nargs="+", default=["int8", "bf16"])
    given = parser.parse_args()
    simulated = tuple(read_cohort(given.cohort) if given.cohort else ())
    cases = (*simulated, *real_cases())[: given.cases]
    bundle = read(find_bundle(given.model))
    asked = {EXACT: ("openvino", "f32"), SLOW: ("torch", "f32")}
    asked |= {name: ("openvino", name) for name in given.precisions}
    models = {
        name: load_model(given.model, "cpu", engine=engine, precision=precision)
        for name, (engine, precision) in asked.items()
    }
    _require_engines(models)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in (*given.precisions, SLOW)}
    for number, case in enumerate(cases):
        with_pytorch = number < WITH_PYTORCH or number >= len(simulated)
        volume = images.read_case(case).volume
        brain = extract_brain(volume)
        grow = brain.extractor != "already stripped"
        prepared = prepare(volume, brain.kept, bundle.recipe, grow=grow)
        masks = {}
        for name, model in models.items():
            if name != SLOW or with_pytorch:
                probability, _ = probability_of(prepared, model)
                masks[name] = np.asarray(find(probability, bundle.rule).data)
        exact = masks.pop(EXACT)
        for name, mask in masks.items():
            seen = compare(exact, mask)
            row = {
                "case": case.case_id,
                "dice": seen.dice,
                "lesions": list(seen.lesions),
                "same_lesions": seen.is_same,
                "changes_in_voxels": list(seen.changes),
            }
            rows[name].append(row | _kept(case, volume, exact, mask))
            print(name, rows[name][-1], flush=True)
    _require_engines(models)
    print(write("loss_gate", {name: _summary(found) for name, found in rows.items()}).read_text())


def _require_engines(models: dict[str, Model]) -> None:
    """Refuse what took another's place: it would be compared with itself."""
    words = {EXACT: "openvino cpu float32", SLOW: "torch cpu float32", "bf16": "bfloat16"}
    for name, model in models.items():
        if words.get(name, name) not in model.engine.name or "failed" in model.engine.name:
            raise SystemExit(f"{name} runs on {model.engine.name}")


def real_cases() -> tuple[Case, ...]:
    """Scans with contrast, and heads, of the folder that BRAINMETS_DATA names."""
    data = os.environ.get("BRAINMETS_DATA")
    paths = {p for pattern in REAL for p in Path(data).glob(pattern)} if data else set()
    return tuple(
        Case(path.parent.name if path.parent.name != "heads" else path.name.split(".")[0], path)
        for path in sorted(paths, reverse=True)
    )


def _kept(case: Case, volume: Volume, exact: Any, mask: Any) -> dict[str, Any]:
    """Dice against the case's reference mask, where it has one: float32's and the engine's."""
    if case.mask is None:
        return {}
    truth = on_grid(nifti.read_labels(case.mask), volume.grid, "reference and scan").data > 0
    return {"float32_dice": dice(truth, exact > 0), "engine_dice": dice(truth, mask > 0)}


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    each = [row["dice"] for row in rows]
    scored = [row for row in rows if "engine_dice" in row]
    means = [float(np.mean([r[k] for r in scored] or [np.nan]))
             for k in ("engine_dice", "float32_dice")]  # fmt: skip
    return {
        "cases": len(rows),
        "share_of_float32s_dice_kept": round(means[0] / means[1], 5) if scored else None,
        "mean_dice_against_float32": round(float(np.mean(each)), 5),
        "least_dice_against_float32": round(min(each), 5),
        "cases_with_the_same_lesions": sum(row["same_lesions"] for row in rows),
        "differences": [row for row in rows if not row["same_lesions"]],
    }


if __name__ == "__main__":
    main()
