"""What stands in for a trained model, and scans that need no brain extraction."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from brainmets.cohort import Scan
from brainmets.config import Architecture, DecisionRule, Recipe, Tiling
from brainmets.io import nifti
from brainmets.network.bundle import Bundle
from brainmets.pipeline import Model
from brainmets.volume import Grid, Volume
from phantoms import Ball, make_grid, make_head

COARSE_BALLS = (Ball((22.0, 18.0, 12.0), 9.0), Ball((-20.0, -26.0, -6.0), 12.0))


@dataclass
class Bright:
    """An engine that calls bright voxels metastasis, each for itself: p = σ(4 (z - 2.5)).

    It commutes with every flip, permutation and choice of tiles.
    """

    name: str = "bright"
    pause_s: float = 0.0
    calls: int = 0

    def __call__(self, tile):
        """See :class:`brainmets.network.engines.Engine`."""
        self.calls += 1
        time.sleep(self.pause_s)
        return (1 / (1 + np.exp(-4 * (tile.astype(np.float64) - 2.5)))).astype(np.float32)


def bright_model(
    *, spacing_mm=2.5, margin_mm=2.0, smallest_mm3=10.0, tile_vox=32, pause_s=0.0, sha256="0" * 64
) -> Model:
    """A model around :class:`Bright`."""
    bundle = Bundle(
        name="bright",
        architecture=Architecture(width=4),
        recipe=Recipe(spacing_mm=spacing_mm, brain_margin_mm=margin_mm),
        tiling=Tiling(tile_vox=tile_vox),
        rule=DecisionRule(smallest_mm3=smallest_mm3),
        weights={},
        example={},
        card={"trained_on": "nothing"},
        sha256=sha256,
    )
    return Model(bundle, Bright(pause_s=pause_s))


def stripped_head(grid: Grid | None = None, balls=(), *, seed=0):
    """A head whose skull is off: exactly 0 outside the brain."""
    head = make_head(grid, balls, seed=seed)
    bare = np.where(head.brain.data, head.scan.data, np.float32(0))
    return replace(head, scan=head.scan.with_data(bare))


def coarse_grid() -> Grid:
    """Voxels of 5 mm: the smallest head that counts as one."""
    return make_grid((26, 30, 24), 5.0)


def coarse_model(**options) -> Model:
    """:func:`bright_model` for :func:`coarse_grid`."""
    return bright_model(spacing_mm=5.0, **options)


def write_scan(path: Path, *, balls=COARSE_BALLS, seed=0) -> Path:
    """A stripped head on the coarse grid, on disk."""
    nifti.write(stripped_head(coarse_grid(), balls, seed=seed).scan, path)
    return path


def scan_of(volume: Volume) -> Scan:
    """A scan already read."""
    return Scan(volume, sequence="T1c")
