"""Whether probabilities mean what they say: of voxels at 0.7, seven of ten should be lesion.

Voxels are counted in bins, so that counts of patients add up: in ten of probability to be
shown, in many of log odds to find the temperature that log odds are to be divided by.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from brainmets.volume import Volume, require_same_grid

FloatArray = npt.NDArray[np.float64]
BINS = 10
ODDS_STEP, MOST_ODDS = 0.02, 16.0
"""Bins of log odds; a probability of 1 lies in the last."""
TEMPERATURES = (0.25, 4.0)
"""Between these one is looked for."""


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


@dataclass(frozen=True)
class OddsCounts:
    """Voxels by the log odds of their probability, those of probability 0 left out.

    Attributes:
        lesion: of the target, shape (bins,).
        other: of the rest.
    """

    lesion: FloatArray
    other: FloatArray

    def __add__(self, more: "OddsCounts") -> "OddsCounts":
        """Of both."""
        return OddsCounts(self.lesion + more.lesion, self.other + more.other)


def odds_of_bins() -> FloatArray:
    """The middle of each bin."""
    return np.asarray(np.arange(-MOST_ODDS, MOST_ODDS, ODDS_STEP) + ODDS_STEP / 2)


def no_odds() -> OddsCounts:
    """No voxel at all."""
    nothing = np.zeros(len(odds_of_bins()))
    return OddsCounts(nothing, nothing)


def count_odds(truth: Volume, probability: Volume) -> OddsCounts:
    """Count the voxels of one scan whose probability is above 0: those of the brain.

    Args:
        truth: bool mask of the target.
        probability: of each voxel, 0 to 1.

    Raises:
        GridMismatchError: the images do not lie on the same voxels.
    """
    require_same_grid(truth.grid, probability.grid, "reference and probability")
    inside = np.greater(probability.data, 0)
    odds = special.logit(np.asarray(probability.data[inside], np.float32))
    bins = len(odds_of_bins())
    place = np.clip((odds + MOST_ODDS) / ODDS_STEP, 0, bins - 1).astype(np.int64)
    there = np.asarray(truth.data[inside], bool)
    lesion, other = (
        np.bincount(place[of], minlength=bins).astype(np.float64) for of in (there, ~there)
    )
    return OddsCounts(lesion, other)


def entropy(counts: OddsCounts, temperature: float) -> float:
    """Cross-entropy of the voxels, log odds divided by a temperature; a sum, in nats."""
    odds = odds_of_bins() / temperature
    return float(counts.lesion @ np.logaddexp(0, -odds) + counts.other @ np.logaddexp(0, odds))


def fit_temperature(counts: OddsCounts) -> float:
    """The temperature of least cross-entropy (Guo et al. 2017, arXiv:1706.04599).

    1 where there is no voxel of one of the two kinds: nothing can be learnt then.
    """
    if not (counts.lesion.any() and counts.other.any()):
        return 1.0
    least, most = (math.log(t) for t in TEMPERATURES)
    found = optimize.minimize_scalar(
        lambda log: entropy(counts, math.exp(log)), bounds=(least, most), method="bounded"
    )
    return round(math.exp(float(found.x)), 3)


def reliability_at(counts: OddsCounts, temperature: float) -> Reliability:
    """Voxels by bin of their probability, as it is told with a temperature."""
    said = special.expit(odds_of_bins() / temperature)
    place = np.minimum((said * BINS).astype(np.int64), BINS - 1)
    both = counts.lesion + counts.other
    voxels, lesion, total = (
        tuple(map(float, np.bincount(place, weights, minlength=BINS)))
        for weights in (both, counts.lesion, both * said)
    )
    return Reliability(voxels, lesion, total)
