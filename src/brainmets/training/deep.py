"""Deep supervision: the decoder's coarser stages answer too while the network learns.

After Lee et al. 2015 (arXiv:1409.5185). Their heads are thrown away with the training; the model
is that of the finest stage alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from brainmets.network.lean import convolved
from brainmets.network.unet import UNet
from brainmets.training.augment import Batch


class DeepHeads(nn.Module):
    """One 1³ convolution for each of the coarser stages that answer, finest first."""

    def __init__(self, network: UNet, levels: int) -> None:
        """``levels`` stages answer besides the finest: at 1/2, 1/4, … of the resolution."""
        super().__init__()
        widths = [block.conv2.out_channels for block in network.decoder]  # type: ignore[union-attr]
        self.convs = nn.ModuleList(
            nn.Conv3d(int(width), 1, 1)  # type: ignore[arg-type]
            for width in widths[::-1][1 : levels + 1]
        )
        for conv in self.convs:
            nn.init.normal_(conv.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.constant_(conv.bias, -4.6)  # type: ignore[arg-type]

    def answers(self, network: UNet, image: Tensor) -> list[Tensor]:
        """Logits of the finest stage and of the coarser ones, finest first."""
        stages = list(network.decoded(image))[::-1]
        coarser = zip(self.convs, stages[1:], strict=False)  # not every stage answers
        return [convolved(network.head, stages[0]), *(conv(stage) for conv, stage in coarser)]


def shares(count: int) -> tuple[float, ...]:
    """What each answer's loss counts: half of the next finer one's; 1 in all."""
    halved = [0.5**level for level in range(count)]
    return tuple(share / sum(halved) for share in halved)


def coarser(batch: Batch, factor: int) -> Batch:
    """The truth at 1 / ``factor`` of the resolution: a voxel is lesion where any in it is.

    So no lesion is lost, however small; the image stays as it is.
    """
    if factor == 1:
        return batch
    pool = functional.max_pool3d
    target, weight = pool(batch.target, factor), pool(batch.weight, factor)
    near = batch.regions[..., ::factor, ::factor, ::factor]
    own = pool(batch.regions.float() * batch.target, factor).to(torch.int16)
    return Batch(batch.image, target, weight, torch.where(own > 0, own, near))


def total(losses: Sequence[Tensor]) -> Tensor:
    """The answers' losses, finest first, as one."""
    return torch.stack([
        share * loss for share, loss in zip(shares(len(losses)), losses, strict=True)
    ]).sum()  # fmt: skip
