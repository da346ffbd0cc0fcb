"""Checkpoints of training runs: whole files, which say what run they belong to."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from brainmets.errors import ConfigError
from brainmets.io.storage import whole_file


def write_checkpoint(path: Path, settings: Any, state: Mapping[str, Any]) -> None:
    """Write a run's state; what was there stays until the new one is whole."""
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save({"settings": settings, **state}, file)


def read_checkpoint(
    path: Path, is_mine: Callable[[Any], bool], names: Collection[str]
) -> dict[str, Any]:
    """A run's state, its tensors on the CPU.

    Args:
        path: the checkpoint.
        is_mine: whether settings are those of the run that goes on.
        names: what it must hold besides.

    Raises:
        ConfigError: damaged, or of a run of other settings.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        mine = is_mine(saved["settings"])
        saved = {name: saved[name] for name in names} if mine else {}
    except Exception as error:  # damage makes unpickling raise anything
        raise ConfigError(
            f"{path.name}: damaged, or no checkpoint; delete it to start over"
        ) from error
    if not mine:
        raise ConfigError(
            f"{path.name}: holds a run of other settings or cases; choose another folder or "
            "output, or delete it to start over"
        )
    return saved
