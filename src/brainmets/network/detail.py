"""The detail network: is this place a metastasis, and which of its voxels are?

It sees 24³ voxels around one place three times: as they are, and averaged over 2³ and 4³, which
shows where in the brain it lies (three pathways after DeepMedic, Kamnitsas et al. 2017,
doi:10.1016/j.media.2016.10.004). No step halves the resolution of the first before it has been
read at full resolution, which is what metastases of a few voxels take.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from brainmets.errors import BundleError
from brainmets.network.bundle import Bundle, Detail

HIDDEN = 64
"""Numbers between what is seen and the score."""


class Block(nn.Module):
    """A 3³ convolution, or two, each with batch normalisation and ReLU."""

    def __init__(self, into: int, out: int, *, double: bool = False) -> None:
        """Channels before and after."""
        super().__init__()
        self.conv1 = nn.Conv3d(into, out, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(out)
        self.is_double = double
        if double:
            self.conv2 = nn.Conv3d(out, out, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm3d(out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, into, …) → (N, out, …)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(x))) if self.is_double else x


class DetailNet(nn.Module):
    """Scores and outlines of places; see :class:`brainmets.network.bundle.Detail` for sizes."""

    def __init__(self, width: int) -> None:
        """``width``: channels at full resolution."""
        super().__init__()
        one, two, four = width, 2 * width, 4 * width
        self.fine = nn.ModuleList(
            Block(into, out, double=True) for into, out in ((1, one), (one, two), (two, four))
        )
        self.middle, self.coarse = (
            nn.ModuleList(Block(into, out) for into, out in ((1, one), (one, two), (two, two)))
            for _ in range(2)
        )
        self.hidden = nn.Linear(2 * four + 4 * two, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1)
        self.context = nn.Linear(4 * two, four)
        self.narrow = nn.ModuleList(nn.Conv3d(i, o, 1) for i, o in ((four, two), (two, one)))
        self.wide = nn.ModuleList(Block(n, n) for n in (two, one))
        self.outline = nn.Conv3d(one, 1, 1)

    def forward(self, patches: Tensor, outlined: int | None = None) -> tuple[Tensor, Tensor]:
        """Log odds of places, and of voxels given that the place is a metastasis.

        Args:
            patches: (N, 3, 24, 24, 24): as they are, averaged over 2³, over 4³.
            outlined: how many of them, the first, are to be outlined; None: all.

        Returns:
            (N,) and (``outlined``, 24, 24, 24).
        """
        fine = [self.fine[0](patches[:, :1])]
        for block in self.fine[1:]:
            fine.append(block(functional.max_pool3d(fine[-1], 2)))
        around = torch.cat(
            [
                part
                for number, path in ((1, self.middle), (2, self.coarse))
                for part in _summed(_through(path, patches[:, number : number + 1]))
            ],
            1,
        )
        seen = torch.cat([_core(fine[2]), fine[2].amax((2, 3, 4)), around], 1)
        scores = self.score(functional.relu(self.hidden(seen)))[:, 0]
        some = slice(outlined)
        x = fine[2][some] + self.context(around[some])[:, :, None, None, None]
        for narrow, wide, skip in zip(self.narrow, self.wide, (fine[1], fine[0]), strict=True):
            larger = functional.interpolate(narrow(x), scale_factor=2.0, mode="nearest")
            x = wide(functional.relu(larger + skip[some]))
        return scores, self.outline(x)[:, 0]


def _through(path: nn.ModuleList, x: Tensor) -> Tensor:
    for number, block in enumerate(path):
        x = block(functional.max_pool3d(x, 2) if number else x)
    return x


def _core(x: Tensor) -> Tensor:
    """The mean of the 2³ values in the middle of 6³."""
    return x[:, :, 2:4, 2:4, 2:4].mean((2, 3, 4))


def _summed(x: Tensor) -> tuple[Tensor, Tensor]:
    return _core(x), x.mean((2, 3, 4))


def build_detail(bundle: Bundle, detail: Detail) -> DetailNet:
    """The detail network of a bundle, in evaluation mode.

    Raises:
        BundleError: a tensor is missing, superfluous, of another shape, or not finite.
    """
    network = DetailNet(detail.width)
    tensors = {k: torch.from_numpy(np.array(v, np.float32)) for k, v in detail.weights.items()}
    wrong = sorted(name for name, tensor in tensors.items() if not tensor.isfinite().all())
    if wrong:
        raise BundleError(f"{bundle.name}: the detail network's {wrong[0]} is not finite")
    expected = network.state_dict()
    counters = {name: value for name, value in expected.items() if name.endswith("batches_tracked")}
    try:
        network.load_state_dict({**counters, **tensors})
    except RuntimeError as error:
        raise BundleError(
            f"{bundle.name}: the detail network's tensors do not fit its width {detail.width}"
        ) from error
    return network.eval()
