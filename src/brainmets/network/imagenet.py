"""Start the 3D encoder from a 2D ResNet-34, as torchvision stores it.

Kernels gain a last axis (slices): ``mean`` repeats them along it and divides by its length
(I3D, Carreira & Zisserman 2017, arXiv:1705.07750); ``centre`` puts them into the middle
slice, zeros elsewhere. The first kernels are summed over red, green and blue and divided by
the number of input channels: n equal images act as one grey image would.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from brainmets.errors import BundleError, ConfigError
from brainmets.network.unet import Encoder

RULES = ("mean", "centre")
WIDTH = 64
_COUNTER = "num_batches_tracked"


def read_resnet34(path: Path) -> dict[str, Tensor]:
    """The tensors of a 2D checkpoint, by name; no code in it is run.

    Raises:
        BundleError: not a file of tensors by name.
    """
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BundleError(
            f"{path.name}: not a PyTorch state dict ({type(error).__name__})"
        ) from error
    if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise BundleError(f"{path.name}: expected a state dict of tensors by name")
    return dict(tensors)


def load_resnet34(encoder: Encoder, flat: Mapping[str, Tensor], rule: str) -> list[str]:
    """Copy a 2D ResNet-34 into the encoder; its classifier ``fc`` is left out.

    Returns:
        The report: one line for each tensor loaded, with both shapes.

    Raises:
        ConfigError: an unknown rule, or an encoder of another width than the checkpoint's.
        BundleError: tensors that are missing, superfluous or of wrong shape, by name; the
            encoder is then as before.
    """
    if rule not in RULES:
        raise ConfigError(f"inflation rule {rule!r}; expected one of {', '.join(RULES)}")
    first = flat.get("conv1.weight")
    width = WIDTH if first is None else len(first)
    if encoder.conv1.out_channels != width:
        raise ConfigError(
            f"the encoder's width is {encoder.conv1.out_channels}, this ResNet-34's {width}, and "
            f"torchvision's {WIDTH}, that of the preset 'paper'"
        )
    given = {k: v for k, v in flat.items() if k not in ("fc.weight", "fc.bias")}
    wanted = encoder.state_dict()
    for name in wanted:  # older checkpoints count no batches
        if name.endswith(_COUNTER):
            given.setdefault(name, torch.tensor(0))
    faults = [f"{name} is missing" for name in wanted if name not in given]
    faults += [f"{name} is superfluous" for name in given if name not in wanted]
    for name in wanted.keys() & given.keys():
        expected = _flat_shape(name, wanted[name])
        if tuple(given[name].shape) != expected:
            faults.append(f"{name} is {tuple(given[name].shape)}, expected {expected}")
    if faults:
        raise BundleError("not a torchvision resnet34: " + "; ".join(sorted(faults)))
    loaded = {k: _inflate(k, given[k], wanted[k], rule) for k in wanted}
    encoder.load_state_dict(loaded)
    return [f"{k}: {tuple(given[k].shape)} → {tuple(v.shape)}" for k, v in loaded.items()]


def _flat_shape(name: str, solid: Tensor) -> tuple[int, ...]:
    shape = tuple(solid.shape)
    if len(shape) != 5:
        return shape
    return (shape[0], 3 if name == "conv1.weight" else shape[1], *shape[2:4])


def _inflate(name: str, flat: Tensor, solid: Tensor, rule: str) -> Tensor:
    if solid.ndim != 5:
        return flat
    if name == "conv1.weight":
        channels = solid.shape[1]
        flat = (flat.sum(1, keepdim=True) / channels).repeat(1, channels, 1, 1)
    size = solid.shape[-1]
    if rule == "mean":
        return flat[..., None].repeat(1, 1, 1, 1, size) / size
    centred = flat.new_zeros(solid.shape)
    centred[..., size // 2] = flat
    return centred
