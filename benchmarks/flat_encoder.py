"""Train a 2D ResNet-34 on slices of simulated heads, for ``brainmets train --encoder``.

Its encoder is the 3D one, one voxel thick: only the middle of each kernel is ever used, and that
is what is written, under torchvision's names. Each of its five stages marks where lesions are, at
its own resolution, by a 1² convolution that is thrown away. Slices are axial, from the patches that
training would draw.

    python benchmarks/flat_encoder.py PREPARED flat.pt [--width 16] [--steps 1500] [--seed 0]
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from brainmets.config import Training
from brainmets.network.unet import Encoder
from brainmets.training.loss import dice_and_cross_entropy
from brainmets.training.patches import draw_batch
from brainmets.training.store import PreparedCase, open_entry, read_index

SLICES = 16
"""Of each patch."""
PEAK = 2e-3


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--leave-out", nargs="*", default=[], help="cases that are validated on")
    given = parser.parse_args()
    cohort = read_index(given.prepared).cohort
    cases = [
        open_entry(case.image, case.case_id)
        for case in cohort
        if case.case_id not in given.leave_out
    ]
    torch.save(flat(learnt(cases, given.width, given.steps, given.seed)), given.out)


def learnt(cases: Sequence[PreparedCase], width: int, steps: int, seed: int) -> Encoder:
    """An encoder that has learnt from slices."""
    torch.manual_seed(seed)
    encoder = Encoder(1, width).train()
    heads = nn.ModuleList(nn.Conv3d(width * scale, 1, 1) for scale in (1, 1, 2, 4, 8))
    settings = Training(patch_vox=64, seed=seed, lesion_share=0.8)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], PEAK)
    for step in range(steps):
        rate = PEAK * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = draw_batch(cases, settings, step)
        image, target, weight = (
            _slices(t, settings.seed + step) for t in (batch.image, batch.target, batch.weight)
        )
        losses = []
        for level, (head, seen) in enumerate(zip(heads, encoder(image), strict=True), start=1):
            factor = (2**level, 2**level, 1)
            truth, weighed = (functional.max_pool3d(t, factor) for t in (target, weight))
            losses.append(dice_and_cross_entropy(head(seen), truth, weighed))
        loss = torch.stack(losses).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if step % 100 == 0:
            print(f"step {step}/{steps} loss {float(loss.detach()):.3f}", flush=True)
    return encoder


def _slices(volumes: Tensor, seed: int) -> Tensor:
    """(N, 1, X, Y, Z) → (N · SLICES, 1, X, Y, 1), the same of each for the same seed."""
    chosen = torch.randperm(volumes.shape[-1], generator=torch.Generator().manual_seed(seed))
    return volumes[..., chosen[:SLICES]].permute(0, 4, 1, 2, 3).flatten(0, 1)[..., None]


def flat(encoder: Encoder) -> dict[str, Tensor]:
    """The middle of each kernel, by torchvision's names; three equal colours that add up to one."""
    tensors = {
        name: tensor[..., tensor.shape[-1] // 2].clone() if tensor.ndim == 5 else tensor
        for name, tensor in encoder.state_dict().items()
    }
    tensors["conv1.weight"] = tensors["conv1.weight"].repeat(1, 3, 1, 1) / 3
    return tensors


if __name__ == "__main__":
    main()
