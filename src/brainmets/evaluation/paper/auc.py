"""Areas under the ROC curve: their variance, their difference, and a test not to be trusted.

The area is the share of pairs of a positive and a negative in which the positive has the
higher value, ties counting half: Mann and Whitney's U over the number of pairs.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

from brainmets.errors import ConfigError

FloatArray = npt.NDArray[np.float64]
ONE_CLASS = "all are of one class"
TOO_FEW = "fewer than two of a class"
NO_VARIANCE = "the areas have no variance"
PAPER_AUC_NOTE = (
    "anti-conservative: voxels of one patient are taken for independent, so that groups without "
    "any difference are told apart far more often than the level says: at 0.05 in 39 % of "
    "simulated cohorts (benchmarks/study.py)"
)


@dataclass(frozen=True)
class Area:
    """An area under the ROC curve.

    Attributes:
        value: the area, NaN if undefined.
        variance: of it, after DeLong.
        positives: how many.
        negatives: how many.
        reason: why it is undefined; None when it is defined.
    """

    value: float
    variance: float
    positives: int
    negatives: int
    reason: str | None = None


@dataclass(frozen=True)
class AreaTest:
    """Two areas compared.

    Attributes:
        difference: first − second.
        low: lower end of its 95 % interval.
        high: upper end.
        z: difference over its standard error.
        p: two-sided.
        reason: why there is no test; None where there is one.
    """

    difference: float
    low: float
    high: float
    z: float
    p: float
    reason: str | None = None


def area(values: npt.ArrayLike, truth: npt.ArrayLike) -> Area:
    """The area and its variance (DeLong et al. 1988, Biometrics 44:837).

    The unit must be independent: patients, not voxels or several lesions of one patient.

    Args:
        values: shape (n,), higher for positives.
        truth: shape (n,), whether each is positive.
    """
    positive, negative = _split(values, truth)
    if not positive.size or not negative.size:
        return Area(math.nan, math.nan, positive.size, negative.size, ONE_CLASS)
    ten, one = _placements(positive, negative)
    return Area(float(ten.mean()), _variance(ten) + _variance(one), positive.size, negative.size)


def delong(values: npt.ArrayLike, others: npt.ArrayLike, truth: npt.ArrayLike) -> AreaTest:
    """Whether two readers of the same patients differ in their areas (DeLong et al. 1988).

    Args:
        values: shape (n,), of the first.
        others: shape (n,), of the second, of the same patients in the same order.
        truth: shape (n,), whether each patient is positive.
    """
    if 0 < min(np.sum(truth), np.size(truth) - np.sum(truth)) < 2:
        return _no_test(TOO_FEW)
    first, second = (_placements_of(v, truth) for v in (values, others))
    if first is None or second is None:
        return _no_test(ONE_CLASS)
    apart = [a - b for a, b in zip(first, second, strict=True)]
    return _of(float(apart[0].mean()), sum(_variance(a) for a in apart))


def paper_auc_test(one: Area, other: Area) -> AreaTest:
    """Two areas of pooled voxels by Hanley and McNeil's z, as papers do it.

    Kept to repeat published figures, not to be believed: see :data:`PAPER_AUC_NOTE`. The
    standard error is that of Hanley and McNeil 1982, Radiology 143:29, for independent units.

    Args:
        one: area with the numbers of voxels of either class; its variance is not used.
        other: of the other group.
    """
    for given in (one, other):
        if given.reason is not None:
            return _no_test(given.reason)
    return _of(one.value - other.value, hanley_mcneil(one) + hanley_mcneil(other))


def hanley_mcneil(given: Area) -> float:
    """Variance of an area from itself and the numbers of either class alone (1982)."""
    a, m, n = given.value, given.positives, given.negatives
    q1, q2 = a / (2 - a), 2 * a**2 / (1 + a)
    return (a * (1 - a) + (m - 1) * (q1 - a**2) + (n - 1) * (q2 - a**2)) / (m * n)


def _split(values: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    data, positive = np.asarray(values, np.float64), np.asarray(truth, bool)
    if data.ndim != 1 or data.shape != positive.shape:
        raise ConfigError(
            f"{data.shape} values of {positive.shape} patients; expected one for each"
        )
    if np.isnan(data).any():
        raise ConfigError("a value is NaN; leave those patients out and say so")
    return data[positive], data[~positive]


def _placements_of(values: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[FloatArray, ...] | None:
    positive, negative = _split(values, truth)
    return _placements(positive, negative) if positive.size and negative.size else None


def _placements(positive: FloatArray, negative: FloatArray) -> tuple[FloatArray, FloatArray]:
    """For each positive the share of negatives below it, and the reverse (Sun and Xu 2014)."""
    together = rankdata(np.r_[positive, negative])
    m, n = positive.size, negative.size
    ten = (together[:m] - rankdata(positive)) / n
    one = 1 - (together[m:] - rankdata(negative)) / m
    return np.asarray(ten), np.asarray(one)


def _variance(placements: FloatArray) -> float:
    """Of their mean; 0 for one alone."""
    count = placements.size
    return float(placements.var(ddof=1)) / count if count > 1 else 0.0


def _of(difference: float, variance: float) -> AreaTest:
    if variance <= 0:
        return _no_test(NO_VARIANCE, difference)
    error = math.sqrt(variance)
    half = float(norm.ppf(0.975)) * error
    z = difference / error
    return AreaTest(difference, difference - half, difference + half, z, float(2 * norm.sf(abs(z))))


def _no_test(reason: str, difference: float = math.nan) -> AreaTest:
    return AreaTest(difference, math.nan, math.nan, math.nan, math.nan, reason)
