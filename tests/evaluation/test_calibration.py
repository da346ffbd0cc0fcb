import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from brainmets.errors import GridMismatchError
from brainmets.evaluation.calibration import expected_error, reliability
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
