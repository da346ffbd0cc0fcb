"""Resampling: against SciPy's point interpolation and dense sums, and by its symmetries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from brainmets.concurrency import THREADS
from brainmets.errors import GridMismatchError, VolumeError
from brainmets.preprocess import resample as module
from brainmets.preprocess.resample import resample, resample_like, resampled_grid
from brainmets.volume import Grid, Volume, apply
from phantoms import axes_of, make_grid, rotation, world
from strategies import axis_orders, grids, shapes, spacings, volumes

few = settings(max_examples=40, deadline=None)


def centre_of(grid):
    return apply(grid.affine, (np.asarray(grid.shape) - 1) / 2)


def point_sampled(volume, grid):
    """Slow reference: SciPy, voxel by voxel, nearest beyond the outermost centres."""
    index = apply(np.linalg.inv(volume.grid.affine), world(grid))
    return ndimage.map_coordinates(
        volume.data.astype(float), np.moveaxis(index, -1, 0), order=1, mode="nearest"
    )


def triangle_averaged(values, step, n_out):
    """Slow reference for one axis: a loop over output voxels and source voxels."""
    n_in = len(values)
    result = []
    for j in range(n_out):
        x = min(max((j - (n_out - 1) / 2) * step + (n_in - 1) / 2, 0), n_in - 1)
        weights = [max(0, 1 - abs(x - i) / max(step, 1)) for i in range(n_in)]
        result.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
    return result


@few
@given(grids(), st.floats(0.3, 8))
def test_the_field_of_view_is_covered_about_the_same_centre(grid, spacing):
    new = resampled_grid(grid, spacing)
    extent = np.multiply(grid.shape, grid.spacing_mm)
    covered = np.multiply(new.shape, spacing)
    assert np.allclose(new.spacing_mm, spacing)
    assert (covered >= extent - 1.01e-3 * spacing).all()
    assert (covered < np.maximum(extent, 0) + spacing).all()
    assert np.allclose(centre_of(new), centre_of(grid), atol=1e-9)
    assert np.allclose(  # directions stay
        new.affine[:3, :3] / new.spacing_mm, grid.affine[:3, :3] / grid.spacing_mm, atol=1e-12
    )


def test_one_voxel_is_the_least():
    assert resampled_grid(make_grid((2, 3, 4), 1.0), 100).shape == (1, 1, 1)


def test_own_spacing_keeps_grid_and_values_and_returns_a_copy():
    grid = make_grid((5, 6, 7), (0.833, 1.1, 2.0), axes=rotation(17, (1, 2, 3)))
    volume = Volume(np.random.default_rng(0).random(grid.shape, np.float32), grid)
    same = resample(volume, grid.spacing_mm)
    assert same.grid == grid
    assert np.array_equal(same.data, volume.data)
    assert not np.shares_memory(same.data, volume.data)


@few
@given(volumes(), st.tuples(*[st.floats(0.4, 1)] * 3))
def test_finer_spacing_is_linear_interpolation(volume, ratio):
    fine = resample(volume, tuple(np.multiply(volume.grid.spacing_mm, ratio)))
    assert np.allclose(fine.data, point_sampled(volume, fine.grid), atol=0.02)  # of 1100


@few
@given(st.integers(1, 40), st.floats(0.3, 9), st.integers(0, 99))
def test_coarser_spacing_averages_under_a_triangle(n, step, seed):
    values = np.random.default_rng(seed).random(n)
    line = Volume(values.reshape(n, 1, 1), make_grid((n, 1, 1), 1.0))
    got = resample(line, (step, 1.0, 1.0))
    assert np.allclose(
        got.data.ravel(), triangle_averaged(values, step, got.grid.shape[0]), atol=3e-6
    )


@few
@given(grids(largest=8), spacings(0.5, 9), st.integers(-1000, 1000))
def test_constant_in_constant_out(grid, spacing, value):
    constant = Volume(np.full(grid.shape, value, np.int16), grid)
    assert np.allclose(resample(constant, spacing).data, value, rtol=4e-7, atol=0)


@few
@given(grids(largest=8), spacings(0.5, 9), st.integers(-9, 12))
def test_weights_add_up_to_exactly_1(grid, spacing, power):
    constant = Volume(np.full(grid.shape, 2.0**power), grid)  # no rounding hides a difference
    assert (resample(constant, spacing).data == 2.0**power).all()


@few
@given(volumes(), spacings(0.5, 9), st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_a_mirrored_image_gives_the_mirrored_result_bit_for_bit(volume, spacing, mirrored):
    mirror = tuple(slice(None, None, -1 if m else 1) for m in mirrored)
    there = resample(volume, spacing).data[mirror]
    assert np.array_equal(resample(volume.with_data(volume.data[mirror]), spacing).data, there)


@few
@given(volumes(), spacings(0.5, 9))
def test_memory_layout_does_not_matter_and_the_input_is_left_alone(volume, spacing):
    before = volume.data.copy()
    in_c = resample(volume, spacing)
    in_fortran = resample(volume.with_data(np.asfortranarray(volume.data)), spacing)
    assert np.array_equal(in_c.data, in_fortran.data)
    assert np.array_equal(volume.data, before)
    assert in_c.data.dtype == np.float32
    assert in_c.data.flags.c_contiguous
    assert in_fortran.data.flags.c_contiguous


def test_a_large_image_crosses_block_borders_unharmed():
    shape = (300, 90, 40)
    volume = Volume(np.random.default_rng(1).random(shape, np.float32), make_grid(shape, 1.0))
    got = resample(volume, (0.8, 0.9, 1.0))
    assert np.allclose(got.data, point_sampled(volume, got.grid), atol=1e-5)


def test_what_is_finer_than_the_new_grid_is_averaged_away():
    checkers = (np.indices((24, 24, 24)).sum(axis=0) % 2).astype(np.float32)
    coarse = resample(Volume(checkers, make_grid((24, 24, 24), 1.0)), 4.0)
    assert np.abs(coarse.data - 0.5).max() < 0.01


def test_a_mask_gives_the_share_inside():
    mask = np.zeros((8, 8, 8), bool)
    mask[:4] = True
    share = resample(Volume(mask, make_grid((8, 8, 8), 1.0)), 2.0).data
    assert share.min() == 0
    assert share.max() == 1
    assert np.isclose(share.mean(), 0.5)


@pytest.mark.parametrize("spacing", [0.0, -1.0, np.nan, np.inf, (1.0, 0.0, 1.0)])
def test_a_spacing_that_is_no_length_is_refused(spacing):
    with pytest.raises(VolumeError, match="spacing"):
        resample(Volume(np.zeros((2, 2, 2)), make_grid((2, 2, 2), 1.0)), spacing)


# resample_like


@few
@given(volumes(), shapes(2, 15), spacings(0.4, 9), st.data())
def test_onto_another_grid_is_point_sampling_and_0_outside(volume, shape, spacing, data):
    axes = volume.grid.affine[:3, :3] / volume.grid.spacing_mm
    shift = np.array([data.draw(st.floats(-10, 10)) for _ in range(3)])
    target = make_grid(shape, spacing, axes=axes, centre_ras_mm=centre_of(volume.grid) + shift)
    index = apply(np.linalg.inv(volume.grid.affine), world(target))
    margin = np.minimum(index + 0.5, np.asarray(volume.grid.shape) - 0.5 - index).min(axis=-1)
    got = resample_like(volume, target)
    sure = np.abs(margin) > 1e-4
    expected = np.where(margin > 0, point_sampled(volume, target), 0)
    assert np.allclose(got.data[sure], expected[sure], atol=0.05)  # of 1100
    assert got.grid is target


@few
@given(axis_orders(), shapes(2, 9))
def test_onto_itself_changes_nothing(axes, shape):
    grid = make_grid(shape, (0.7, 1.3, 4.0), axes=rotation(31, (1, 1, 0)) @ axes)
    data = np.random.default_rng(3).random(shape, np.float32)
    assert np.allclose(resample_like(Volume(data, grid), grid).data, data, atol=1e-6)


def test_mirrored_axes_are_followed():
    grid = make_grid((4, 5, 6), 1.0)
    data = np.random.default_rng(3).random(grid.shape, np.float32)
    mirrored = make_grid((4, 5, 6), 1.0, axes=axes_of("LPI"))
    assert np.allclose(
        resample_like(Volume(data, grid), mirrored).data, data[::-1, ::-1, ::-1], atol=1e-6
    )


@pytest.mark.parametrize("axes", [rotation(2), axes_of("ARS")], ids=["tilted", "permuted"])
def test_axes_that_are_not_parallel_are_refused(axes):
    volume = Volume(np.zeros((20, 20, 20)), make_grid((20, 20, 20), 1.0))
    with pytest.raises(GridMismatchError, match="axes"):
        resample_like(volume, make_grid((20, 20, 20), 1.0, axes=axes))


def test_another_frame_of_reference_is_refused():
    one = make_grid((3, 3, 3), 1.0, frame_of_reference="2.25.1")
    other = Grid(one.shape, one.affine, "2.25.2")
    with pytest.raises(GridMismatchError, match="reference"):
        resample_like(Volume(np.zeros(one.shape), one), other)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_bytes(count, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_VOXELS", 500)  # many blocks
    data = np.random.default_rng(0).random((21, 34, 27), np.float32)
    scan = Volume(data, make_grid(data.shape, 1.0))
    monkeypatch.setenv(THREADS, "1")
    expected = resample(scan, 0.7).data
    monkeypatch.setenv(THREADS, str(count))
    np.testing.assert_array_equal(resample(scan, 0.7).data, expected)
