"""Augmented patches by brainmets, from its prepared store on disk."""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from brainmets.config import Training
from brainmets.training.patches import draw_batch
from brainmets.training.store import open_entry, read_index

PACKAGES = ("brainmets",)
TRAINING = Training(batch=1, patch_vox=128)


class _Patches(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, folder: Path, count: int) -> None:
        cohort = read_index(folder / "prepared").cohort
        self.cases = [open_entry(case.image, case.case_id) for case in cohort]
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= self.count:
            raise IndexError(index)
        torch.set_num_threads(1)
        batch = draw_batch(self.cases, TRAINING, index)
        return batch.image, batch.target


def dataset(folder: Path, count: int) -> Dataset[tuple[Tensor, Tensor]]:
    """``count`` patches."""
    return _Patches(folder, count)
