"""The network alone, one tile: each engine and precision against PyTorch's float32.

Every engine runs in this one process, in turns, and ratios are taken within a turn; the
median over turns is the figure. The ceiling is what the machine reaches in a matrix
product of 4096³ with the same precision and library, measured in the same turns.

    python benchmarks/engines.py [--turns 5] [--tile 128] [--models light paper]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from brainmets import concurrency
from brainmets.config import Architecture, DecisionRule, Recipe, Tiling
from brainmets.network.bundle import Bundle, Int8
from brainmets.network.cost import floating_point_operations, matrix_product
from brainmets.network.openvino_engine import openvino_engine
from brainmets.network.openvino_graph import last_kernels
from brainmets.network.torch_engine import torch_engine
from brainmets.network.unet import UNet
from record import write

MODELS = {"light": Architecture(16, 8), "paper": Architecture(64)}
BASE = "torch float32"


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tile", type=int, default=128)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    given = parser.parse_args()
    concurrency.use_threads(concurrency.threads())
    rows = [row for name in given.models for row in _rows(name, given.tile, given.turns)]
    value = {"threads": concurrency.threads(), "turns": given.turns, "tile": given.tile,
             "rows": rows}  # fmt: skip
    print(write("engines", value).read_text())


def _bundle(architecture: Architecture) -> Bundle:
    torch.manual_seed(0)
    weights = {k: v.numpy() for k, v in UNet(architecture).state_dict().items()}
    return Bundle("random", architecture, Recipe(), Tiling(), DecisionRule(), weights, {})


def _int8(bundle: Bundle) -> Int8:
    """Of random weights: as after normalisation, whose deviation is 1."""
    return Int8({k: (6.0,) * kernel.shape[1] for k, kernel in last_kernels(bundle).items()})


def _rows(name: str, tile: int, turns: int) -> list[dict[str, Any]]:
    bundle = _bundle(MODELS[name])
    image = np.random.default_rng(0).standard_normal((tile,) * 3).astype(np.float32)
    runs: dict[str, Callable[[], Any]] = {}
    engines = {
        BASE: torch_engine(bundle, "cpu", "f32"),
        "torch bfloat16": torch_engine(bundle, "cpu", "bf16"),
        "openvino float32": openvino_engine(bundle, "f32"),
        "openvino bfloat16": openvino_engine(bundle, "bf16"),
        "openvino int8, bfloat16": openvino_engine(replace(bundle, int8=_int8(bundle)), "int8"),
    }
    for label, engine in engines.items():
        runs[label] = lambda engine=engine: engine(image)
    for precision in ("f32", "bf16"):
        runs[f"ceiling {precision}"] = matrix_product(4096, precision)
    seconds: dict[str, list[float]] = {label: [] for label in runs}
    for turn in range(turns + 1):  # the first warms up
        for label, run in runs.items():
            started = time.perf_counter()
            run()
            if turn:
                seconds[label].append(time.perf_counter() - started)
    work = floating_point_operations(bundle.architecture, (tile,) * 3)
    return [_row(name, label, seconds, work) for label in engines]


def _row(name: str, label: str, seconds: dict[str, list[float]], work: float) -> dict[str, Any]:
    spent = seconds[label]
    ceiling = seconds["ceiling bf16" if "bfloat16" in label else "ceiling f32"]
    best = [min(pair) for pair in zip(seconds[BASE], seconds["torch bfloat16"], strict=True)]
    ratios = zip(seconds[BASE], best, spent, strict=True)
    against = [(base / own, least / own) for base, least, own in ratios]
    share = [(work / own) / (2 * 4096**3 / most) for own, most in zip(spent, ceiling, strict=True)]
    return {
        "model": name,
        "engine": label,
        "seconds": round(statistics.median(spent), 3),
        "times_faster_than_torch_float32": round(statistics.median(a for a, _ in against), 2),
        "times_faster_than_torchs_best": round(statistics.median(b for _, b in against), 2),
        "gflop_per_s": round(work / statistics.median(spent) / 1e9, 1),
        "share_of_ceiling": round(statistics.median(share), 2),
    }


if __name__ == "__main__":
    main()
