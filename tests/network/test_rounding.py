"""Weights rounded together lose less where it counts, and stay whole numbers of 8 bits."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from brainmets.network.rounding import (
    EVERY,
    MOST_PLACES,
    kernels_met,
    places,
    rounded,
    to_bfloat16,
)


def alike(seed, count=400, size=54):
    """Values that lie side by side and are alike, as those that a kernel meets."""
    rng = np.random.default_rng(seed)
    return ndimage.gaussian_filter1d(rng.random((count, size)), 3, axis=1)


def loss(whole, rows, values):
    return ((values @ (whole - rows).T) ** 2).mean()


@pytest.mark.parametrize("seed", range(5))
def test_values_come_out_several_times_closer_than_with_each_weight_rounded_alone(seed):
    values = alike(seed)
    rows = np.random.default_rng(seed + 9).uniform(-127, 127, (8, values.shape[1]))
    whole = rounded(rows, values.T @ values)
    assert loss(whole, rows, values) < 0.1 * loss(np.rint(rows), rows, values)
    unseen = alike(seed + 100)
    assert loss(whole, rows, unseen) < 0.2 * loss(np.rint(rows), rows, unseen)


def test_numbers_are_whole_and_within_8_bits():
    values = alike(1)
    rows = np.random.default_rng(2).choice([-127.0, 126.6, 127.0, 0.4], (4, values.shape[1]))
    whole = rounded(rows, values.T @ values)
    assert np.array_equal(whole, np.rint(whole))
    assert np.abs(whole).max() <= 127


def test_weights_that_are_whole_stay():
    rows = np.random.default_rng(3).integers(-127, 128, (4, 54)).astype(float)
    assert np.array_equal(rounded(rows, alike(3).T @ alike(3)), rows)


@pytest.mark.parametrize("moments", [np.zeros((54, 54)), np.eye(54)])
def test_where_nothing_is_known_each_weight_is_rounded_by_itself(moments):
    rows = np.random.default_rng(4).uniform(-127, 127, (4, 54))
    assert np.array_equal(rounded(rows, moments), np.rint(rows))


def test_what_a_kernel_meets_makes_the_convolution():
    rng = np.random.default_rng(5)
    values = rng.random((2, 6, 7, 8)).astype(np.float32)
    kernel = rng.standard_normal((2, 3, 3, 3))
    where = np.unravel_index(np.arange(6 * 7 * 8), (6, 7, 8))
    found = kernels_met(values, where) @ kernel.ravel()
    expected = sum(
        ndimage.correlate(v.astype(float), k, mode="constant")
        for v, k in zip(values, kernel, strict=True)
    )
    np.testing.assert_allclose(found.reshape(6, 7, 8), expected, atol=1e-9)


def test_places_are_unsure_ones_and_a_few_others():
    probability = np.zeros((40, 40, 40), np.float32)
    assert len(places(probability)[0]) == -(-(40**3) // EVERY)
    probability[10:12, 10:12, 10:12] = 0.5
    where = set(zip(*(axis.tolist() for axis in places(probability)), strict=True))
    assert {(x, y, z) for x in (10, 11) for y in (10, 11) for z in (10, 11)} <= where
    assert (
        len(places(np.full((40, 40, 40), 0.5, np.float32))[0]) <= MOST_PLACES + 40**3 // EVERY + 1
    )


def nearest(kernel):
    return torch.from_numpy(kernel.astype(np.float32)).bfloat16().double().numpy()


def test_numbers_of_bfloat16_stay_and_others_become_one():
    kernel = np.random.default_rng(6).standard_normal((3, 4, 3, 3, 3))
    found = to_bfloat16(kernel)
    assert np.array_equal(nearest(found), found)
    assert np.array_equal(to_bfloat16(found), found)
    assert np.array_equal(to_bfloat16(kernel[:, :, :1, :1, :1]), nearest(kernel[:, :, :1, :1, :1]))


def test_a_kernel_in_bfloat16_gives_what_it_gave_of_values_that_are_alike():
    kernel = np.random.default_rng(7).standard_normal((8, 8, 3, 3, 3))
    off, usual = (
        np.abs((k - kernel).sum((2, 3, 4))).mean() for k in (to_bfloat16(kernel), nearest(kernel))
    )
    assert off < 0.1 * usual
    worst = np.abs(to_bfloat16(kernel) - kernel).max()
    assert worst < 3 * np.abs(nearest(kernel) - kernel).max()


def test_a_kernel_of_zeros_stays():
    assert not to_bfloat16(np.zeros((2, 2, 3, 3, 3))).any()
