"""Tiles cover the box, overlap as asked, and are as few as that allows."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.utils import compute_importance_map

from brainmets.config import Tiling
from brainmets.inference.tiles import clip, gaussian_weights, plan, read_tile

calm = settings(deadline=None)  # a busy machine is no failure


@st.composite
def tasks(draw):
    """A volume's shape, a box within it, and a tiling."""
    shape, box = [], []
    for _ in range(3):
        n = draw(st.integers(1, 150))
        start = draw(st.integers(0, n - 1))
        shape.append(n)
        box.append(slice(start, draw(st.integers(start + 1, n))))
    tiling = Tiling(draw(st.sampled_from([32, 64])), draw(st.floats(0, 0.9)))
    return tuple(shape), tuple(box), tiling


def starts(tiles, axis):
    return sorted({tile[axis].start for tile in tiles})


@calm
@given(tasks())
def test_every_voxel_of_the_box_lies_in_a_tile(task):
    shape, box, tiling = task
    tiles = plan(*task)
    for axis in range(3):
        seen = np.zeros(shape[axis], bool)
        for tile in tiles:
            assert tile[axis].stop - tile[axis].start == tiling.tile_vox
            seen[max(0, tile[axis].start) : tile[axis].stop] = True
        assert seen[box[axis]].all()
    assert len(tiles) == np.prod([len(starts(tiles, axis)) for axis in range(3)])


@calm
@given(tasks())
def test_neighbours_overlap_as_asked_and_evenly(task):
    _, _, tiling = task
    for axis in range(3):
        steps = [b - a for a, b in pairwise(starts(plan(*task), axis))]
        assert all(
            tiling.tile_vox - step >= tiling.overlap * tiling.tile_vox - 1e-6 for step in steps
        )
        assert not steps or max(steps) - min(steps) <= 1


@calm
@given(tasks())
def test_no_fewer_tiles_would_do(task):
    _, box, tiling = task
    step = int(tiling.tile_vox * (1 - tiling.overlap) + 1e-6)
    for axis in range(3):
        count = len(starts(plan(*task), axis))
        reach = tiling.tile_vox + (count - 2) * step  # of one tile less, as far apart as allowed
        assert count == 1 or reach < box[axis].stop - box[axis].start


@calm
@given(tasks())
def test_a_tile_sticks_out_only_of_a_volume_that_is_smaller(task):
    shape, _, tiling = task
    for tile in plan(*task):
        for axis in range(3):
            if shape[axis] >= tiling.tile_vox:
                assert tile[axis].start >= 0
                assert tile[axis].stop <= shape[axis]
            else:
                assert tile[axis].start <= 0
                assert tile[axis].stop >= shape[axis]


ADULT = (220, 230, 190), (slice(20, 190), slice(10, 215), slice(5, 175)), Tiling(128, 0.25)


def test_an_adult_brain_takes_one_tile_or_eight_cubes():
    assert len(plan(*ADULT)) == 8
    (whole,) = plan(*ADULT, largest_vox=192 * 224 * 192)
    assert [side.stop - side.start for side in whole] == [192, 224, 192]


def arithmetic(tiles):
    return sum(np.prod([side.stop - side.start for side in tile]) for tile in tiles)


@calm
@given(tasks(), st.integers(0, 200**3))
def test_larger_tiles_cover_and_overlap_alike_and_never_cost_more(task, largest):
    shape, box, tiling = task
    cubes, tiles = plan(*task), plan(*task, largest)
    assert arithmetic(tiles) <= arithmetic(cubes)
    shared = tiling.tile_vox - max(1, int(tiling.tile_vox * (1 - tiling.overlap) + 1e-6))
    sides = [side.stop - side.start for side in tiles[0]]
    assert all(side % 32 == 0 for side in sides)
    assert np.prod(sides) <= max(largest, tiling.tile_vox**3)
    for axis in range(3):
        assert {tile[axis].stop - tile[axis].start for tile in tiles} == {sides[axis]}
        assert sides[axis] >= min(tiling.tile_vox, box[axis].stop - box[axis].start)
        seen = np.zeros(shape[axis], bool)
        for tile in tiles:
            seen[max(0, tile[axis].start) : tile[axis].stop] = True
        assert seen[box[axis]].all()
        steps = [b - a for a, b in pairwise(starts(tiles, axis))]
        assert all(sides[axis] - step >= shared or step == 1 for step in steps)


@pytest.mark.parametrize("limit", [128**3, 3_000_000, 5_000_000, 8_300_000])
def test_more_memory_never_means_more_arithmetic(limit):
    less, more = plan(*ADULT, limit), plan(*ADULT, limit + 2_000_000)
    assert arithmetic(more) <= arithmetic(less)


@calm
@given(tasks(), st.integers(0, 99))
def test_reading_pads_with_0(task, seed):
    shape, _, tiling = task
    data = np.random.default_rng(seed).random(shape, np.float32)
    side = tiling.tile_vox
    padded = np.pad(data, side)
    for tile in plan(*task)[:3]:
        got = read_tile(data, tile)
        there = tuple(slice(s.start + side, s.stop + side) for s in tile)
        assert np.array_equal(got, padded[there])
        assert not np.shares_memory(got, data)
        assert got.flags.c_contiguous


def test_clip_names_the_same_voxels_twice():
    tile, box = (slice(-4, 28),) * 3, (slice(2, 10), slice(0, 99), slice(20, 21))
    there, here = clip(tile, box)
    assert there == (slice(2, 10), slice(0, 28), slice(20, 21))
    assert here == (slice(6, 14), slice(4, 32), slice(24, 25))


@pytest.mark.parametrize("side", [32, 64, 128])
def test_weights_are_a_gaussian_symmetric_and_nowhere_0(side):
    weights = gaussian_weights((side, side, side))
    line = np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (side / 8)) ** 2)
    assert np.allclose(weights, np.einsum("i,j,k", line, line, line), rtol=1e-6)
    assert weights.dtype == np.float32
    assert weights.min() > 1e-11
    for axis in range(3):
        assert np.array_equal(weights, np.flip(weights, axis))


def test_weights_are_monai_s():
    theirs = compute_importance_map((32, 32, 32), mode="gaussian", sigma_scale=0.125).numpy()
    ours = gaussian_weights((32, 32, 32))
    assert np.allclose(ours, theirs / theirs.max() * ours.max(), atol=1e-3)
