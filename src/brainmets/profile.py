"""Where a prediction's time and memory go, and how near the network comes to the machine."""

import json
from collections.abc import Iterable
from pathlib import Path

from brainmets.batch import DONE, Outcome
from brainmets.network.bundle import Bundle
from brainmets.network.cost import Timed, floating_point_operations, matrix_rate

Row = tuple[str, str, str, str]
STAGES = (
    "fingerprint", "read", "brain", "prepare", "predict", "details", "restore", "second look",
    "lesions", "write",
)  # fmt: skip
"""In the order in which they run."""
HEADER = ("case", "stage", "seconds", "peak MB")


def stage_rows(outcomes: Iterable[Outcome], out: Path) -> list[Row]:
    """Seconds and peak memory of each stage of every case that was run."""
    rows = []
    for case in (outcome.case_id for outcome in outcomes if outcome.status == DONE):
        record = json.loads((out / case / "run.json").read_text(encoding="utf-8"))
        peaks = record.get("peak_memory_mb_by_stage", {})
        seconds = record["seconds_by_stage"]
        rows += [
            (case, stage, f"{seconds[stage]:.2f}", str(peaks.get(stage, "")))
            for stage in sorted(seconds, key=STAGES.index)
        ]
    return rows


def network_line(engine: Timed, bundle: Bundle) -> str:
    """One sentence: the network's rate, and that of a matrix product measured now."""
    if not engine.tiles:
        return "network: no tile was run"
    operations = floating_point_operations(bundle.architecture, (engine.voxels,))
    rate = operations * bundle.networks / engine.seconds
    precision = "bf16" if "bfloat16" in engine.name else "f32"
    most = matrix_rate(precision)
    return (
        f"network: {engine.tiles} tiles in {engine.seconds:.2f} s on {engine.name}: "
        f"{rate / 1e9:.0f} GFLOP/s, {100 * rate / most:.0f} % of the {most / 1e9:.0f} GFLOP/s that "
        f"a matrix product reaches here in {precision}"
    )
