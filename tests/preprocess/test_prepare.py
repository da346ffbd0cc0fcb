"""There and back: from the scanner's grid to the network's, and to the same voxels again."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from brainmets.config import Recipe
from brainmets.errors import GridMismatchError, VolumeError
from brainmets.preprocess.prepare import bounding_box, grown, prepare, restore
from brainmets.volume import Volume, apply
from phantoms import Ball, axes_of, make_grid, make_head, rotation, within, world
from strategies import AXIS_ORDERS, axis_orders, masks, rotations

few = settings(max_examples=25, deadline=None)
RECIPE = Recipe(spacing_mm=4.0, brain_margin_mm=4.0)
SMALL = {"brain_radius_mm": (40.0, 50.0, 38.0)}


def small_grid(axes=None, shape=(34, 40, 30), spacing_mm=(3.5, 3.5, 4.5)):
    return make_grid(shape, spacing_mm, axes=axes, centre_ras_mm=(3, -5, 8))


# prepare


def test_the_network_sees_scores_in_ras_order_at_the_recipe_s_spacing():
    head = make_head(small_grid(axes_of("PSL")), **SMALL)
    seen = prepare(head.scan, head.brain, RECIPE)
    assert nib.aff2axcodes(seen.volume.grid.affine) == ("R", "A", "S")
    assert np.allclose(seen.volume.grid.spacing_mm, 4)
    assert seen.volume.data.dtype == np.float32
    assert seen.volume.data.flags.c_contiguous
    inside = seen.volume.data[seen.brain.data]
    assert abs(inside.mean()) < 1e-5
    assert abs(inside.std() - 1) < 1e-5
    assert (seen.volume.data[~seen.brain.data] == 0).all()
    assert seen.source is head.scan.grid


@pytest.mark.parametrize("order", range(0, 48, 5))
def test_the_scanner_s_axis_order_does_not_matter(order):
    head = make_head(small_grid(), [Ball((10, 5, 5), 9)], **SMALL)
    turned = AXIS_ORDERS[order]
    axes = tuple(int(i) for i in np.abs(turned).argmax(axis=0))
    flips = tuple(bool(turned[:, i].sum() < 0) for i in range(3))
    data = head.scan.data.transpose(axes)[tuple(slice(None, None, -1 if f else 1) for f in flips)]
    brain = head.brain.data.transpose(axes)[tuple(slice(None, None, -1 if f else 1) for f in flips)]
    grid = small_grid(
        turned, np.array((34, 40, 30))[list(axes)], np.array((3.5, 3.5, 4.5))[list(axes)]
    )
    one = prepare(head.scan, head.brain, RECIPE)
    other = prepare(Volume(data, grid), Volume(brain, grid), RECIPE)
    assert other.volume.grid == one.volume.grid
    assert np.array_equal(other.volume.data, one.volume.data)
    assert other.box == one.box


@few
@given(rotations(40), axis_orders())
def test_every_brain_voxel_lies_in_the_box_and_is_seen(tilt, axes):
    """All but a voxel that sticks out alone, where the prepared voxels are larger than it."""
    head = make_head(small_grid(tilt @ axes), **SMALL)
    seen = prepare(head.scan, head.brain, RECIPE)
    index = apply(np.linalg.inv(seen.brain.grid.affine), world(head.brain.grid)[head.brain.data])
    nearest = np.rint(index).astype(int)
    body = ndimage.binary_opening(head.brain.data)[head.brain.data]
    assert seen.brain.data[tuple(nearest[body].T)].all()
    assert seen.brain.data[tuple(nearest.T)].mean() > 0.999
    outside = seen.brain.data.copy()
    outside[seen.box] = False
    assert not outside.any()


def test_a_brain_that_fills_the_field_of_view_is_kept_whole():
    grid = small_grid()
    scan = Volume(np.random.default_rng(0).random(grid.shape), grid)
    seen = prepare(scan, scan.with_data(np.ones(grid.shape, bool)), RECIPE)
    assert seen.brain.data.all()


def test_the_margin_is_added_unless_the_scan_has_no_skull():
    head = make_head(small_grid(), **SMALL)
    tight = prepare(head.scan, head.brain, RECIPE, grow=False).brain.data
    wide = prepare(head.scan, head.brain, RECIPE).brain.data
    assert (wide >= tight).all()
    assert np.array_equal(wide, ndimage.distance_transform_edt(~tight, 4.0) <= 4.0 + 1e-6)


def test_inputs_are_left_alone():
    head = make_head(small_grid(), **SMALL)
    scan, brain = head.scan.data.copy(), head.brain.data.copy()
    first = prepare(head.scan, head.brain, RECIPE)
    second = prepare(head.scan, head.brain, RECIPE)
    assert np.array_equal(head.scan.data, scan)
    assert np.array_equal(head.brain.data, brain)
    assert np.array_equal(first.volume.data, second.volume.data)


def test_an_empty_brain_is_refused():
    head = make_head(small_grid(), **SMALL)
    with pytest.raises(VolumeError, match="mask is empty"):
        prepare(head.scan, head.brain.with_data(np.zeros_like(head.brain.data)), RECIPE)


def test_a_tiny_brain_is_refused():
    head = make_head(small_grid(), **SMALL)
    tiny = within(head.brain.grid, (0, 0, 0), 15)
    with pytest.raises(VolumeError, match=r"mL .* expected at least 1000 voxels"):
        prepare(head.scan, head.brain.with_data(tiny), RECIPE)


@pytest.mark.parametrize("value", [0, 1, 100.3, 4095])
def test_a_constant_scan_is_refused(value):
    head = make_head(small_grid(rotation(20, (1, 2, 3))), **SMALL)
    scan = head.scan.with_data(np.full(head.scan.grid.shape, value, np.float32))
    with pytest.raises(VolumeError, match="expected an image"):
        prepare(scan, head.brain, RECIPE)


def test_a_mask_of_another_scan_is_refused():
    head = make_head(small_grid(), **SMALL)
    other = make_head(small_grid(rotation(3)), **SMALL)
    with pytest.raises(GridMismatchError, match="brain mask"):
        prepare(head.scan, other.brain, RECIPE)


# restore


@few
@given(rotations(40), axis_orders())
def test_probabilities_come_back_to_the_place_they_belong_to(tilt, axes):
    grid = small_grid(tilt @ axes)
    head = make_head(grid, **SMALL)
    seen = prepare(head.scan, head.brain, RECIPE)
    ramp = 0.5 + world(seen.volume.grid) @ np.array([1, 2, 3]) / 1000  # linear: kept exactly
    back = restore(seen.volume.with_data((ramp).astype(np.float32)), seen)
    expected = 0.5 + world(grid) @ np.array([1, 2, 3]) / 1000
    inside = head.brain.data
    assert back.grid is grid
    assert np.allclose(back.data[inside], expected[inside], atol=2e-5)


@few
@given(rotations(40), axis_orders(), st.integers(0, 99))
def test_restoring_is_point_sampling_of_the_whole_field(tilt, axes, seed):
    grid = small_grid(tilt @ axes, (30, 30, 20), (4, 4, 5))
    head = make_head(grid, brain_radius_mm=(35, 40, 30))
    seen = prepare(head.scan, head.brain, RECIPE)
    noise = np.random.default_rng(seed).random(seen.volume.grid.shape, np.float32)
    probability = np.where(seen.brain.data, noise, 0).astype(np.float32)
    index = apply(np.linalg.inv(seen.volume.grid.affine), world(grid))
    expected = ndimage.map_coordinates(
        probability, np.moveaxis(index, -1, 0), order=1, mode="nearest"
    )
    back = restore(seen.volume.with_data(probability), seen)
    assert np.allclose(back.data, expected, atol=1e-5)


def test_a_thin_lesion_keeps_its_probability_on_thick_slices():
    grid = make_grid((60, 60, 12), (2, 2, 10))
    head = make_head(grid, brain_radius_mm=(40, 45, 38))
    seen = prepare(head.scan, head.brain, Recipe(spacing_mm=2.0))
    slice_z = world(grid)[0, 0, 6, 2]
    thin = within(seen.volume.grid, (0, 0, slice_z), 3).astype(np.float32)
    assert restore(seen.volume.with_data(thin), seen).data.max() == 1


def test_nothing_appears_outside_the_brain_s_box():
    head = make_head(small_grid(), **SMALL)
    seen = prepare(head.scan, head.brain, RECIPE)
    back = restore(seen.volume.with_data(seen.brain.data.astype(np.float32)), seen)
    far = ndimage.distance_transform_edt(~head.brain.data, head.brain.grid.spacing_mm) > 20
    assert back.data[head.brain.data].min() > 0.5
    assert back.data[far].max() == 0


def test_probabilities_of_another_grid_are_refused():
    head = make_head(small_grid(), **SMALL)
    seen = prepare(head.scan, head.brain, RECIPE)
    with pytest.raises(GridMismatchError, match="probabilities"):
        restore(head.scan, seen)


# bounding_box, grown


@few
@given(masks(empty=False))
def test_the_bounding_box_is_the_one_of_scipy(mask):
    assert bounding_box(mask.data) == ndimage.find_objects(mask.data.astype(int))[0]


def test_an_empty_mask_has_no_bounding_box():
    with pytest.raises(VolumeError, match="empty"):
        bounding_box(np.zeros((2, 3, 4), bool))


@few
@given(masks(largest=20), st.floats(0, 10))
def test_growing_is_a_threshold_of_the_distance(mask, margin):
    spacing = mask.grid.spacing_mm
    got = grown(mask, margin).data
    if not mask.data.any():
        assert not got.any()
        return
    distance = ndimage.distance_transform_edt(~mask.data, spacing)
    sure = np.abs(distance - margin) > 1e-3
    assert np.array_equal(got[sure], (distance <= margin)[sure])
    assert (got >= mask.data).all()


def test_growing_leaves_its_input_alone():
    data = np.zeros((7, 7, 7), bool)
    data[3, 3, 3] = True
    mask = Volume(data, make_grid((7, 7, 7), 1.0))
    assert grown(mask, 0).data.sum() == 1
    assert grown(mask, 1).data.sum() == 7
    assert data.sum() == 1
