"""Which engine runs a model here, and why; a failed one is replaced, with a warning."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brainmets.errors import BrainmetsError, ConfigError
from brainmets.network import openvino_engine
from brainmets.network.bundle import Bundle
from brainmets.network.cost import Timed
from brainmets.network.engines import Engine, Tile, verify
from brainmets.network.ensemble import Averaged

ENGINES = ("auto", "torch", "openvino")
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What the user asked for.

    Attributes:
        engine: ``auto``, ``torch`` or ``openvino``.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto``, ``f32``, ``bf16`` or ``int8``.
    """

    engine: str = "auto"
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.engine not in ENGINES:
            raise ConfigError(f"engine {self.engine!r}; expected one of {', '.join(ENGINES)}")
        if self.precision == openvino_engine.INT8 and (
            self.engine == "torch" or self.device == "cuda"
        ):
            raise ConfigError("int8 is for engine 'openvino' on the CPU; leave --precision out")
        if self.engine == "openvino" and self.device == "cuda":
            raise ConfigError("engine 'openvino' runs on the CPU; use --engine torch for a GPU")


@dataclass
class Careful:
    """An engine, and another that takes over, with a warning, once the first fails.

    Attributes:
        engine: runs the tiles.
        other: makes the one that takes over; asked once at most.
    """

    engine: Engine
    other: Callable[[], Engine]
    _failed: str = ""

    @property
    def name(self) -> str:
        """Of the engine in use, and of the one that failed."""
        return self.engine.name + (f", after {self._failed} failed" if self._failed else "")

    def __call__(self, tile: Tile) -> Tile:
        """See :class:`brainmets.network.engines.Engine`."""
        if self._failed:
            return self.engine(tile)
        try:
            found = self.engine(tile)
            reason = "" if np.isfinite(found).all() else "its numbers are not finite"
        except BrainmetsError:
            raise
        except Exception as error:  # libraries raise their own kinds
            reason = type(error).__name__
            LOG.debug("engine %s", self.engine.name, exc_info=True)
        if not reason:
            return found
        LOG.warning("warning: %s failed (%s); torch takes over", self.engine.name, reason)
        self._failed, self.engine = self.engine.name, self.other()
        return self.engine(tile)


@dataclass
class Exact:
    """Float32 for where fewer bits leave doubt: loaded when it is asked for the first time.

    Attributes:
        bundle: the model.
        prove: as for :func:`choose_engine`.
        engine: what was loaded.
    """

    bundle: Bundle
    prove: bool = True
    engine: Engine | None = None

    @property
    def name(self) -> str:
        """Of the engine in use, or of the one that would be."""
        return self.engine.name if self.engine else "openvino cpu float32"

    def __call__(self, tile: Tile) -> Tile:
        """See :class:`brainmets.network.engines.Engine`."""
        if self.engine is None:
            wanted = Wanted("openvino", "cpu", "f32")
            self.engine, _ = choose_engine(self.bundle, wanted, prove=self.prove)
        return self.engine(tile)


def exact_engine(bundle: Bundle, engine: Engine, *, prove: bool = True) -> Engine | None:
    """What decides where an engine leaves doubt; None where it is float32 itself, or PyTorch."""
    has_fewer_bits = "bfloat16" in engine.name or "int8" in engine.name
    return Exact(bundle, prove) if engine.name.startswith("openvino") and has_fewer_bits else None


def release(engine: Engine | None) -> None:
    """Give an engine's memory back, if it can be loaded again in no time."""
    while isinstance(engine, Careful | Exact | Timed):
        engine = engine.engine
    parts = engine.engines if isinstance(engine, Averaged) else (engine,)
    for part in parts:
        if isinstance(part, openvino_engine.OpenVinoEngine):
            part.compiled.release()


def choose_engine(bundle: Bundle, wanted: Wanted, *, prove: bool = True) -> tuple[Engine, str]:
    """The engine for a model, and one sentence on why it was taken.

    OpenVINO runs the bundle's example before a model that it compiled for the first time
    is trusted; where int8 or bfloat16 fails that, float32 is tried before torch.
    With ``prove`` false it is trusted unseen, for who verifies it anyway.

    Raises:
        ConfigError: what was asked for is not there.
        BundleError: the weights do not fit the architecture.
    """
    choice, reason = _library(wanted)
    if choice == "torch":
        return _torch(bundle, wanted), reason
    for precision in dict.fromkeys((wanted.precision, "f32")):
        try:
            engine = openvino_engine.openvino_engine(bundle, precision)
            if prove:
                _prove(bundle, engine)
        except ConfigError:
            raise
        except Exception as error:
            LOG.debug("OpenVINO", exc_info=True)
            LOG.warning("warning: OpenVINO, precision %s, is not used: %s", precision, error)
            reason = f"OpenVINO failed with precision {precision} ({type(error).__name__})"
        else:
            return Careful(engine, lambda: _torch(bundle, _FLOAT32)), reason
    LOG.warning("warning: torch is used instead")
    return _torch(bundle, _FLOAT32), reason


_FLOAT32 = Wanted("torch", "cpu", "f32")


def _prove(bundle: Bundle, engine: Engine) -> None:
    """Run the example, and keep on record that it came out right."""
    parts = engine.engines if isinstance(engine, Averaged) else (engine,)
    kept = [part.compiled for part in parts if isinstance(part, openvino_engine.OpenVinoEngine)]
    if bundle.example and not all(network.is_proved() for network in kept):
        verify(bundle, engine)
        for network in kept:
            network.note_proof()


def _library(wanted: Wanted) -> tuple[str, str]:
    if wanted.engine != "auto":
        return wanted.engine, "it was asked for"
    if wanted.device == "cuda":
        return "torch", "a CUDA GPU was asked for"
    if wanted.precision == openvino_engine.INT8:
        return "openvino", "int8 was asked for"
    if wanted.device == "auto" and _gpu_is_visible():
        return "torch", "there is a CUDA GPU"
    if not openvino_engine.is_installed():
        return "torch", "OpenVINO is not installed"
    return "openvino", "the fastest on a CPU"


def _gpu_is_visible() -> bool:
    """Whether PyTorch sees a CUDA GPU; it is imported only where there are signs of one."""
    if not (Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi")):
        return False
    from brainmets.network.torch_engine import choose_device

    return choose_device("auto").type == "cuda"


def _torch(bundle: Bundle, wanted: Wanted) -> Engine:
    from brainmets.network.torch_engine import torch_engine

    return torch_engine(bundle, wanted.device, wanted.precision)
