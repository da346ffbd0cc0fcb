"""Areas under curves against scikit-learn, to the last tie."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics

from brainmets.errors import GridMismatchError, InputError
from brainmets.evaluation.curves import FULL_SCALE, curve_scores
from brainmets.volume import Grid, Volume

SHAPE = (4, 4, 3)
quick = settings(max_examples=50, deadline=None)
masks = hnp.arrays(np.bool_, SHAPE)
probabilities = st.one_of(
    hnp.arrays(np.float32, SHAPE, elements=st.floats(0, 1, width=32)),
    hnp.arrays(np.float64, SHAPE, elements=st.floats(0, 1)),
    hnp.arrays(np.float32, SHAPE, elements=st.sampled_from([0.0, 0.25, 0.25000003, 1.0])),
    hnp.arrays(np.uint16, SHAPE),
    hnp.arrays(np.uint16, SHAPE).map(lambda c: c.astype(np.float32) * np.float32(1 / FULL_SCALE)),
    hnp.arrays(np.float16, SHAPE, elements=st.floats(0, 1, width=16)),
)


def volume(data, spacing=1.0):
    return Volume(np.asarray(data), Grid(np.shape(data), np.diag([spacing, 1, 1, 1.0])))


def values(reference, probability, **options):
    scores = curve_scores(volume(reference), volume(probability), **options)
    return scores["roc_auc"].value, scores["pr_auc"].value


@quick
@given(masks, probabilities)
def test_areas_are_scikit_learns(reference, probability):
    if reference.all() or not reference.any():
        return
    truth, found = reference.ravel(), probability.ravel().astype(np.float64)
    oracle = metrics.roc_auc_score(truth, found), metrics.average_precision_score(truth, found)
    assert values(reference, probability) == pytest.approx(oracle, abs=1e-12)


@quick
@given(masks, probabilities, masks)
def test_a_domain_leaves_out_what_lies_outside_it(reference, probability, domain):
    truth, found = reference[domain], probability[domain].astype(np.float64)
    if truth.all() or not truth.any():
        return
    oracle = metrics.roc_auc_score(truth, found), metrics.average_precision_score(truth, found)
    assert values(reference, probability, domain=volume(domain)) == pytest.approx(oracle)


def test_values_that_one_uint16_would_merge_are_kept_apart():
    probability = np.array([0.5, np.nextafter(np.float32(0.5), np.float32(1))], np.float32)
    assert values(np.array([[[0, 1]]]), probability[None, None]) == (1.0, 1.0)
    assert values(np.array([[[1, 0]]]), probability[None, None]) == (0.0, 0.5)


@pytest.mark.parametrize(
    ("reference", "domain", "reason"),
    [
        (0, 1, "the reference is empty within the domain"),
        (1, 1, "the reference fills the whole domain"),
        (1, 0, "the domain is empty"),
    ],
)
@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_one_class_alone_has_no_area(reference, domain, reason, kind):
    rng = np.random.default_rng(1)
    probability = rng.random(SHAPE) if kind is np.float32 else rng.integers(0, 9, SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = curve_scores(
            volume(np.full(SHAPE, reference)),
            volume(probability.astype(kind)),
            domain=volume(np.full(SHAPE, domain)),
        )
    assert {s.reason for s in scores.values()} == {reason}
    assert all(np.isnan(s.value) for s in scores.values())


@pytest.mark.parametrize("wrong", [-0.01, 1.01, np.nan, np.inf])
def test_what_is_no_probability_is_refused(wrong):
    probability = np.full(SHAPE, 0.5, np.float32)
    probability[0, 0, 0] = wrong
    with pytest.raises(InputError, match="expected 0 to 1"):
        values(np.ones(SHAPE), probability)
    with pytest.raises(InputError, match="floating point"):
        values(np.ones(SHAPE), np.ones(SHAPE, int))


def test_other_grids_are_refused():
    one, other = volume(np.ones(SHAPE)), volume(np.ones(SHAPE), 2.0)
    with pytest.raises(GridMismatchError):
        curve_scores(one, other)
    with pytest.raises(GridMismatchError):
        curve_scores(one, one, domain=other)
