"""A place gets what another engine gives, and only the tiles that see it are computed."""

import numpy as np
import pytest
from scipy import ndimage

from brainmets.config import Recipe, Tiling
from brainmets.inference import second_look
from brainmets.inference.predict import predict
from brainmets.inference.second_look import LITTLE, looked_at_again
from brainmets.preprocess.prepare import prepare, restore
from brainmets.volume import Grid, Volume


class Counted:
    """Probabilities from grey values, and how many tiles it was asked for."""

    name = "counted"

    def __init__(self, add):  # noqa: D107
        self.add, self.tiles = add, 0

    def __call__(self, tile):  # noqa: D102
        self.tiles += 1
        context = ndimage.uniform_filter(tile, 9)  # another answer in another tile
        return (0.5 + 0.1 * np.tanh(tile + context) + self.add).astype(np.float32)


def prepared(order=(0, 1, 2), turn_deg=0.0, thickness=1.1):
    """A scan with its axes in any order, flipped, turned, and of thick slices."""
    rng = np.random.default_rng(0)
    affine = np.diag([-1.3, 1.0, thickness, 1.0])[:, [*order, 3]]
    angle = np.radians(turn_deg)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = turn @ affine
    affine[:3, 3] = 70, -40, 10
    grid = Grid((90, 110, 80), affine)
    scan = Volume(ndimage.gaussian_filter(rng.random(grid.shape), 1).astype(np.float32), grid)
    mask = np.zeros(grid.shape, np.uint8)
    mask[5:85, 6:104, 4:76] = 1
    return prepare(scan, Volume(mask, grid), Recipe(spacing_mm=1.0))


def test_a_place_gets_what_the_other_engine_gives_for_the_whole_scan():
    scan, tiling = prepared(), Tiling(64)
    rough, exact = Counted(0.0), Counted(0.2)
    whole = restore(predict(scan, exact, tiling), scan).data
    place = (slice(20, 26), slice(70, 75), slice(30, 36))
    before = predict(scan, rough, tiling)
    first = restore(before, scan).data
    asked = exact.tiles
    moments = []
    after = looked_at_again(
        scan, before, [place], exact, tiling, progress=lambda *m: moments.append(m)
    )
    found = restore(after, scan).data
    assert np.abs(found[place] - whole[place]).max() <= 2 * LITTLE
    assert 0 < exact.tiles - asked < asked / 2
    assert moments[-1] == (exact.tiles - asked,) * 2
    far = np.ones(found.shape, bool)
    far[10:36, 60:85, 20:46] = False
    assert np.array_equal(found[far], first[far])


@pytest.mark.parametrize(
    "stored",
    [{}, {"order": (2, 0, 1)}, {"turn_deg": 20.0}, {"order": (1, 2, 0), "turn_deg": 12.0},
     {"thickness": 5.0}],
)  # fmt: skip
def test_every_tile_that_counts_makes_it_the_same_to_the_last_bit(monkeypatch, stored):
    monkeypatch.setattr(second_look, "LITTLE", 0.0)
    scan, tiling = prepared(**stored), Tiling(64)
    exact = Counted(0.2)
    whole = restore(predict(scan, exact, tiling), scan).data
    place = (slice(40, 50), slice(50, 60), slice(35, 45))
    found = restore(looked_at_again(
        scan, predict(scan, Counted(0.0), tiling), [place], exact, tiling), scan).data  # fmt: skip
    assert np.array_equal(found[place], whole[place])


def test_a_place_outside_the_brain_asks_for_nothing():
    scan, exact = prepared(), Counted(0.2)
    place = (slice(0, 1), slice(0, 1), slice(0, 1))
    before = predict(scan, Counted(0.0), Tiling(64))
    kept = before.data.copy()
    after = looked_at_again(scan, before, [place], exact, Tiling(64))
    assert np.array_equal(after.data, kept)
    assert exact.tiles == 0
