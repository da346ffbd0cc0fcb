"""Networks on OpenVINO: one processor, float32 or bfloat16, compiled models kept on disk.

OpenVINO reports its use to its makers unless told not to. Its telemetry package is hidden
from it here before it is first imported, so that nothing is sent and nothing is written
to the user's home; nothing else may import ``openvino``.
"""

import hashlib
import importlib.util
import io
import json
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import numpy.typing as npt

from brainmets import concurrency
from brainmets.errors import BrainmetsError, ConfigError
from brainmets.io.download import cache_folder
from brainmets.io.storage import whole_file
from brainmets.network.bundle import LAST, TINY, Bundle, Int8, weights_digest
from brainmets.network.engines import Engine, Tile
from brainmets.network.ensemble import engine_of

PRECISIONS = {"f32": "float32", "bf16": "bfloat16"}
INT8 = "int8"
"""Of the last layers; the others have the best of ``PRECISIONS``."""
GRAPHS = 6
"""Raised whenever a graph changes, so that compiled models of older ones are left alone."""
SHA256_BYTES = 32
WHOLE_SHARE = 1e-3
"""How far a sum in 8 bits may be off."""
MOST_BYTES = 2 << 30
"""Of compiled models in the cache."""

LOG = logging.getLogger(__name__)

Array = npt.NDArray[np.float32]
Shape = tuple[int, int, int]


def is_installed() -> bool:
    """Whether OpenVINO is there; it is not imported."""
    return importlib.util.find_spec("openvino") is not None


@lru_cache(maxsize=1)
def core() -> Any:
    """OpenVINO's core, with telemetry off.

    Raises:
        ConfigError: OpenVINO is not installed.
    """
    if not is_installed():
        raise ConfigError("engine 'openvino' is not installed; use --engine torch")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino.Core()


def best_precision() -> str:
    """``bf16`` where the processor has units for it, else ``f32``."""
    return "bf16" if "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


@dataclass
class Compiled:
    """A network compiled for each shape it meets, from the cache where it was kept.

    Threads take turns: OpenVINO answers one question at a time.

    Attributes:
        graph: makes the network for a shape (X, Y, Z).
        identity: of the weights and everything else the graph is made of.
        precision: one of ``PRECISIONS``.
        folder: where compiled models are kept; the user's cache folder by default.
    """

    graph: Callable[[Shape], Any]
    identity: str
    precision: str
    folder: Path | None = None
    _ready: dict[Shape, Any] = field(default_factory=dict)
    _in_turn: RLock = field(default_factory=RLock, repr=False)

    def __call__(self, image: Array) -> Array:
        """(channels, X, Y, Z) → (channels, X, Y, Z), in memory of its own."""
        return self.outputs(image, 1)[0]

    def outputs(self, image: Array, count: int) -> list[Array]:
        """The first outputs for (channels, X, Y, Z), each in memory of its own."""
        shape = (image.shape[1], image.shape[2], image.shape[3])
        batch = np.ascontiguousarray(image[None], np.float32)
        with self._in_turn:
            request = self.make_ready(shape)
            request.infer([batch], share_inputs=True)
            tensors = (request.get_output_tensor(number) for number in range(count))
            return [np.array(tensor.data[0], np.float32) for tensor in tensors]

    def make_ready(self, shape: Shape) -> Any:
        """Load the network for a shape, or compile and keep it; give what runs it."""
        with self._in_turn:
            request = self._ready.get(shape)
            if request is None:
                request = self._ready[shape] = self._load(shape).create_infer_request()
            return request

    def release(self) -> None:
        """Give memory back between uses; what is kept on disk is loaded again in no time.

        Where another thread uses it, nothing happens.
        """
        if not self._in_turn.acquire(blocking=False):
            return
        try:
            self._give_back()
        finally:
            self._in_turn.release()

    def _give_back(self) -> None:
        for shape, request in tuple(self._ready.items()):
            with suppress(OSError):  # a folder that may not even be looked into
                if self.path(shape).is_file():
                    self._ready.pop(shape, None)
                    continue
            request.get_compiled_model().release_memory()

    def path(self, shape: Shape) -> Path:
        """Where the compiled model of a shape is kept."""
        import openvino

        parts = [GRAPHS, openvino.get_version(), self.identity, shape, self._settings()]
        parts.append(core().get_property("CPU", "FULL_DEVICE_NAME"))
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return (self.folder or cache_folder() / "compiled") / f"{key[:32]}.openvino"

    def is_proved(self) -> bool:
        """Whether the cache says that this network once gave what it should here."""
        return self._proof().is_file()

    def note_proof(self) -> None:
        """Keep it on record; a cache that cannot be written to costs time alone."""
        path = self._proof()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            LOG.debug("proof not kept: %s", error)

    def _proof(self) -> Path:
        return self.path((0, 0, 0)).with_suffix(".proved")

    def _settings(self) -> dict[str, Any]:
        return {
            "INFERENCE_PRECISION_HINT": self.precision,
            "INFERENCE_NUM_THREADS": concurrency.threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }

    def _load(self, shape: Shape) -> Any:
        path = self.path(shape)
        try:
            stored = path.read_bytes()
            if hashlib.sha256(stored[SHA256_BYTES:]).digest() == stored[:SHA256_BYTES]:
                with suppress(OSError):  # a cache that may only be read is a cache
                    path.touch()
                blob = io.BytesIO(stored[SHA256_BYTES:])
                return core().import_model(blob, "CPU", self._settings())
            LOG.debug("compiled model %s is damaged; made anew", path.name)
        except (OSError, RuntimeError):
            LOG.debug("no usable compiled model %s; made anew", path.name)
        model = core().compile_model(self.graph(shape), "CPU", self._settings())
        self._keep(model, path)
        return model

    @staticmethod
    def _keep(model: Any, path: Path) -> None:
        """Write it whole or not at all; a cache that cannot be written to costs time alone."""
        try:
            blob = model.export_model()
            content = blob if isinstance(blob, bytes) else blob.getvalue()
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as temporary:
                temporary.write_bytes(hashlib.sha256(content).digest() + content)
            _make_room(path.parent)
        except (OSError, RuntimeError, BrainmetsError) as error:
            LOG.debug("compiled model not kept: %s", error)


def _make_room(folder: Path) -> None:
    """Remove the compiled models that were not used for longest, beyond ``MOST_BYTES``."""
    kept = sorted(
        ((file.stat(), file) for file in folder.glob("*.openvino")),
        key=lambda entry: -entry[0].st_mtime_ns,
    )
    held = 0
    for known, file in kept:
        held += known.st_size
        if held > MOST_BYTES:
            file.unlink(missing_ok=True)


@dataclass(frozen=True)
class OpenVinoEngine:
    """OpenVINO on the processor; see :class:`brainmets.network.engines.Engine`.

    Attributes:
        name: for reports: library, device, precision.
        compiled: the network.
    """

    name: str
    compiled: Compiled

    def __call__(self, tile: Tile) -> Tile:
        """Z-scores (X, Y, Z) → probabilities of the same shape."""
        return np.ascontiguousarray(self.compiled(tile[None])[0])


def openvino_engine(
    bundle: Bundle, precision: str = "auto", *, folder: Path | None = None
) -> Engine:
    """The bundle's network on OpenVINO, or the mean of its networks.

    It is compiled when the first tile comes.

    Args:
        bundle: the model.
        precision: ``auto`` takes int8 where the bundle says that it loses too little to matter,
            else bf16 where the processor has units for it, else f32.
        folder: where compiled models are kept; the user's cache folder by default.

    Raises:
        ConfigError: OpenVINO is not installed, an unknown precision, or int8 of a model that
            holds nothing for it.
    """
    from brainmets.network.openvino_graph import unet_graph
    from brainmets.network.rounding import WHOLE_NUMBERS

    chosen = default_precision(bundle) if precision == "auto" else precision
    if chosen not in (INT8, *PRECISIONS):
        expected = ", ".join(("auto", INT8, *PRECISIONS))
        raise ConfigError(f"precision {precision!r}; expected one of {expected}")
    if chosen == INT8 and not bundle.int8:
        raise ConfigError(
            f"{bundle.name} holds nothing for int8; `brainmets models quantise` adds it"
        )
    core()
    int8 = whole_numbers() if chosen == INT8 else 0
    rest = best_precision() if int8 else chosen
    bits = {0: "", WHOLE_NUMBERS: "int8, "}.get(int8, "int8 of 7 bits, ")

    def make(member: Bundle) -> OpenVinoEngine:
        """One network."""
        compiled = Compiled(
            lambda shape: unet_graph(member, shape, int8=int8, bf16=rest == "bf16"),
            weights_identity(member, int8=int8), rest, folder,
        )  # fmt: skip
        return OpenVinoEngine(f"openvino cpu {bits}{PRECISIONS[rest]}", compiled)

    return engine_of(bundle, make)


@dataclass
class Watching:
    """A network in float32 that notes what int8 needs to know; see :class:`Engine`.

    Attributes:
        bundle: the model.
        compiled: with what reaches the layers in question as further outputs.
        largest: of each channel that reached each layer so far.
        moments: by layer, the sum of products of the values that a kernel meets where it counts.
        name: for reports.
    """

    bundle: Bundle
    compiled: Compiled
    largest: dict[str, Array] = field(default_factory=dict)
    moments: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    name: str = "openvino cpu float32, watched"

    def __call__(self, tile: Tile) -> Tile:
        """Z-scores (X, Y, Z) → probabilities of the same shape."""
        from brainmets.network.rounding import kernels_met, places

        probability, *seen = self.compiled.outputs(tile[None], 1 + len(LAST))
        where = places(probability[0])
        for layer, values in zip(LAST, seen, strict=True):
            most = values.max((1, 2, 3))
            self.largest[layer] = np.maximum(self.largest.get(layer, 0), most)
            coarser = probability.shape[1] // values.shape[1]
            met = kernels_met(values, tuple(index // coarser for index in where))
            self.moments[layer] = self.moments.get(layer, 0) + met.T @ met
        return np.ascontiguousarray(probability[0])

    def int8(self) -> Int8:
        """What was noted, and the weights rounded by it."""
        from brainmets.network.openvino_graph import Eight, last_kernels, step_of
        from brainmets.network.rounding import WHOLE_NUMBERS, rounded

        noted = Int8({  # a channel that is never anything but 0 counts for something
            layer: tuple(max(float(value), TINY) for value in values)
            for layer, values in self.largest.items()
        })  # fmt: skip
        eight = Eight(self.bundle.name, noted, WHOLE_NUMBERS)
        whole = {}
        for layer, plain in last_kernels(self.bundle).items():
            kernel, ranges = eight.scaled(layer, plain), eight.ranges(layer, plain.shape[1])
            scale = np.repeat(ranges, kernel[0, 0].size)
            moments = self.moments[layer] / np.outer(scale, scale)
            rows = (kernel / step_of(kernel)).reshape(len(kernel), -1)
            whole[layer] = rounded(rows, moments).astype(np.int8).tobytes()
        return replace(noted, rounded=whole)


def watching_engine(bundle: Bundle, *, folder: Path | None = None) -> Watching:
    """Of a bundle of one network; see :class:`Watching`."""
    from brainmets.network.openvino_graph import unet_graph

    identity = f"{weights_identity(bundle)} watched"
    compiled = Compiled(
        lambda shape: unet_graph(bundle, shape, watched=True), identity, "f32", folder
    )
    return Watching(bundle, compiled)


def default_precision(bundle: Bundle) -> str:
    """What ``auto`` stands for here: int8 only with as many whole numbers as it was measured."""
    from brainmets.network.rounding import WHOLE_NUMBERS

    wanted = bundle.int8 is not None and bundle.int8.is_default
    return INT8 if wanted and whole_numbers() == WHOLE_NUMBERS else best_precision()


@lru_cache(maxsize=1)
def whole_numbers() -> int:
    """Up to which the weights of layers in 8 bits may go on this processor: tried, not looked up.

    What a processor is said to have is not what oneDNN uses (``ONEDNN_MAX_CPU_ISA``).
    """
    from brainmets.network.openvino_graph import FEWER, HEADROOM, largest_sums
    from brainmets.network.rounding import WHOLE_NUMBERS

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = core().compile_model(largest_sums(WHOLE_NUMBERS), "CPU", settings)
    request = model.create_infer_request()
    request.infer([np.full((1, 16, 8, 8, 8), HEADROOM, np.float32)])
    share = float(request.get_output_tensor(0).data.ravel()[0])
    return WHOLE_NUMBERS if abs(share - 1) < WHOLE_SHARE else FEWER


def weights_identity(bundle: Bundle, *, int8: int = 0) -> str:
    """SHA-256 of the weights and the architecture, whether the bundle was read or made."""
    from brainmets.network.openvino_graph import HEADROOM, LEAST

    digest = hashlib.sha256(repr(bundle.architecture).encode())
    digest.update(weights_digest(bundle.weights).encode())
    if int8 and bundle.int8:
        rounded = sorted(bundle.int8.rounded.items())
        said = (int8, HEADROOM, LEAST, sorted(bundle.int8.largest.items()), rounded)
        digest.update(repr(said).encode())
    return digest.hexdigest()


def product(one: Array, other: Array, precision: str, threads: int) -> Callable[[], object]:
    """The product of two matrices as a compiled network, the second one its weight."""
    ready = core()
    from openvino import Model, opset13

    image = opset13.parameter(list(one.shape), np.float32)
    node = opset13.matmul(image, opset13.constant(other), transpose_a=False, transpose_b=False)
    graph = Model([node], [image], "product")
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    request = ready.compile_model(graph, "CPU", settings).create_infer_request()
    return lambda: request.infer([one], share_inputs=True)
