"""What runs the detail network: OpenVINO where it runs the other, else PyTorch; float32."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from brainmets.errors import BrainmetsError, BundleError, RunError
from brainmets.network.bundle import SIDE, Bundle, Detail, weights_digest
from brainmets.network.detail_graph import detail_graph
from brainmets.network.openvino_engine import Compiled

if TYPE_CHECKING:
    from brainmets.network.detail import DetailNet

COUNT = 10
"""Places at a time."""
OUTLINED = 3
"""Patches of the example whose outlines are kept."""
LARGEST_DIFFERENCE = 0.02
"""In log odds of places and in probabilities of voxels."""
LEAST_SPAN = 0.5
"""Of the example's log odds."""
LOG = logging.getLogger(__name__)
Float32 = npt.NDArray[np.float32]
Parts = tuple[Float32, Float32 | None]
See = Callable[[Float32, bool], Parts]
"""(COUNT, 3, 24, 24, 24), and whether outlines are wanted → log odds, outlines."""


@dataclass(frozen=True)
class DetailEngine:
    """Runs the detail network of a bundle.

    Attributes:
        most: bright places that it is shown of a scan.
        shift: to be taken off the log odds of places that it is shown.
        see: the network.
        veto: log odds below which a small finding of the other network is dropped; None: never.
        rings: ringed places that it is shown besides.
        looks: how often it looks at a place that may be a metastasis.
    """

    most: int
    shift: float
    see: See
    veto: float | None = None
    rings: int = 0
    looks: int = 1

    def log_odds(self, patches: Float32) -> Float32:
        """That a place is a metastasis: (N, 3, 24, 24, 24) → (N,).

        Raises:
            RunError: numbers that are not finite.
        """
        return self._in_parts(patches, outlined=False)

    def outlines(self, patches: Float32) -> Float32:
        """Of voxels, given that the place is a metastasis: (N, 3, 24, …) → (N, 24, 24, 24)."""
        return self._in_parts(patches, outlined=True)

    def _in_parts(self, patches: Float32, *, outlined: bool) -> Float32:
        shape = (len(patches), *([SIDE] * 3 if outlined else []))
        found = np.empty(shape, np.float32)
        for first in range(0, len(patches), COUNT):
            part = patches[first : first + COUNT]
            filled = np.zeros((COUNT, *patches.shape[1:]), np.float32)
            filled[: len(part)] = part
            scores, outlines = self.see(filled, outlined)
            found[first : first + COUNT] = (scores if outlines is None else outlines)[: len(part)]
        if not np.isfinite(found).all():
            raise RunError("the detail network gave numbers that are not finite; verify the model")
        return found


def detail_engine(bundle: Bundle, beside: str, *, prove: bool = True) -> DetailEngine | None:
    """The bundle's detail network; None if it has none.

    On OpenVINO PyTorch takes over, with a warning, once it fails; also where the network,
    compiled for the first time, does not give what the bundle's example says.

    Args:
        bundle: the model.
        beside: name of the engine that runs the other network: library and device.
        prove: whether the example is run; false for who verifies it anyway.

    Raises:
        BundleError: tensors that are no detail network's.
    """
    detail = bundle.detail
    if detail is None:
        return None
    device = "cuda" if "cuda" in beside else "cpu"
    on_torch = _OnTorch(bundle, detail, device)
    if not beside.startswith("openvino"):
        on_torch.load()
        return _engine(detail, on_torch)
    fast = _OnOpenVino(bundle.name, detail)
    engine = _engine(detail, _Careful(fast, on_torch))
    detail_graph(bundle.name, detail, COUNT, outlined=True)  # refuses foreign tensors
    if not prove or not detail.example or fast.is_proved():
        return engine
    try:
        verify_detail(bundle, engine)
    except BundleError as error:
        LOG.warning("warning: OpenVINO is not used for the detail network: %s", error)
        return replace(engine, see=on_torch)
    fast.note_proof()
    return engine


def _engine(detail: Detail, see: See) -> DetailEngine:
    return DetailEngine(detail.most, detail.shift, see, detail.veto, detail.rings, detail.looks)


def shown() -> Float32:
    """Patches that a detail network is verified on: balls in waves, (10, 3, 24³).

    From faint and small to bright and large: what a trained network says of them lies on both
    sides of even odds.
    """
    side = np.arange(SIDE) - SIDE // 2
    x, y, z = np.meshgrid(side, side, side, indexing="ij")
    away = np.sqrt(x**2 + y**2 + z**2)
    patches = [
        [
            0.3 * np.sin(x * scale / 5) * np.cos(y * scale / 6)
            + number / 2 * np.clip(1.5 + number / 2 - away * scale, 0, 1)
            for scale in (1, 2, 4)
        ]
        for number in range(COUNT)
    ]
    return np.asarray(patches, np.float32)


def example_of(engine: DetailEngine) -> dict[str, Float32]:
    """What a detail network gives for :func:`shown`; of the last three patches the outlines too."""
    patches = shown()
    return {"log_odds": engine.log_odds(patches), "outlines": engine.outlines(patches[-OUTLINED:])}


def verify_detail(bundle: Bundle, engine: DetailEngine) -> float:
    """Run the example of the bundle's detail network; return the largest difference.

    Of log odds of places, and of outlines' probabilities.

    Raises:
        BundleError: it is larger than ``LARGEST_DIFFERENCE``, there is no example, or its log odds
            are all alike, so that it proves nothing.
    """
    expected = bundle.detail.example if bundle.detail else {}
    found = example_of(engine)
    if {k: v.shape for k, v in expected.items()} != {k: v.shape for k, v in found.items()}:
        raise BundleError(
            f"{bundle.name}: its detail network has no example of {COUNT} places, so it cannot be "
            "verified; train it again with `brainmets models train-detail`"
        )
    if not np.ptp(expected["log_odds"]) > LEAST_SPAN:  # NaN fails too
        raise BundleError(
            f"{bundle.name}: all log odds of its detail network's example are alike, so it cannot "
            "be verified"
        )
    difference = max(
        float(np.abs(np.asarray(expected[name], np.float32) - found[name]).max())
        for name in ("log_odds", "outlines")
    )
    if not difference <= LARGEST_DIFFERENCE:
        raise BundleError(
            f"{bundle.name}: its detail network differs from the expected output by "
            f"{difference:.2g}, more than {LARGEST_DIFFERENCE}; this machine does not compute the "
            "model as published"
        )
    return difference


class _OnOpenVino:
    """Two graphs of the network: with outlines, and without."""

    def __init__(self, owner: str, detail: Detail) -> None:
        """Nothing is compiled before it is used."""
        digest = f"detail {weights_digest(detail.weights)} {COUNT}"
        self._networks = {
            outlined: Compiled(_graph(owner, detail, outlined), f"{digest} {outlined}", "f32")
            for outlined in (False, True)
        }

    def __call__(self, patches: Float32, outlined: bool) -> Parts:
        """See ``See``."""
        image = patches.reshape(-1, SIDE, SIDE, SIDE)
        found = self._networks[outlined].outputs(image, 2 if outlined else 1)
        return found[0], found[1] if outlined else None

    def is_proved(self) -> bool:
        """Whether both once gave what they should here."""
        return all(network.is_proved() for network in self._networks.values())

    def note_proof(self) -> None:
        """Keep it on record."""
        for network in self._networks.values():
            network.note_proof()


def _graph(owner: str, detail: Detail, outlined: bool) -> Callable[[tuple[int, int, int]], Any]:
    return lambda _shape: detail_graph(owner, detail, COUNT, outlined=outlined)


@contextmanager
def without_tf32(device: str) -> Iterator[None]:
    """Float32 in full on a GPU: the ten bits of TF32 may decide a veto otherwise."""
    import torch

    if not device.startswith("cuda"):
        yield
        return
    backends: Any = torch.backends
    kinds = (backends.cudnn.conv, backends.cuda.matmul)
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


@dataclass
class _OnTorch:
    """The network on PyTorch, built when it is first used."""

    bundle: Bundle
    detail: Detail
    device: str
    network: "DetailNet | None" = None

    def __call__(self, patches: Float32, outlined: bool) -> Parts:
        """See ``See``."""
        import torch

        network = self.load()
        with torch.inference_mode(), without_tf32(self.device):
            batch = torch.from_numpy(patches).to(self.device)
            odds, outlines = network(batch, outlined=None if outlined else 0)
            seen = torch.sigmoid(outlines).cpu().numpy() if outlined else None
        return odds.cpu().numpy(), seen

    def load(self) -> "DetailNet":
        """Build it, once.

        Raises:
            BundleError: tensors that are no detail network's.
        """
        from brainmets.network.detail import build_detail

        if self.network is None:
            self.network = build_detail(self.bundle, self.detail).to(self.device)
        return self.network


@dataclass
class _Careful:
    """One way, and another that takes over once the first fails."""

    first: See
    other: See
    has_failed: bool = False

    def __call__(self, patches: Float32, outlined: bool) -> Parts:
        """See ``See``."""
        if not self.has_failed:
            try:
                found = self.first(patches, outlined)
            except BrainmetsError:
                raise
            except Exception as error:  # libraries raise their own kinds
                LOG.debug("detail network", exc_info=True)
                reason = type(error).__name__
            else:
                if all(part is None or np.isfinite(part).all() for part in found):
                    return found
                reason = "its numbers are not finite"
            LOG.warning("warning: the detail network failed (%s); torch takes over", reason)
            self.has_failed = True
        return self.other(patches, outlined)
