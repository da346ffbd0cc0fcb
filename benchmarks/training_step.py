"""One step of training: our loop, with and without recomputing, against a plain MONAI loop.

The plain loop has the same network as PyTorch computes it, in its usual memory layout, MONAI's
DiceCELoss and torch's AdamW. Both take the same patches, in float32 and in bfloat16. Each runs in a
process of its own, so that its peak memory is its own.

    python benchmarks/training_step.py [--networks light paper] [--side 128] [--runs 2]
"""

import argparse
import resource
import time
from collections.abc import Callable
from itertools import product
from multiprocessing import get_context
from typing import Any

from record import write

LOOPS = ("brainmets", "brainmets --recompute", "plain, MONAI's loss")
PRECISIONS = ("f32", "bf16")


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["light", "paper"])
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--runs", type=int, default=2)
    given = parser.parse_args()
    rows, threads = [], 0
    for network, precision, loop in product(given.networks, PRECISIONS, LOOPS):
        job = (network, precision, loop, given.side, given.batch, given.runs)
        with get_context("spawn").Pool(1) as pool:
            seconds, peak, threads = pool.apply(_measure, job)
        rows.append(
            {
                "network": network,
                "precision": precision,
                "loop": loop,
                "seconds": round(seconds, 1),
                "peak_memory_mb": round(peak),
            }
        )
        print(rows[-1], flush=True)
    value = {"side": given.side, "batch": given.batch, "runs": given.runs, "threads": threads}
    print(write("training_step", {**value, "rows": rows}).read_text())


def _measure(  # one row of the table
    network: str, precision: str, loop: str, side: int, batch: int, runs: int
) -> tuple[float, float, int]:
    """Seconds of the fastest step, MiB of the peak above the start, threads."""
    import torch

    plain, recompute = loop.startswith("plain"), "recompute" in loop
    step = _plain(network, precision) if plain else _ours(network, precision, recompute)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((batch, 1, side, side, side), generator=generator)
    target = (torch.rand(image.shape, generator=generator) > 0.995).float()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        step(image, target)
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return min(seconds[1:]), peak / 1024, torch.get_num_threads()


def _ours(network: str, precision: str, recompute: bool) -> Callable[[Any, Any], None]:
    import torch

    from brainmets.config import Training
    from brainmets.training import loop
    from brainmets.training.patches import Batch
    from brainmets.training.presets import PRESETS

    training = Training(precision=precision, recompute=recompute)
    state = loop._start(PRESETS[network].architecture, training, "cpu", None)  # noqa: SLF001

    def step(image: torch.Tensor, target: torch.Tensor) -> None:
        drawn = Batch(image, target, torch.ones_like(target), torch.zeros(1))
        loop._advance(state, [drawn], training, "cpu")  # noqa: SLF001

    return step


def _plain(network: str, precision: str) -> Callable[[Any, Any], None]:
    import torch
    from monai.losses import DiceCELoss

    from brainmets.network import lean, unet
    from brainmets.network.unet import UNet
    from brainmets.training.presets import PRESETS

    lean.is_lean = unet.is_lean = lambda *_: False  # as PyTorch does it
    lean.first_convolved = unet.first_convolved = lambda conv, x: conv(x)
    model = UNet(PRESETS[network].architecture).train()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1e-2)
    loss_of = DiceCELoss(sigmoid=True)

    def step(image: torch.Tensor, target: torch.Tensor) -> None:
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(image)
        loss_of(logits.float(), target).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 12.0)
        optimiser.step()

    return step


if __name__ == "__main__":
    main()
