"""Where training begins: at a model's weights, a 2D network's, or random ones."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from brainmets.config import Architecture
from brainmets.errors import ConfigError
from brainmets.io.storage import whole_file
from brainmets.network.bundle import Bundle, find, read
from brainmets.network.imagenet import load_resnet34, read_resnet34
from brainmets.network.torch_engine import build
from brainmets.network.unet import UNet
from brainmets.training.presets import PRESETS

ENCODER_NAME = "encoder.txt"
RANDOM = "none"
"""Asked for by this name where a preset would start from a model."""


@dataclass(frozen=True)
class EncoderStart:
    """A 2D ResNet-34 and how its kernels become solid.

    Attributes:
        path: torchvision's checkpoint.
        rule: ``mean`` or ``centre``; see :mod:`brainmets.network.imagenet`.
    """

    path: Path
    rule: str = "mean"


def model_to_start_from(
    preset: str, start: str | Path | None, encoder: EncoderStart | None
) -> Bundle | None:
    """The model whose weights training begins with; None: it begins with none.

    Args:
        preset: whose model is taken where nothing is said.
        start: a model's name or file, or :data:`RANDOM`; None: nothing is said.
        encoder: with one, the preset's model is not taken.

    Raises:
        BundleError: no such model.
        ConfigError: a model and an encoder, or a model of several networks.
    """
    if start == RANDOM or (start is None and encoder):
        return None
    if start and encoder:
        raise ConfigError("a model and an encoder to start from; give one of the two")
    name = start or PRESETS[preset].start
    begun = read(find(name)) if name else None
    if begun and begun.networks > 1:
        raise ConfigError(
            f"{begun.name} averages {begun.networks} networks; start from a model of one"
        )
    return begun


def first_weights(
    start: Bundle | None,
    encoder: EncoderStart | None,
    architecture: Architecture,
    seed: int,
    work: Path,
) -> tuple[Mapping[str, Tensor] | None, dict[str, Any]]:
    """Weights to start from, None for random ones, and what the card says of them.

    Every tensor that was loaded from an encoder is listed in ``work``.

    Args:
        start: from :func:`model_to_start_from`.
        encoder: 2D network for the encoder.
        architecture: of the network to train.
        seed: of what an encoder leaves random.
        work: folder of the training.

    Raises:
        BundleError: the encoder's file is no checkpoint, or lacks a tensor.
        ConfigError: the encoder is of another width.
    """
    if start:
        begun = {"name": start.name, "sha256": start.sha256}
        card = {**begun, "training": start.card.get("training")}
        return build(start).state_dict(), {"started_from": card}
    if encoder is None:
        return None, {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(architecture)
    loaded = load_resnet34(network.encoder, read_resnet34(encoder.path), encoder.rule)
    said = {
        "file": encoder.path.name,
        "sha256": hashlib.sha256(encoder.path.read_bytes()).hexdigest(),
        "inflation": encoder.rule,
        "tensors": len(loaded),
    }
    with whole_file(work / ENCODER_NAME) as temporary:
        temporary.write_text("\n".join(loaded) + "\n", encoding="utf-8")
    return network.state_dict(), {"encoder_from": said}
