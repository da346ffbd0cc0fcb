import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from brainmets.errors import ConfigError
from brainmets.evaluation.paper.comparisons import (
    ALL_EQUAL,
    NO_DIFFERENCE,
    NO_DISCORDANT,
    NO_PAIRS,
    TOO_SMALL,
    compare_detections,
    compare_groups,
    compare_pairs,
    saving,
)

VALUES = st.lists(st.integers(0, 9).map(float), min_size=2, max_size=25)


def rng():
    return np.random.default_rng(5)


@given(VALUES, VALUES)
def test_two_groups_are_scipys_and_cliffs(a, b):
    found = compare_groups({"a": a, "b": b}, rng())
    if len(set(a + b)) == 1:
        assert found.reason == ALL_EQUAL
        return
    assert found.p == stats.mannwhitneyu(a, b).pvalue
    cliff = np.sign(np.subtract.outer(a, b)).mean()
    assert found.size == pytest.approx(cliff)
    assert -1 <= found.low <= found.size <= found.high <= 1
    assert found.low < found.high
    swapped = compare_groups({"b": b, "a": a}, rng())
    assert swapped.size == pytest.approx(-found.size)


def test_newcombes_interval_solves_his_equation():
    """The ends are where the distance to the estimate is 1.96 standard errors."""
    first, second = np.arange(20) + 7.5, np.arange(30)
    found = compare_groups({"a": first, "b": second}, rng())
    share, k = (found.size + 1) / 2, 24
    for end in ((found.low + 1) / 2, (found.high + 1) / 2):
        spread = 1 + k * (1 - end) / (2 - end) + k * end / (1 + end)
        error = math.sqrt(end * (1 - end) * spread / 600)
        assert abs(share - end) == pytest.approx(1.959964 * error)


def test_what_is_undefined_is_left_out_and_counted():
    nan = math.nan
    found = compare_groups({"a": [1, 2, 3, nan], "b": [4, 5, nan, nan]}, rng())
    assert found.sizes == {"a": 3, "b": 2}
    assert found.excluded == 3
    assert found.few
    assert compare_groups({"a": [1, 2, 3], "b": [4, nan]}, rng()).reason == TOO_SMALL
    with pytest.raises(ConfigError, match="two or more"):
        compare_groups({"a": [1, 2]}, rng())


def test_three_groups_are_kruskal_and_wallis():
    draws = np.random.default_rng(1)
    groups = {n: draws.normal(i, 1, 40) for i, n in enumerate("abc")}
    found = compare_groups(groups, rng(), resamples=200)
    h, p = stats.kruskal(*groups.values())
    assert (found.statistic, found.p) == (h, p)
    assert found.size == pytest.approx(h / 119)
    assert found.low < found.size < found.high
    assert compare_groups({"a": [1, 1], "b": [1, 1], "c": [1, 1]}, rng()).reason == ALL_EQUAL


def test_pairs_are_wilcoxons_with_the_mean_difference():
    draws = np.random.default_rng(2)
    manual = draws.gamma(9, 12, 80)
    model = manual * 0.6 + draws.normal(0, 3, 80)
    found = compare_pairs(manual, model, rng())
    assert found.p == stats.wilcoxon(manual, model).pvalue
    oracle = stats.bootstrap((manual - model,), np.mean, rng=7).confidence_interval
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), rel=0.02)
    assert found.size == pytest.approx(np.mean(manual - model))
    assert compare_pairs([1, 2], [1, 2], rng()).reason == NO_DIFFERENCE
    assert compare_pairs([1, math.nan], [1, 2], rng()).reason == NO_PAIRS
    with pytest.raises(ConfigError, match="pairs"):
        compare_pairs([1], [1, 2], rng())


def test_saving_is_of_the_whole():
    found = saving([100, 300], [50, 150], rng())
    assert found.share == 0.5
    draws = np.random.default_rng(2)
    manual, model = draws.gamma(9, 12, 90), draws.gamma(9, 7, 90)
    found = saving(manual, model, rng())
    oracle = stats.bootstrap(
        (manual, model), lambda a, b: 1 - np.sum(b) / np.sum(a), paired=True, vectorized=False,
        n_resamples=4000, rng=3,
    ).confidence_interval  # fmt: skip
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), abs=0.01)
    assert saving([1], [1], rng()).reason == NO_PAIRS


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_detections_are_mcnemars_exact(rows):
    one, two = (np.array(column) for column in zip(*rows, strict=True))
    found = compare_detections(one, two)
    table = [[(one & two).sum(), (one & ~two).sum()], [(two & ~one).sum(), (~one & ~two).sum()]]
    if not table[0][1] + table[1][0]:
        assert found.reason == NO_DISCORDANT
        return
    assert found.p == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert found.size == pytest.approx(one.mean() - two.mean())
    assert found.low <= found.size <= found.high


def test_the_interval_of_paired_shares_covers():
    """By simulation: 90 patients, shares 0.85 and 0.75 that go together."""
    draws, inside = np.random.default_rng(4), 0
    for _ in range(400):
        hard = draws.random(90)
        one, two = hard < 0.85, (hard + draws.normal(0, 0.1, 90)) < 0.75
        found = compare_detections(one, two)
        inside += found.low <= TRUE_DIFFERENCE <= found.high
    assert 0.92 <= inside / 400 <= 0.99


TRUE_DIFFERENCE = 0.85 - float(
    np.mean(
        np.random.default_rng(9).random(10**6) + np.random.default_rng(8).normal(0, 0.1, 10**6)
        < 0.75
    )
)
