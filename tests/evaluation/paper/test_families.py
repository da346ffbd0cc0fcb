import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from brainmets.errors import ConfigError
from brainmets.evaluation.paper.families import (
    benjamini_hochberg,
    detectable_delta,
    detectable_difference,
    holm,
)

P = st.lists(st.floats(0, 1), min_size=1, max_size=20)


@given(P)
def test_adjusted_p_are_those_of_statsmodels(p):
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1])


@given(P)
def test_a_test_that_was_not_made_counts_for_nothing(p):
    for adjust in (holm, benjamini_hochberg):
        found = adjust([math.nan, *p, math.nan])
        assert np.isnan(found[[0, -1]]).all()
        assert found[1:-1] == pytest.approx(adjust(p))
    assert np.isnan(benjamini_hochberg([math.nan])).all()


def test_no_p_lies_outside_0_to_1():
    with pytest.raises(ConfigError, match="0 to 1"):
        holm([0.1, 1.1])


def test_a_detectable_delta_is_detected_as_often_as_said():
    """By simulation at 40 and 60 patients, shifted normals."""
    delta = detectable_delta(40, 60)
    shift = math.sqrt(2) * stats.norm.ppf((delta + 1) / 2)
    rng = np.random.default_rng(3)
    first, second = rng.normal(shift, 1, (40, 1500)), rng.normal(0, 1, (60, 1500))
    share = (stats.mannwhitneyu(first, second).pvalue < 0.05).mean()
    assert share == pytest.approx(0.8, abs=0.05)
    assert math.isnan(detectable_delta(0, 5))


def test_a_detectable_difference_is_statsmodels():
    found = detectable_difference(7.0, 200)
    assert found == pytest.approx(
        7 * TTestPower().solve_power(nobs=200, alpha=0.05, power=0.8), rel=0.01
    )
    assert math.isnan(detectable_difference(7.0, 1))
