"""Patients against formulas written down another way, and published examples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from brainmets.errors import ConfigError
from brainmets.evaluation.patientwise import (
    Patient,
    any_metastasis,
    bland_altman,
    burden_agreement,
    count_agreement,
    icc_2_1,
)

quick = settings(max_examples=50, deadline=None)
people = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.floats(0, 9e3), st.floats(0, 9e3)),
    max_size=12,
)


def patients(rows):
    return [Patient(f"p{i}", *row) for i, row in enumerate(rows)]


@quick
@given(people)
def test_the_verdict_per_patient_is_scikit_learns(rows):
    got = any_metastasis(patients(rows))
    truth, said = [r[0] > 0 for r in rows], [r[1] > 0 for r in rows]
    inverse = [not t for t in truth], [not s for s in said]

    def oracle(score, *pair):
        return score(*pair, zero_division=np.nan) if rows else np.nan

    expected = {
        "patient_sensitivity": oracle(metrics.recall_score, truth, said),
        "patient_specificity": oracle(metrics.recall_score, *inverse),
        "patient_ppv": oracle(metrics.precision_score, truth, said),
        "patient_npv": oracle(metrics.precision_score, *inverse),
        "patient_accuracy": metrics.accuracy_score(truth, said) if rows else np.nan,
    }
    for name, value in expected.items():
        assert got[name].value == pytest.approx(value, nan_ok=True), name
        assert got[name].defined == (not np.isnan(value))


def test_icc_of_shrout_and_fleiss():
    """Their table 2 of six targets and four judges: ICC(2,1) = 0.29."""
    table = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    assert icc_2_1(table).value == pytest.approx(0.2898, abs=5e-5)


@quick
@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=2, max_size=20))
def test_icc_equals_the_formula_of_two_measurements(pairs):
    """Variances and covariance alone, as McGraw and Wong write the case k = 2."""
    x, y = np.array(pairs).T
    n = x.size
    cov = np.cov(x, y)
    between = cov[0, 0] + cov[1, 1] + 2 * cov[0, 1]  # 2 MSR
    error = cov[0, 0] + cov[1, 1] - 2 * cov[0, 1]  # 2 MSE
    raters = n * (x.mean() - y.mean()) ** 2  # 2 MSC
    whole = between + error + 2 * (raters - error) / n
    if whole > 1e-6:
        assert icc_2_1(pairs).value == pytest.approx((between - error) / whole, abs=1e-6)


def test_icc_of_equal_of_few_and_of_odd_ratings():
    assert icc_2_1([[1, 1], [2, 2], [5, 5]]).value == pytest.approx(1)
    assert icc_2_1([[3, 3], [3, 3]]).reason == "all measurements are equal"
    assert icc_2_1([[1, 2]]).reason == "fewer than two patients"
    assert icc_2_1([[1], [2]]).reason == "fewer than two raters"
    with pytest.raises(ConfigError):
        icc_2_1([1, 2, 3])
    shifted = icc_2_1([[1, 4], [2, 5], [5, 8]]).value
    assert shifted < 1  # absolute agreement: a constant shift costs


def test_limits_of_agreement_by_hand():
    got = bland_altman([1, 2, 3, 4], [2, 2, 5, 5])  # differences 1 0 2 1
    sd = np.sqrt(2 / 3)
    assert got.bias.value == 1
    assert got.sd.value == pytest.approx(sd)
    assert got.lower.value == pytest.approx(1 - 1.96 * sd)
    assert got.upper.value == pytest.approx(1 + 1.96 * sd)
    assert bland_altman([1], [3]).bias.value == 2
    assert bland_altman([1], [3]).upper.reason == "fewer than two patients"
    assert not bland_altman([], []).bias.defined


def test_counts_and_burden_by_hand():
    group = patients([(0, 0, 0, 0), (1, 2, 50, 70), (5, 2, 900, 880), (3, 3, 40, 41)])
    got = {k: s.value for k, s in count_agreement(group).items()}
    assert (got["count_equal"], got["count_within_one"]) == (0.5, 0.75)
    assert got["count_mean_absolute_difference"] == 1
    assert got["count_bias"] == pytest.approx(-0.5)
    burden = {k: s.value for k, s in burden_agreement(group).items()}
    assert burden["burden_bias_mm3"] == pytest.approx(1 / 4)
    assert burden["burden_icc"] == pytest.approx(0.9997, abs=3e-4)
    assert not any(s.defined for s in burden_agreement([]).values())
    assert not any(s.defined for s in count_agreement([]).values())


@pytest.mark.parametrize(
    "numbers", [(-1, 0, 0, 0), (0, 0, -0.5, 0), (0, 0, 0, np.nan), (0, 0, np.inf, 0)]
)
def test_impossible_patients_are_refused_by_name(numbers):
    with pytest.raises(ConfigError, match="patient p7"):
        Patient("p7", *numbers)
