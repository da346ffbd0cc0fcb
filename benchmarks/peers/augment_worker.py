"""Delivers augmented patches with one tool, and says how long it took, as JSON.

python augment_worker.py MODULE FOLDER PATCHES PROCESSES

Run with the Python of the tool's own environment. MODULE gives a dataset whose items are an
image and a target of 128³ voxels; processes draw them, this one only receives.
"""

import importlib
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from torch.utils.data import DataLoader

WARM_UP = 4


def main() -> None:
    """Receive patches and print."""
    module, folder, count, processes = sys.argv[1:]
    tool = importlib.import_module(module)
    dataset = tool.dataset(Path(folder), WARM_UP + int(count))
    loader = DataLoader(
        dataset, batch_size=None, num_workers=int(processes), multiprocessing_context="fork"
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
