"""Delivers augmented patches with one tool, and says how long it took, as JSON.

python augment_worker.py MODULE FOLDER PATCHES PROCESSES

Run with the Python of the tool's own environment. MODULE's ``drawer`` draws an image and a target
of 128³ voxels for a number; processes draw them, this one only receives.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

WARM_UP = 4


class Patches(Dataset[tuple[Tensor, Tensor]]):
    """So many patches, each drawn by one thread when it is asked for."""

    def __init__(self, draw: Callable[[int], tuple[Tensor, Tensor]], count: int) -> None:
        """Nothing is drawn yet."""
        self.draw, self.count = draw, count

    def __len__(self) -> int:
        """How many."""
        return self.count

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Image and target."""
        torch.set_num_threads(1)
        return self.draw(number)


def main() -> None:
    """Receive patches and print."""
    module, folder, count, processes = sys.argv[1:]
    tool = importlib.import_module(module)
    patches = Patches(tool.drawer(Path(folder)), WARM_UP + int(count))
    loader = DataLoader(
        patches, batch_size=None, num_workers=int(processes), multiprocessing_context="fork"
    )
    started = time.perf_counter()
    for number, (image, target) in enumerate(loader):
        if not image.numel() == target.numel() == 128**3:
            raise SystemExit(f"{module}: patches of {image.shape} and {target.shape}")
        if number == WARM_UP - 1:
            started = time.perf_counter()
    answer = {
        "seconds": time.perf_counter() - started,
        "versions": {name: version(name) for name in (*tool.PACKAGES, "torch")},
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
