"""Blending: constant in, constant out; agreement with MONAI's sliding window."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from scipy import special

from brainmets.config import Tiling
from brainmets.errors import RunError
from brainmets.inference.predict import calibrated, predict
from brainmets.inference.tiles import gaussian_weights
from brainmets.preprocess.prepare import Prepared, bounding_box
from brainmets.volume import Grid, Volume
from phantoms import make_grid

few = settings(max_examples=30, deadline=None)


def prepared(shape, box=None, seed=0):
    """Noise on a grid, whose brain is a box (default: all of it)."""
    grid = make_grid(shape, 1.0)
    brain = np.zeros(shape, bool)
    brain[box or ...] = True
    data = np.random.default_rng(seed).random(shape, np.float32)
    return Prepared(Volume(data, grid), Volume(brain, grid), bounding_box(brain), grid)


@st.composite
def scans(draw, largest=70):
    """Volumes smaller and larger than a tile; boxes that may touch the borders."""
    shape, box = [], []
    for _ in range(3):
        n = draw(st.integers(4, largest))
        start = draw(st.integers(0, n - 1))
        shape.append(n)
        box.append(slice(start, draw(st.integers(start + 1, n))))
    return prepared(tuple(shape), tuple(box))


def identity(tile):
    return tile


@few
@given(scans(), st.sampled_from([0, 0.1, 0.25, 0.5, 0.75]), st.floats(0, 1))
def test_constant_in_constant_out(scan, overlap, value):
    out = predict(scan, lambda tile: np.full_like(tile, value), Tiling(32, overlap))
    assert np.abs(out.data[scan.brain.data] - value).max() <= 1e-6
    assert (out.data[~scan.brain.data] == 0).all()


@few
@given(scans(), st.integers(0, 90_000), st.floats(0, 1))
def test_constant_in_constant_out_with_tiles_of_any_shape(scan, largest, value):
    tiling = Tiling(32, 0.25)
    out = predict(scan, lambda tile: np.full_like(tile, value), tiling, largest_vox=largest)
    assert np.abs(out.data[scan.brain.data] - value).max() <= 1e-6
    seen = predict(scan, identity, tiling, largest_vox=largest)
    assert np.allclose(seen.data, np.where(scan.brain.data, scan.volume.data, 0), atol=1e-6)


def test_constant_in_constant_out_at_the_largest_overlap():
    scan = prepared((45, 40, 36), (slice(0, 45), slice(3, 40), slice(1, 35)))
    out = predict(scan, lambda tile: np.full_like(tile, 1 / 3), Tiling(32, 0.9))
    assert np.abs(out.data[scan.brain.data] - 1 / 3).max() <= 1e-6


@few
@given(scans(), st.sampled_from([0, 0.25, 0.5]))
def test_what_the_engine_sees_is_the_scan(scan, overlap):
    out = predict(scan, identity, Tiling(32, overlap))
    expected = np.where(scan.brain.data, scan.volume.data, 0)
    assert np.allclose(out.data, expected, atol=1e-6)
    assert out.grid is scan.volume.grid
    assert out.data.dtype == np.float32


def test_disagreeing_tiles_are_averaged_as_by_a_slow_sum():
    scan = prepared((40, 70, 33), seed=4)
    answers, weights = {}, gaussian_weights((32, 32, 32)).astype(float)

    def engine(tile):
        answers[len(answers)] = np.random.default_rng(len(answers)).random(tile.shape, np.float32)
        return answers[len(answers) - 1]

    tiling = Tiling(32, 0.5)
    out = predict(scan, engine, tiling)
    total, norm, number = np.zeros((2, 40, 70, 33)), 0, 0
    total, norm = total[0], total[1]
    for x in (0, 8):
        for y in (0, 12, 25, 38):
            for z in (0, 1):
                where = (slice(x, x + 32), slice(y, y + 32), slice(z, z + 32))
                total[where] += weights * answers[number]
                norm[where] += weights
                number += 1
    assert number == len(answers)
    assert np.allclose(out.data, total / norm, atol=1e-5)


def test_agrees_with_monai_where_the_tiles_are_the_same():
    scan = prepared((64, 48, 32), seed=5)
    kernel = torch.as_tensor(np.random.default_rng(0).random((1, 1, 3, 3, 3), np.float32) / 27)

    def network(x):
        return torch.sigmoid(torch.nn.functional.conv3d(x, kernel, padding=1))

    def engine(tile):
        return network(torch.from_numpy(tile)[None, None])[0, 0].numpy()

    theirs = sliding_window_inference(  # its own weights stop falling at 1e-3
        torch.from_numpy(scan.volume.data)[None, None],
        (32, 32, 32),
        sw_batch_size=1,
        predictor=network,
        overlap=0.5,
        roi_weight_map=torch.from_numpy(gaussian_weights((32, 32, 32))),
    )
    ours = predict(scan, engine, Tiling(32, 0.5))
    assert np.allclose(ours.data, theirs[0, 0].numpy(), atol=1e-5)


def test_tiles_without_brain_are_not_run():
    scan = prepared((100, 32, 32))
    brain = np.zeros((100, 32, 32), bool)
    brain[:5], brain[-5:] = True, True
    seen = []
    steps = []
    two_ends = Prepared(
        scan.volume, Volume(brain, scan.brain.grid), bounding_box(brain), scan.source
    )
    predict(
        two_ends,
        lambda tile: seen.append(tile) or tile,
        Tiling(32, 0),
        progress=lambda done, of: steps.append((done, of)),
    )
    assert len(seen) == 2  # of 4
    assert steps == [(1, 2), (2, 2)]


def test_the_engine_may_change_its_tile():
    scan = prepared((40, 40, 40))
    before = scan.volume.data.copy()

    def engine(tile):
        tile[:] = 0.5
        return tile

    predict(scan, engine, Tiling(32))
    assert np.array_equal(scan.volume.data, before)


def test_the_same_scan_twice_gives_the_same_answer():
    scan = prepared((40, 50, 20))
    one, two = (predict(scan, identity, Tiling(32)).data for _ in range(2))
    assert np.array_equal(one, two)


@pytest.mark.parametrize(
    "engine",
    [
        lambda tile: tile * np.float32("nan"),
        lambda tile: np.full_like(tile, np.inf),
        lambda tile: tile[:-1],
        lambda tile: tile[None],
    ],
    ids=["nan", "inf", "too small", "too many axes"],
)
def test_an_engine_that_breaks_its_word_is_reported(engine):
    with pytest.raises(RunError, match="the network returned"):
        predict(prepared((32, 32, 32)), engine, Tiling(32))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_calibrated_probabilities_have_their_log_odds_divided(temperature):
    said = np.linspace(0, 1, 1001, dtype=np.float32)[:, None, None]
    volume = Volume(said.copy(), Grid((1001, 1, 1), np.eye(4)))
    found = calibrated(volume, temperature).data
    assert np.shares_memory(found, volume.data)  # no second array as large as the scan
    inner = said[1:-1]
    expected = special.expit(special.logit(inner.astype(float)) / temperature)
    np.testing.assert_allclose(found[1:-1], expected, rtol=1e-5)
    assert (found[0], found[500], found[-1]) == (0, 0.5, 1)
    assert (np.diff(found[:, 0, 0]) >= 0).all()
    assert found.dtype == np.float32


def test_the_least_probability_makes_no_noise():
    least = np.array([1e-38, 1e-10, 1e-5], np.float32)[:, None, None]
    found = calibrated(Volume(least, Grid((3, 1, 1), np.eye(4))), 0.25).data[:, 0, 0]
    assert (np.diff(found) >= 0).all()
    assert (found >= 0).all()
