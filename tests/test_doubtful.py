"""Findings that hang on a hair are known as such; all others stand whatever fewer bits do."""

import numpy as np
import pytest
from scipy import ndimage

from brainmets.config import DecisionRule
from brainmets.lesions import DOUBT, doubtful, find
from brainmets.volume import Grid, Volume

RULE = DecisionRule(0.3, 0.7, 20.0)


def volume(data, spacing=1.0):
    return Volume(np.asarray(data, np.float32), Grid(data.shape, np.diag([spacing] * 3 + [1.0])))


def ball(top, at=(15, 15, 15), radius=4.0, shape=(32, 32, 32), width=0.2):
    """A probability that falls off across a ball's surface."""
    distance = np.sqrt(
        sum((axis - c) ** 2 for axis, c in zip(np.ogrid[:32, :32, :32], at, strict=True))
    )
    return top / (1 + np.exp((distance - radius) / width)) * np.ones(shape)


def moved(probability, by):
    odds = np.log(probability / (1 - probability)) + by
    return 1 / (1 + np.exp(-odds))


def test_what_is_clear_is_beyond_doubt():
    assert doubtful(volume(ball(0.99)), RULE) == ()
    assert doubtful(volume(ball(0.2)), RULE) == ()
    assert doubtful(volume(np.zeros((8, 8, 8))), RULE) == ()


@pytest.mark.parametrize("top", [0.69, 0.71])
def test_a_finding_near_the_upper_threshold_is_in_doubt(top):
    (place,) = doubtful(volume(ball(top)), RULE)
    assert all(side.start <= 15 < side.stop for side in place)


def test_a_finding_near_the_smallest_volume_is_in_doubt():
    assert doubtful(volume(ball(0.99, radius=5.0)), RULE) == ()
    between = 0
    for radius in np.linspace(1.2, 1.8, 61):
        probability = ball(0.99, radius=radius)
        most, least = (np.count_nonzero(moved(probability, by) >= 0.3) for by in (DOUBT, -DOUBT))
        if most >= 20 > least:
            between += 1
            assert len(doubtful(volume(probability), RULE)) == 1
    assert between


def test_two_findings_that_may_be_one_are_in_doubt():
    apart = np.maximum(ball(0.99, (9, 15, 15)), ball(0.99, (21, 15, 15)))
    assert doubtful(volume(apart), RULE) == ()
    bridge = apart.copy()
    bridge[9:22, 15, 15] = np.maximum(bridge[9:22, 15, 15], 0.31)
    assert len(doubtful(volume(bridge), RULE)) == 1


def test_a_finding_whose_outline_hardly_holds_is_in_doubt():
    flat = ball(0.99, radius=2.5)
    flat[8:23, 8:23, 8:23] = np.maximum(flat[8:23, 8:23, 8:23], 0.31)
    assert len(doubtful(volume(flat), RULE)) == 1


@pytest.mark.parametrize("seed", range(20))
def test_whatever_changes_less_than_doubt_changes_no_other_finding(seed):
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal((32, 32, 32)), 2.5)
    exact = 1 / (1 + np.exp(-(smooth / smooth.std() * 2.5 - 3)))
    noise = rng.uniform(-0.9 * DOUBT, 0.9 * DOUBT, exact.shape)
    rough = moved(exact, noise).astype(np.float32)
    for place in doubtful(volume(rough), RULE):
        wide = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in place)
        rough[wide] = exact[wide]
    one, other = (find(volume(p), RULE).data for p in (exact, rough))
    assert one.max() == other.max()
    pairs = np.unique(np.stack([one, other])[:, (one > 0) & (other > 0)], axis=1)
    assert pairs.shape[1] == one.max()
