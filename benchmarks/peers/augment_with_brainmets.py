"""Augmented patches by brainmets, from its prepared store on disk."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from brainmets.config import Training
from brainmets.training.patches import draw_batch
from brainmets.training.store import open_entry, read_index

PACKAGES = ("brainmets",)
TRAINING = Training(batch=1, patch_vox=128)


def drawer(folder: Path) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Draws the patch of a number."""
    cohort = read_index(folder / "prepared").cohort
    cases = [open_entry(case.image, case.case_id) for case in cohort]

    def draw(number: int) -> tuple[Tensor, Tensor]:
        batch = draw_batch(cases, TRAINING, number)
        return batch.image, batch.target

    return draw
