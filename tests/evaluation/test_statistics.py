"""Bootstrap intervals: scipy's where patients have one value, and as wide as they claim to be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from brainmets.errors import ConfigError
from brainmets.evaluation.statistics import bootstrap, weighted_mean, weighted_median


@pytest.mark.parametrize("method", ["percentile", "BCa"])
@pytest.mark.parametrize(("name", "plain"), [("mean", np.mean), ("median", np.median)])
def test_with_one_value_a_patient_intervals_are_scipys(method, name, plain):
    values = np.random.default_rng(3).exponential(size=24)
    got = bootstrap(values, np.random.default_rng(5), statistic=name, method=method, resamples=999)
    oracle = stats.bootstrap(
        (values,), plain, n_resamples=999, method=method, rng=np.random.default_rng(5)
    ).confidence_interval
    assert (got.low, got.high) == pytest.approx((oracle.low, oracle.high), abs=1e-9)
    assert (got.values, got.excluded, got.patients, got.reason) == (24, 0, 24, None)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 4)), min_size=1, max_size=12).filter(
        lambda rows: any(times for _, times in rows)
    )
)
def test_weights_are_repetitions(rows):
    values, times = (np.array(column, float) for column in zip(*rows, strict=True))
    repeated = np.repeat(values, times.astype(int))
    assert weighted_mean(values, times) == pytest.approx(repeated.mean())
    assert weighted_median(values, times) == np.median(repeated)
    both = weighted_median(values, np.stack([times, times + 1]))
    assert both[1] == np.median(np.repeat(values, times.astype(int) + 1))


def test_values_of_one_patient_are_drawn_together():
    """Ten equal values of each patient are no more evidence than one."""
    single = np.random.default_rng(1).normal(size=12)
    one = bootstrap(single, np.random.default_rng(2), resamples=500)
    ten = bootstrap(
        np.repeat(single, 10),
        np.random.default_rng(2),
        patients=[f"p{i}" for i in range(12) for _ in range(10)],
        resamples=500,
    )
    apart = bootstrap(np.repeat(single, 10), np.random.default_rng(2), resamples=500)
    assert (ten.low, ten.high) == pytest.approx((one.low, one.high))
    assert (ten.values, ten.patients) == (120, 12)
    assert apart.high - apart.low < 0.5 * (ten.high - ten.low)


def test_undefined_values_are_left_out_and_counted():
    values = [0.1, np.nan, 0.4, 0.9, np.nan, 0.3]
    got = bootstrap(values, np.random.default_rng(0), resamples=200)
    alone = bootstrap([0.1, 0.4, 0.9, 0.3], np.random.default_rng(0), resamples=200)
    assert (got.low, got.high) == (alone.low, alone.high)
    assert (got.values, got.excluded, got.patients) == (4, 2, 4)


@pytest.mark.parametrize(
    ("values", "patients", "reason"),
    [
        ([], None, "fewer than two patients"),
        ([np.nan, np.nan], None, "fewer than two patients"),
        ([0.5], None, "fewer than two patients"),
        ([0.5, 0.7, 0.9], "aaa", "fewer than two patients"),
        ([0.5, 0.5, 0.5], None, "equal in all resamples"),
        ([0.2, 0.4, 0.2, 0.4], "aabb", "equal in all resamples"),
    ],
)
@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_degenerate_samples_have_no_interval_and_a_reason(values, patients, reason, statistic):
    got = bootstrap(
        values, np.random.default_rng(0), patients=patients, statistic=statistic, resamples=100
    )
    assert np.isnan([got.low, got.high]).all()
    assert got.reason == reason


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_intervals_cover_the_truth_about_as_often_as_they_say(method):
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(200):
        effect = rng.normal(size=20)  # patients with two scans each
        values = np.repeat(effect, 2) + 0.5 * rng.normal(size=40)
        got = bootstrap(
            values, rng, patients=np.repeat(np.arange(20), 2), method=method, resamples=300
        )
        hits += got.low <= 0 <= got.high
    assert 0.86 <= hits / 200 <= 0.98  # 95 %, less some for 20 patients


def test_the_same_seed_gives_the_same_interval():
    one, other = (bootstrap([1, 2, 4, 8], np.random.default_rng(4), resamples=50) for _ in range(2))
    assert one == other


def test_patients_that_do_not_fit_and_unknown_statistics_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="expected one for each"):
        bootstrap([1, 2, 3], rng, patients="ab")
    with pytest.raises(ConfigError, match="mode"):
        bootstrap([1, 2, 3], rng, statistic="mode")
