"""Contrast agent is told by thin bright things deep in the brain, and by nothing else."""

import math

import numpy as np
import pytest

from brainmets.errors import GridMismatchError
from brainmets.preprocess.enhancement import SEEN, _averaged, enhancement
from brainmets.simulate.anatomy import embedded_head
from brainmets.simulate.examination import simulate
from brainmets.volume import AxisOrder, Volume, reorient
from phantoms import make_grid, make_head, within

GRID = make_grid((64, 76, 60), 2.0)
LARGE = (52.0, 64.0, 50.0)


def head_with(vessels=0.0):
    """A head; a net of vessels 4 mm wide in its brain."""
    head = make_head(GRID, brain_radius_mm=LARGE)
    x, y, z = np.indices(GRID.shape)
    net = ((x % 14 < 2) & (y % 14 < 2) | (y % 14 < 2) & (z % 14 < 2)) & (head.brain.data > 0)
    values = head.scan.data + vessels * net
    return Volume(values.astype(np.float32), GRID), head.brain


def test_bright_vessels_are_seen_and_dark_or_missing_ones_are_not():
    assert enhancement(*head_with(120)) >= SEEN
    for vessels in (0, 20, -40):
        assert enhancement(*head_with(vessels)) < SEEN


def test_what_is_bright_at_the_surface_does_not_count():
    scan, brain = head_with()
    rim = (brain.data > 0) & ~within(GRID, (0, 0, 0), np.subtract(LARGE, 6))
    rim &= np.indices(GRID.shape)[2] > 30
    bright = scan.with_data(np.where(rim, np.float32(300), scan.data))
    assert enhancement(bright, brain) < SEEN


def test_a_receive_field_is_not_taken_for_vessels():
    scan, brain = head_with()
    ramp = np.linspace(0.7, 1.3, GRID.shape[1])[None, :, None]
    assert enhancement(scan.with_data((scan.data * ramp).astype(np.float32)), brain) < SEEN


@pytest.mark.parametrize("vessels", [0, 120])
def test_the_scale_of_grey_values_does_not_count(vessels):
    scan, brain = head_with(vessels)
    other = scan.with_data(scan.data * 7 - 400)
    assert enhancement(other, brain) == pytest.approx(enhancement(scan, brain), rel=1e-4)


@pytest.mark.parametrize(
    "order", [AxisOrder((2, 0, 1), (True, False, True)), AxisOrder((1, 2, 0), (False, True, True))]
)
def test_the_order_of_the_axes_does_not_count(order):
    scan, brain = head_with(120)
    turned = enhancement(reorient(scan, order), reorient(brain, order))
    assert turned == enhancement(scan, brain)


def test_a_small_or_empty_brain_gives_no_answer():
    head = make_head(make_grid((20, 20, 20), 2.0), brain_radius_mm=(12, 12, 12))
    assert math.isnan(enhancement(head.scan, head.brain))
    nothing = head.brain.with_data(np.zeros(head.brain.grid.shape, bool))
    assert math.isnan(enhancement(head.scan, nothing))


def test_images_that_do_not_lie_on_the_same_voxels_are_refused():
    scan, brain = head_with()
    elsewhere = Volume(brain.data, make_grid(GRID.shape, 2.0, centre_ras_mm=(5, 0, 0)))
    with pytest.raises(GridMismatchError, match="brain mask"):
        enhancement(scan, elsewhere)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 4])
def test_a_simulated_head_is_told_with_from_without(seed):
    head = embedded_head()
    for given in (True, False):
        made = simulate(head, np.random.default_rng(seed), lesions=0, contrast=given)
        assert (enhancement(made.scan, made.brain) >= SEEN) is given


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("times", [(1, 1, 1), (2, 3, 1), (3, 2, 4)])
def test_averaging_is_over_whole_blocks(times, order):
    data = np.asarray(np.random.default_rng(0).standard_normal((13, 12, 9)), np.float32, order)
    blocks = [n // t for n, t in zip(data.shape, times, strict=True)]
    cut = data[tuple(slice(n * t) for n, t in zip(blocks, times, strict=True))]
    sides = [side for pair in zip(blocks, times, strict=True) for side in pair]
    expected = cut.reshape(sides).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(_averaged(data, np.array(times)), expected, atol=1e-6)
