import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from brainmets.errors import ConfigError
from brainmets.evaluation.paper.auc import (
    NO_VARIANCE,
    ONE_CLASS,
    TOO_FEW,
    Area,
    area,
    delong,
    hanley_mcneil,
    paper_auc_test,
)


def slow_delong(scores, truth):
    """Areas and their covariance from DeLong's formulas, pair by pair."""
    areas, tens, ones = [], [], []
    for score in scores:
        x = [s for s, t in zip(score, truth, strict=True) if t]
        y = [s for s, t in zip(score, truth, strict=True) if not t]
        psi = np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in y] for a in x])
        areas.append(psi.mean())
        tens.append(psi.mean(axis=1))
        ones.append(psi.mean(axis=0))
    return areas, np.cov(tens) / len(tens[0]) + np.cov(ones) / len(ones[0])


@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), min_size=6, max_size=40
    )
)
def test_areas_and_their_difference_are_delongs(rows):
    one, two, truth = (np.array(column) for column in zip(*rows, strict=True))
    if min(truth.sum(), (~truth).sum()) < 2:
        return
    areas, covariance = slow_delong([one, two], truth)
    found = area(one, truth)
    assert found.value == pytest.approx(roc_auc_score(truth, one))
    assert found.variance == pytest.approx(covariance[0, 0], abs=1e-12)
    test = delong(one, two, truth)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    if variance < 1e-12:
        assert test.reason == NO_VARIANCE
    else:
        assert test.difference == pytest.approx(areas[0] - areas[1])
        assert test.z == pytest.approx((areas[0] - areas[1]) / math.sqrt(variance))


def test_one_class_has_no_area():
    assert area([1, 2], [1, 1]).reason == ONE_CLASS
    assert delong([1, 2], [1, 3], [0, 0]).reason == ONE_CLASS
    assert delong([1, 2, 3], [1, 3, 2], [0, 0, 1]).reason == TOO_FEW
    with pytest.raises(ConfigError, match="NaN"):
        area([1, math.nan], [0, 1])
    with pytest.raises(ConfigError, match="one for each"):
        area([1, 2, 3], [0, 1])


def test_an_area_is_procs_to_the_last_digit():
    """Robin et al. 2011 (BMC Bioinformatics 12:77): WFNS grade against outcome.

    Patients by grade I to V, of good and of poor outcome, after Turck et al. 2010 (Intensive Care
    Med 36:107); area and variance are those that pROC gives.
    """
    counts = {"good": (37, 20, 3, 8, 4), "poor": (2, 12, 1, 8, 18)}
    grades, poor = (
        np.concatenate([np.repeat(column, by) for by in counts.values()])
        for column in (np.arange(5), np.zeros(5))
    )
    poor[sum(counts["good"]) :] = 1
    found = area(grades, poor)
    assert found.value == pytest.approx(0.823678861788618, abs=1e-12)
    assert found.variance == pytest.approx(0.00146991470882363, abs=1e-14)


def test_hanley_and_mcneils_worked_example():
    """Their paper: 58 normal and 51 abnormal, area 0.893, standard error 0.032."""
    assert math.sqrt(hanley_mcneil(Area(0.893, math.nan, 51, 58))) == pytest.approx(0.032, abs=1e-3)


def test_pooled_voxels_reject_far_more_often_than_the_level():
    """Patients alike, their voxels correlated: the paper's test rejects all the same."""
    rng = np.random.default_rng(1)
    rejected = {"pooled": 0, "patients": 0}
    for _ in range(60):
        groups, per_patient = [], []
        for _group in range(2):
            shift = rng.normal(1.5, 0.5, 20)
            values = np.concatenate(
                [np.r_[rng.normal(s, 1, 50), rng.normal(0, 1, 50)] for s in shift]
            )
            truth = np.tile(np.r_[np.ones(50), np.zeros(50)], 20)
            groups.append(area(values, truth))
            per_patient.append([area(v, truth[:100]).value for v in np.split(values, 20)])
        rejected["pooled"] += paper_auc_test(*groups).p < 0.05
        pairs = itertools.starmap(np.subtract, [per_patient])
        spread = math.sqrt(sum(np.var(v, ddof=1) / 20 for v in per_patient))
        rejected["patients"] += abs(np.mean(next(pairs))) / spread > 2.02
    assert rejected["pooled"] >= 15
    assert rejected["patients"] <= 8


def test_a_missing_area_has_no_test():
    assert paper_auc_test(area([1, 2], [1, 1]), area([1, 2], [0, 1])).reason == ONE_CLASS
