import numpy as np
import pytest
from scipy import special
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from brainmets.errors import GridMismatchError
from brainmets.evaluation.calibration import (
    OddsCounts,
    count_odds,
    entropy,
    expected_error,
    fit_temperature,
    no_odds,
    reliability,
    reliability_at,
)
from brainmets.volume import Grid, Volume

GRID = Grid((12, 11, 10), np.eye(4))


def volumes(seed=0, power=1.0, order="C"):
    rng = np.random.default_rng(seed)
    said = np.asarray(rng.random(GRID.shape).astype(np.float32), order=order)
    truth = np.asarray(rng.random(GRID.shape) < said**power)
    return Volume(truth, GRID), Volume(said, GRID)


@pytest.mark.parametrize("order", ["C", "F"])
def test_bins_are_those_of_scikit_learn(order):
    truth, said = volumes(order=order)
    found = reliability(truth, said)
    share, mean = calibration_curve(truth.data.ravel(), said.data.ravel(), n_bins=10)
    assert np.divide(found.lesion, found.voxels) == pytest.approx(share)
    assert np.divide(found.probability, found.voxels) == pytest.approx(mean, rel=1e-5)
    assert sum(found.voxels) == said.data.size


def test_the_error_is_small_only_where_probabilities_mean_what_they_say():
    def error(power):
        found = reliability(*volumes(power=power))
        return float(
            expected_error(*map(np.array, (found.voxels, found.lesion, found.probability)))
        )

    assert error(1.0) < 0.04
    assert error(3.0) > 0.15


def test_no_voxel_from_a_tenth_on_is_no_error_but_nan():
    nothing = Volume(np.zeros(GRID.shape, np.float32), GRID)
    found = reliability(Volume(np.zeros(GRID.shape, bool), GRID), nothing)
    counts = map(np.array, (found.voxels, found.lesion, found.probability))
    assert np.isnan(expected_error(*counts))
    other = Grid((12, 11, 9), np.eye(4))
    with pytest.raises(GridMismatchError):
        reliability(Volume(np.zeros(other.shape, bool), other), nothing)


def overconfident(temperature, seed=0, shape=(60, 60, 60)):
    """Lesions drawn with the odds of a network whose log odds are too large by a factor."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(-1, 2, shape)
    grid = Grid(shape, np.eye(4))
    truth = rng.random(shape) < special.expit(odds)
    return Volume(truth, grid), Volume(special.expit(odds * temperature).astype(np.float32), grid)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_spoilt_the_odds_is_found(temperature):
    truth, said = overconfident(temperature)
    found = fit_temperature(count_odds(truth, said))
    assert found == pytest.approx(temperature, rel=0.03)


def test_the_temperature_is_that_of_a_logistic_regression():
    """Of the truth on the log odds, without intercept or penalty: its slope is 1 / T."""
    truth, said = overconfident(1.7, shape=(20, 20, 20))
    odds = special.logit(said.data.ravel().astype(float))[:, None]
    fit = LogisticRegression(C=np.inf, fit_intercept=False).fit(odds, truth.data.ravel())
    assert fit_temperature(count_odds(truth, said)) == pytest.approx(1 / fit.coef_[0, 0], rel=2e-3)


def test_a_temperature_brings_the_error_down_and_the_counts_are_kept():
    counts = count_odds(*overconfident(2.5))
    errors = []
    for temperature in (1.0, fit_temperature(counts)):
        found = reliability_at(counts, temperature)
        assert sum(found.voxels) == 60**3
        assert sum(found.lesion) == counts.lesion.sum()
        errors.append(expected_error(*map(np.array, vars(found).values())))
    assert errors[1] < 0.02 < errors[0]
    assert entropy(counts, fit_temperature(counts)) < entropy(counts, 1.0)


def test_counts_of_scans_add_up_and_are_those_of_the_ten_bins():
    (truth, said), (more, told) = overconfident(1.5, 1), overconfident(1.5, 2)
    both = count_odds(truth, said) + count_odds(more, told) + no_odds()
    assert both.lesion.sum() == truth.data.sum() + more.data.sum()
    one = reliability_at(count_odds(truth, said), 1.0)
    exact = reliability(truth, said)
    assert np.allclose(one.voxels, exact.voxels, rtol=0.02)
    assert np.allclose(one.probability, exact.probability, rtol=0.02)


def test_without_lesion_or_without_anything_else_nothing_is_changed():
    bins = no_odds().lesion
    assert fit_temperature(no_odds()) == 1.0
    assert fit_temperature(OddsCounts(bins + 1, bins)) == 1.0
    assert fit_temperature(OddsCounts(bins, bins + 1)) == 1.0


def test_voxels_outside_the_brain_do_not_count():
    truth, said = volumes()
    hidden = np.array(said.data)
    hidden[:6] = 0
    counts = count_odds(truth, said.with_data(hidden))
    assert counts.lesion.sum() + counts.other.sum() == hidden[6:].size
