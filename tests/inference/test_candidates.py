"""Bright, compact places are found, the sharpest first, and ringed ones; vessels hardly count."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainmets.inference.candidates import APART_MM, candidates
from bright_places import SHAPE, ball, noise, scan_of


@pytest.mark.parametrize("diameter_mm", [3.0, 5.0, 8.0])
def test_a_ball_comes_before_a_vessel_and_a_sheet(diameter_mm):
    image = noise()
    image[ball((20, 30, 25), diameter_mm)] += 2
    image[40:43, 10:13, :] += 3  # a vessel
    image[:, 44:46, :] += 3  # dura
    places, scales = candidates(scan_of(image), 50)
    assert np.abs(places[0] - (20, 30, 25)).max() <= 1
    assert scales[0] in (0.8, 1.2, 1.8, 2.7)


def test_places_lie_in_the_brain_and_apart_from_each_other():
    brain = ball((30, 28, 26), 40)
    image = np.random.default_rng(1).standard_normal(SHAPE)
    places, scales = candidates(scan_of(image, brain), 400)
    assert len(places) == len(scales) > 50
    assert brain[tuple(places.T)].all()
    away = np.linalg.norm(places[:, None] - places[None], axis=2) + 99 * np.eye(len(places))
    assert away.min() > APART_MM


def test_no_more_than_were_asked_for_and_the_same_first():
    scan = scan_of(np.random.default_rng(2).standard_normal(SHAPE))
    many, few = candidates(scan, 100)[0], candidates(scan, 7)[0]
    assert len(few) == 7
    assert np.array_equal(many[:7], few)


def test_a_flat_scan_has_none():
    places, scales = candidates(scan_of(np.ones(SHAPE)), 10)
    assert places.shape == (0, 3)
    assert scales.shape == (0,)


@settings(max_examples=10, deadline=None)
@given(flips=st.tuples(*[st.booleans()] * 3), seed=st.integers(0, 99))
def test_a_mirrored_scan_has_mirrored_places(flips, seed):
    image = noise(seed)
    for centre in ((15, 20, 30), (40, 35, 20), (28, 12, 40)):
        image[ball(centre, 5)] += 2
    turn = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    one = candidates(scan_of(image), 3)[0]
    other = candidates(scan_of(image[turn]), 3)[0]
    back = np.where(flips, np.array(SHAPE) - 1 - other, other)
    assert sorted(map(tuple, one.tolist())) == sorted(map(tuple, back.tolist()))


def test_sizes_are_millimetres():
    """The same ball in finer voxels lies in the same place."""
    shape = (100, 96, 90)
    image = noise(3, shape)
    image[ball((50, 40, 45), 5, 0.6, shape)] += 2
    places, _ = candidates(scan_of(image, spacing=0.6), 5)
    assert np.abs(places[0] - (50, 40, 45)).max() <= 1


def test_ringed_places_come_after_bright_ones_and_apart_from_them():
    image = noise(4)
    image[ball((20, 20, 20), 5)] += 2
    image[ball((40, 35, 30), 13)] = 2
    image[ball((40, 35, 30), 9)] = -1
    scan = scan_of(image)
    bright, _ = candidates(scan, 20)
    places, scales = candidates(scan, 20, 5)
    assert np.array_equal(places[:20], bright)
    assert 20 < len(places) == len(scales) <= 25
    assert np.abs(places[20] - (40, 35, 30)).max() <= 3
    away = np.linalg.norm(places[20:, None] - bright[None], axis=2)
    assert away.min() > APART_MM


def test_a_scan_may_have_ringed_places_alone():
    image = np.zeros(SHAPE)
    image[ball((30, 28, 26), 12) & ~ball((30, 28, 26), 9)] = 2
    scan = scan_of(image)
    places, _ = candidates(scan, 1, 3)
    assert np.abs(places[-1] - (30, 28, 26)).max() <= 3


def test_a_weak_ball_in_quiet_tissue_comes_before_what_is_sharper_among_vessels():
    image = noise()
    restless = np.random.default_rng(8).standard_normal(SHAPE)
    image[30:] += restless[30:]
    image[ball((14, 28, 26), 7)] += 0.4
    sharpest = candidates(scan_of(image), 10)[0]
    assert np.abs(sharpest - (14, 28, 26)).max(1).min() <= 1


def test_a_ball_of_14_mm_is_seen_in_its_middle():
    image = noise()
    image[ball((28, 28, 26), 14)] += 1
    places, scales = candidates(scan_of(image), 1)
    assert np.abs(places[0] - (28, 28, 26)).max() <= 2
    assert scales[0] == 4.0
