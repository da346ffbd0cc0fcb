"""Confidence intervals by bootstrap over patients.

Patients are drawn with replacement, each with all their values: scans and lesions of
one patient resemble each other, and drawing them singly would make intervals too narrow
(Davison and Hinkley 1997, Bootstrap Methods and their Application, 3.8).

The percentile method takes quantiles of the resampled statistic. BCa corrects them for bias
and skewness (Efron 1987, J Am Stat Assoc 82:171), the latter by leaving out each patient in
turn. That fails for statistics that are not smooth, such as the median (Efron and Tibshirani
1993, An Introduction to the Bootstrap, 11.6): take the percentile method for those.

A statistic is a function of weights, how often each patient was drawn. So the patients of a
cohort are drawn once for all of its statistics.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from brainmets.errors import ConfigError

Method = Literal["percentile", "BCa"]
FloatArray = npt.NDArray[np.float64]
RESAMPLES = 10_000
NO_PATIENTS, NO_SPREAD = "fewer than two patients", "equal in all resamples"
TOO_STEADY = "the resamples vary too little for this method"


@dataclass(frozen=True)
class Interval:
    """A confidence interval, or NaN and the reason why there is none.

    Attributes:
        low: lower end.
        high: upper end.
        confidence: 0.95 for 95 %.
        method: ``"BCa"`` or ``"percentile"``.
        values: how many values went into it.
        excluded: how many were NaN and did not.
        patients: how many patients the values are of.
        reason: why it is undefined; None when it is defined.
    """

    low: float
    high: float
    confidence: float
    method: str
    values: int
    excluded: int
    patients: int
    reason: str | None = None


Statistic = Callable[[FloatArray, FloatArray], FloatArray]
"""From values (n,) and weights (..., n), whole numbers of 0 or more, to one number a row."""

OfWeights = Callable[[FloatArray], FloatArray]
"""From weights of patients (..., patients) to one number a row; NaN where there is none."""


def weighted_mean(values: FloatArray, weights: FloatArray) -> FloatArray:
    """The mean of ``values``, each taken as often as its weight says."""
    return np.asarray((weights @ values) / weights.sum(axis=-1))


def weighted_median(values: FloatArray, weights: FloatArray) -> FloatArray:
    """The median of ``values``, each taken as often as its weight says; halves ties."""
    order = np.argsort(values)
    ascending = values[order]
    upto = np.cumsum(weights[..., order], axis=-1)
    half = upto[..., -1:] / 2
    lower = ascending[np.argmax(upto >= half, axis=-1)]
    upper = ascending[np.argmax(upto > half, axis=-1)]
    return np.asarray((lower + upper) / 2)


STATISTICS: dict[str, Statistic] = {"mean": weighted_mean, "median": weighted_median}


def bootstrap(
    values: Sequence[float] | FloatArray,
    rng: np.random.Generator,
    *,
    statistic: str = "mean",
    patients: Sequence[Hashable] | None = None,
    method: Method = "BCa",
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Interval:
    """Confidence interval of a statistic of values that belong to patients.

    Args:
        values: one a scan or lesion; NaN where undefined: these are left out and counted.
        rng: seeded; the same state gives the same interval.
        statistic: ``"mean"`` or ``"median"``.
        patients: whose each value is; None: all of different patients.
        method: ``"BCa"`` or ``"percentile"``.
        confidence: more than 0, less than 1.
        resamples: how often patients are drawn.

    Returns:
        An Interval; NaN with a reason for fewer than two patients, for values that are all
        equal, and where BCa has no answer.

    Raises:
        ConfigError: an unknown statistic, or as many patients as there are not values.
    """
    data = np.asarray(values, np.float64)
    owners = list(range(data.size)) if patients is None else list(patients)
    if len(owners) != data.size:
        raise ConfigError(f"{data.size} values of {len(owners)} patients; expected one for each")
    if statistic not in STATISTICS:
        raise ConfigError(f"statistic {statistic!r}; expected one of {', '.join(STATISTICS)}")
    keep = ~np.isnan(data)
    numbers: dict[Hashable, int] = {}
    owner = np.array(
        [numbers.setdefault(owners[i], len(numbers)) for i in np.flatnonzero(keep)], np.intp
    )

    def of_weights(weights: FloatArray) -> FloatArray:
        return STATISTICS[statistic](data[keep], weights[..., owner])

    found = interval(
        of_weights,
        draw(len(numbers), rng, resamples),
        method=method,
        confidence=confidence,
        patients=len(numbers),
    )
    return replace(found, values=int(keep.sum()), excluded=int((~keep).sum()))


def draw(patients: int, rng: np.random.Generator, resamples: int = RESAMPLES) -> FloatArray:
    """Draw as many patients as there are, with replacement, ``resamples`` times.

    Returns:
        How often each was drawn, shape (resamples, patients).
    """
    index = rng.integers(0, max(patients, 1), (resamples, patients))
    index += np.arange(resamples)[:, None] * patients
    times = np.bincount(index.ravel(), minlength=resamples * patients)
    return times.reshape(resamples, patients).astype(np.float64)


def interval(
    statistic: OfWeights,
    weights: FloatArray,
    *,
    method: Method = "BCa",
    confidence: float = 0.95,
    patients: int | None = None,
) -> Interval:
    """Confidence interval of a statistic from drawn patients.

    Resamples without a value, for example a sensitivity where no patient with a lesion
    was drawn, are left out.

    Args:
        statistic: a function of patients' weights.
        weights: from :func:`draw`.
        method: ``"BCa"`` or ``"percentile"``.
        confidence: more than 0, less than 1.
        patients: how many have a value; None: all.

    Returns:
        An Interval, NaN with a reason where there is none.
    """
    count = weights.shape[1] if patients is None else patients
    low = high = np.nan
    reason: str | None = NO_PATIENTS
    if count >= 2:
        with np.errstate(invalid="ignore", divide="ignore"):
            low, high, reason = _ends(statistic, weights, method, confidence)
    return Interval(low, high, confidence, method, count, 0, count, reason)


def percentile_interval(drawn: FloatArray, patients: int, *, confidence: float = 0.95) -> Interval:
    """The percentile interval of a statistic that was computed for each draw already.

    Args:
        drawn: one value a resample; NaN where there is none, which is left out.
        patients: how many there were to draw.
        confidence: more than 0, less than 1.
    """
    kept = drawn[~np.isnan(drawn)]
    low = high = np.nan
    reason = NO_PATIENTS if patients < 2 else None
    if reason is None and (not kept.size or np.ptp(kept) == 0):
        reason = NO_SPREAD
    if reason is None:
        low, high = (
            float(x) for x in np.quantile(kept, [(1 - confidence) / 2, (1 + confidence) / 2])
        )
    return Interval(low, high, confidence, "percentile", patients, 0, patients, reason)


def _ends(
    statistic: OfWeights, weights: FloatArray, method: str, confidence: float
) -> tuple[float, float, str | None]:
    drawn = np.asarray(statistic(weights))
    drawn = drawn[~np.isnan(drawn)]
    every = weights.shape[1]
    left_out = np.asarray(statistic(1 - np.eye(every)))
    left_out = left_out[~np.isnan(left_out)]
    values = np.r_[drawn, left_out]
    if not drawn.size or np.ptp(values) <= 1e-12 * np.abs(values).max():
        return np.nan, np.nan, NO_SPREAD
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if method == "BCa":
        if not left_out.size:
            return np.nan, np.nan, TOO_STEADY
        point = float(statistic(np.ones(every)))
        tails = _corrected(tails, drawn, point, left_out)
    if np.isnan(tails).any():
        return np.nan, np.nan, TOO_STEADY
    low, high = np.quantile(drawn, tails)
    return float(low), float(high), None


def _corrected(
    tails: FloatArray, drawn: FloatArray, point: float, left_out: FloatArray
) -> FloatArray:
    """The tails that BCa takes instead; NaN where it has no answer."""
    bias = ndtri(((drawn < point).mean() + (drawn <= point).mean()) / 2)
    apart = left_out.mean() - left_out
    skew = (apart**3).sum() / (6 * (apart**2).sum() ** 1.5)
    reached = bias + ndtri(tails)
    return np.asarray(ndtr(bias + reached / (1 - skew * reached)))
