"""The network on PyTorch: CPU or one CUDA GPU, float32 or bfloat16."""

from dataclasses import dataclass

import numpy as np
import torch

from brainmets.errors import BundleError, ConfigError
from brainmets.network.bundle import Bundle
from brainmets.network.engines import Engine, Tile
from brainmets.network.ensemble import engine_of
from brainmets.network.unet import UNet

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "f32", "bf16")


@dataclass(frozen=True)
class TorchEngine:
    """PyTorch, float32, or bfloat16 where its autocast takes it.

    Attributes:
        name: for reports: library, device, precision.
        network: in evaluation mode, on ``device``.
        device: where it runs.
        rounded: whether products are taken in bfloat16.
    """

    name: str
    network: UNet
    device: torch.device
    rounded: bool = False

    def __call__(self, tile: Tile) -> Tile:
        """See :class:`brainmets.network.engines.Engine`."""
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(tile))[None, None].to(self.device)
            batch = batch.to(memory_format=torch.channels_last_3d)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.rounded):
                logits = self.network(batch)
            probability = torch.sigmoid(logits.float())
        return np.asarray(probability[0, 0].cpu().numpy(), np.float32)


def build(bundle: Bundle) -> UNet:
    """The weights of a bundle's only network, in evaluation mode.

    Raises:
        BundleError: a tensor is missing, superfluous, of another shape, or not finite.
    """
    network = UNet(bundle.architecture)
    expected = network.state_dict()
    tensors = {k: torch.from_numpy(np.array(v)) for k, v in bundle.weights.items()}
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            where = "missing from" if name in expected else "not expected in"
            raise BundleError(f"{bundle.name}: tensor {name!r} is {where} the model file")
        if tensors[name].shape != expected[name].shape:
            raise BundleError(
                f"{bundle.name}: tensor {name!r} has shape {tuple(tensors[name].shape)}, "
                f"expected {tuple(expected[name].shape)}"
            )
        if not torch.isfinite(tensors[name].float()).all():
            raise BundleError(f"{bundle.name}: tensor {name!r} holds NaN or infinite values")
    network.load_state_dict({k: v.to(expected[k].dtype) for k, v in tensors.items()})
    return network.eval()


def choose_device(device: str) -> torch.device:
    """``auto`` takes a CUDA GPU when there is one.

    Raises:
        ConfigError: an unknown device, or CUDA where there is none.
    """
    if device not in DEVICES:
        raise ConfigError(f"device {device!r}; expected one of {', '.join(DEVICES)}")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ConfigError("device 'cuda': no CUDA GPU is visible; use --device cpu")
    return torch.device("cuda" if available and device != "cpu" else "cpu")


def torch_engine(bundle: Bundle, device: str = "auto", precision: str = "auto") -> Engine:
    """The bundle's network on a device, or the mean of its networks.

    Args:
        bundle: the model.
        device: ``auto`` takes a CUDA GPU when there is one.
        precision: ``f32`` or ``bf16``; ``auto`` is f32.

    Raises:
        ConfigError: an unknown device or precision, or CUDA where there is none.
        BundleError: the weights do not fit the architecture.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    chosen = choose_device(device)
    rounded = precision == "bf16"
    name = f"torch {chosen.type} {'bfloat16' if rounded else 'float32'}"

    def make(member: Bundle) -> TorchEngine:
        """One network."""
        network = build(member).to(chosen, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        return TorchEngine(name, network, chosen, rounded)

    return engine_of(bundle, make)
