"""Z-scores within the brain."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from brainmets.errors import GridMismatchError, VolumeError
from brainmets.preprocess.normalise import normalise
from brainmets.volume import Volume
from phantoms import make_grid
from strategies import masks, volumes

few = settings(max_examples=40, deadline=None)


@few
@given(st.data())
def test_scores_are_those_of_scipy_inside_and_0_outside(data):
    volume = data.draw(volumes())
    brain = data.draw(masks(volume.grid, empty=False))
    assume(np.ptp(volume.data[brain.data]) > 1)
    before = volume.data.copy()
    scores = normalise(volume, brain, 0)
    expected = stats.zscore(volume.data[brain.data].astype(float))
    assert np.allclose(scores.data[brain.data], expected, atol=1e-4)
    assert (scores.data[~brain.data] == 0).all()
    assert scores.data.dtype == np.float32
    assert np.array_equal(volume.data, before)


@few
@given(volumes(smallest=4), st.floats(0.01, 1000), st.floats(-1000, 1000))
def test_brightness_and_contrast_do_not_matter(volume, gain, offset):
    brain = volume.with_data(np.ones(volume.grid.shape, bool))
    other = volume.with_data(volume.data.astype(float) * gain + offset)
    one, two = normalise(volume, brain, 10).data, normalise(other, brain, 10).data
    assert np.allclose(one, two, atol=1e-3)


def test_scores_are_limited_where_a_limit_is_set():
    data = np.random.default_rng(0).standard_normal((8, 8, 8))
    data[0, 0, 0], data[1, 1, 1] = 1000, -1000
    volume = Volume(data, make_grid((8, 8, 8)))
    brain = volume.with_data(np.ones((8, 8, 8), bool))
    assert normalise(volume, brain, 5).data.max() == 5
    assert normalise(volume, brain, 5).data.min() == -5
    assert normalise(volume, brain, 0).data.max() > 15


def test_what_lies_outside_the_brain_does_not_matter():
    rng = np.random.default_rng(0)
    brain = np.zeros((9, 9, 9), bool)
    brain[2:7, 2:7, 2:7] = True
    one = rng.random((9, 9, 9))
    other = np.where(brain, one, 1e6)
    grid = make_grid((9, 9, 9))
    mask = Volume(brain, grid)
    assert np.array_equal(
        normalise(Volume(one, grid), mask, 0).data, normalise(Volume(other, grid), mask, 0).data
    )


@pytest.mark.parametrize("value", [0.0, 7.0, -1e6, 1e-9])
def test_a_constant_brain_is_refused(value):
    volume = Volume(np.full((4, 4, 4), value, np.float32), make_grid((4, 4, 4)))
    with pytest.raises(VolumeError, match="64 brain voxels have the value"):
        normalise(volume, volume.with_data(np.ones((4, 4, 4), bool)), 10)


def test_an_empty_mask_is_refused():
    volume = Volume(np.random.default_rng(0).random((4, 4, 4)), make_grid((4, 4, 4)))
    with pytest.raises(VolumeError, match="mask is empty"):
        normalise(volume, volume.with_data(np.zeros((4, 4, 4), bool)), 10)


def test_a_mask_of_another_scan_is_refused():
    volume = Volume(np.random.default_rng(0).random((4, 4, 4)), make_grid((4, 4, 4), 1.0))
    mask = Volume(np.ones((4, 4, 4), bool), make_grid((4, 4, 4), 1.5))
    with pytest.raises(GridMismatchError, match="brain mask"):
        normalise(volume, mask, 10)
