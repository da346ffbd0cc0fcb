"""Grids and axis orders, against nibabel and by their invariants."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel import affines, orientations

from brainmets.errors import GridMismatchError, VolumeError
from brainmets.volume import (
    AxisOrder,
    Grid,
    Volume,
    apply,
    nearest_ras_order,
    reorient,
    require_same_grid,
    spacing_of,
    to_nearest_ras,
)
from phantoms import axes_of, make_grid, rotation, world
from strategies import AXIS_ORDERS, grids, volumes

calm = settings(deadline=None)  # a busy machine is no failure

# Grid


@calm
@given(grids())
def test_spacing_is_nibabel_s_voxel_size(grid):
    assert np.allclose(grid.spacing_mm, affines.voxel_sizes(grid.affine))
    assert spacing_of(grid.affine) == grid.spacing_mm


@calm
@given(grids())
def test_apply_is_nibabel_s(grid):
    index = np.moveaxis(np.indices(grid.shape), 0, -1)
    assert np.allclose(apply(grid.affine, index), affines.apply_affine(grid.affine, index))


@calm
@given(grids(), st.floats(-0.5, 0.5))
def test_voxel_volume_holds_for_sheared_grids_too(grid, shear):
    affine = grid.affine.copy()
    affine[:3, 2] += shear * affine[:3, 0]
    assert np.isclose(Grid(grid.shape, affine).voxel_volume_mm3, np.prod(grid.spacing_mm))


@calm
@given(grids())
def test_corners_are_the_outermost_voxel_centres(grid):
    everywhere = world(grid)
    corners = {tuple(np.round(c, 6)) for c in grid.corners_ras_mm}
    picked = everywhere[:: max(1, grid.shape[0] - 1), :: grid.shape[1] - 1, :: grid.shape[2] - 1]
    assert corners == {tuple(c) for c in np.round(picked.reshape(-1, 3), 6)}


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 0), (4, 4, -1), (2, 2, 2, 2)])
def test_a_shape_that_is_no_volume_is_refused(shape):
    with pytest.raises(VolumeError, match="shape"):
        Grid(shape, np.eye(4))


@pytest.mark.parametrize(
    ("affine", "reason"),
    [
        (np.eye(3), "finite 4×4"),
        (np.full((4, 4), np.nan), "finite 4×4"),
        (np.diag([1, 1, np.inf, 1]), "finite 4×4"),
        (np.diag([1, 0, 1, 1]), "zero"),
        (np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "singular"),
        (np.diag([1, 1, 1, 2]), "last row"),
        (np.eye(4) + np.eye(4)[[1, 2, 3, 0]] * [[0], [0], [0], [1]], "last row"),
    ],
)
def test_an_affine_that_no_scan_can_have_is_refused(affine, reason):
    with pytest.raises(VolumeError, match=reason):
        Grid((2, 2, 2), affine)


def test_a_grid_keeps_its_affine_to_itself():
    affine = np.eye(4)
    grid = Grid((2, 2, 2), affine)
    affine[0, 3] = 5
    assert grid.affine[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 3] = 5


@calm
@given(grids(smallest=3), st.sampled_from([0.04, 0.06]), st.integers(0, 7))
def test_grids_agree_within_a_twentieth_of_a_voxel(grid, share, direction):
    offset = np.array([direction & 1, direction & 2, direction & 4], float)
    offset *= share * min(grid.spacing_mm) / max(np.linalg.norm(offset), 1)
    moved = grid.affine.copy()
    moved[:3, 3] += offset
    same = share < 0.05 or not direction
    assert grid.agrees(Grid(grid.shape, moved)) is same
    assert (grid == Grid(grid.shape, moved)) is same


def test_a_small_tilt_counts_at_the_far_corner():
    near, far = make_grid((3, 3, 3), 1.0), make_grid((300, 300, 3), 1.0)
    assert near.agrees(make_grid((3, 3, 3), 1.0, axes=rotation(0.05)))
    assert not far.agrees(make_grid((300, 300, 3), 1.0, axes=rotation(0.05)))


def test_frames_of_reference_must_not_differ_where_both_are_known():
    one, other, unknown = (make_grid(frame_of_reference=f) for f in ("2.25.1", "2.25.2", None))
    assert not one.agrees(other)
    assert one.agrees(unknown)
    assert unknown.agrees(other)
    assert one != "2.25.1"
    with pytest.raises(GridMismatchError, match="frames of reference differ"):
        require_same_grid(one, other, "mask and scan")
    require_same_grid(one, unknown, "mask and scan")


def test_a_mismatch_names_the_pair_and_both_grids():
    with pytest.raises(GridMismatchError, match=r"mask and scan .* 4×4×4 .* against 5×4×4"):
        require_same_grid(make_grid((4, 4, 4), 1), make_grid((5, 4, 4), 1), "mask and scan")


def test_an_array_of_another_shape_is_refused():
    with pytest.raises(VolumeError, match=r"\(2, 2, 3\) on a grid of \(2, 2, 2\)"):
        Volume(np.zeros((2, 2, 3)), make_grid((2, 2, 2)))


# Axis order


@calm
@given(volumes())
def test_nearest_ras_is_nibabel_s_closest_canonical(volume):
    turned = to_nearest_ras(volume)
    theirs = nib.as_closest_canonical(nib.Nifti1Image(volume.data, volume.grid.affine))
    if orientations.aff2axcodes(turned.grid.affine) != ("R", "A", "S"):
        return  # beyond 45 degrees the two rules for "nearest" part
    assert np.array_equal(turned.data, np.asarray(theirs.dataobj))
    assert np.allclose(turned.grid.affine, theirs.affine, atol=1e-9)


@pytest.mark.parametrize("axes", AXIS_ORDERS)
def test_all_48_axis_orders_become_ras(axes):
    grid = make_grid((3, 4, 5), (1, 2, 3), axes=rotation(10, (1, 2, 3)) @ axes)
    turned = to_nearest_ras(Volume(np.zeros(grid.shape), grid))
    assert orientations.aff2axcodes(turned.grid.affine) == ("R", "A", "S")


@calm
@given(volumes())
def test_turning_moves_no_voxel_in_the_world(volume):
    turned = to_nearest_ras(volume)
    by_place = dict(
        zip(
            map(tuple, np.round(world(volume.grid).reshape(-1, 3), 4) + 0.0),
            volume.data.ravel(),
            strict=True,
        )
    )
    places = map(tuple, np.round(world(turned.grid).reshape(-1, 3), 4) + 0.0)
    found = [by_place.get(place) for place in places]
    known = [f is not None for f in found]
    assert np.mean(known) > 0.9  # the rest is rounding of the key
    assert all(f == v for f, v in zip(found, turned.data.ravel(), strict=True) if f is not None)
    assert np.shares_memory(turned.data, volume.data)


@calm
@given(st.permutations(range(3)), st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_backward_undoes_forward(axes, flips):
    order = AxisOrder(tuple(axes), flips)
    data = np.arange(60).reshape(3, 4, 5)
    assert np.array_equal(order.backward(order.forward(data)), data)
    assert np.array_equal(order.forward(order.backward(data)), data)


def test_ras_stays_as_it_is():
    order = nearest_ras_order(make_grid())
    assert order == AxisOrder((0, 1, 2), (False, False, False))


def test_the_frame_of_reference_travels():
    grid = make_grid((2, 3, 4), axes=axes_of("SPL"), frame_of_reference="2.25.7")
    volume = Volume(np.zeros(grid.shape), grid)
    assert reorient(volume, nearest_ras_order(grid)).grid.frame_of_reference == "2.25.7"
