"""Whether probabilities mean what they say: of voxels at 0.7, seven of ten should be lesion.

Voxels are counted in ten bins of probability, so that counts of patients add up.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from brainmets.volume import Volume, require_same_grid

FloatArray = npt.NDArray[np.float64]
BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Voxels by bin of their probability; bin i holds i / 10 ≤ p < (i + 1) / 10, the last 1 too.

    Attributes:
        voxels: how many, shape (10,).
        lesion: how many of them are lesion.
        probability: the sum of their probabilities.
    """

    voxels: tuple[float, ...]
    lesion: tuple[float, ...]
    probability: tuple[float, ...]


def reliability(truth: Volume, probability: Volume) -> Reliability:
    """Count the voxels of one scan.

    Args:
        truth: bool mask of the target.
        probability: of each voxel, 0 to 1.

    Raises:
        GridMismatchError: the images do not lie on the same voxels.
    """
    require_same_grid(truth.grid, probability.grid, "reference and probability")
    said = np.asarray(probability.data, np.float32).ravel()
    there = np.asarray(truth.data, bool).ravel()
    place = np.minimum((said * BINS).astype(np.int64), BINS - 1)
    counts = (
        np.bincount(place, minlength=BINS),
        np.bincount(place[there], minlength=BINS),
        np.bincount(place, said, minlength=BINS),
    )
    voxels, lesion, total = (tuple(map(float, row)) for row in counts)
    return Reliability(voxels, lesion, total)


def expected_error(voxels: FloatArray, lesion: FloatArray, probability: FloatArray) -> FloatArray:
    """Expected calibration error: mean of |share − mean probability| over voxels.

    Guo et al. 2017 (arXiv:1706.04599), equation 3. Voxels below 0.1 are left out: nearly all
    of a head lies there, and would make any model look calibrated.

    Args:
        voxels: shape (..., 10).
        lesion: the same.
        probability: the same.

    Returns:
        Shape (...); NaN where no voxel reaches 0.1.
    """
    apart = np.abs(lesion - probability)[..., 1:].sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(apart / voxels[..., 1:].sum(axis=-1))
