"""Confidence intervals by bootstrap over patients.

Patients are drawn with replacement, each with all their values: scans and lesions of
one patient resemble each other, and drawing them singly would make intervals too narrow
(Davison and Hinkley 1997, Bootstrap Methods and their Application, 3.8).

The percentile method takes quantiles of the resampled statistic. BCa corrects them for bias
and skewness (Efron 1987, J Am Stat Assoc 82:171), the latter by leaving out each patient in
turn. That fails for statistics that are not smooth, such as the median (Efron and Tibshirani
1993, An Introduction to the Bootstrap, 11.6): take the percentile method for those.
"""

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from brainmets.errors import ConfigError

Method = Literal["percentile", "BCa"]
FloatArray = npt.NDArray[np.float64]
RESAMPLES = 10_000
MOST_WEIGHTS = 10_000_000
"""Weights held at once: 80 MB."""


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
    owner = np.array([numbers.setdefault(owners[i], len(numbers)) for i in np.flatnonzero(keep)])
    counted = (int(keep.sum()), int((~keep).sum()), len(numbers))
    reason = _degenerate(data[keep], len(numbers))
    if reason is not None:
        return Interval(np.nan, np.nan, confidence, method, *counted, reason)
    low, high = _interval(
        _by_patient(STATISTICS[statistic], data[keep], owner),
        np.arange(len(numbers)),
        rng,
        method=method,
        confidence=confidence,
        resamples=resamples,
    )
    if not low <= high:  # NaN
        low, high, reason = np.nan, np.nan, "the resamples vary too little for this method"
    return Interval(low, high, confidence, method, *counted, reason)


def _degenerate(values: FloatArray, patients: int) -> str | None:
    if patients < 2:
        return "fewer than two patients"
    return "all values are equal" if values.min() == values.max() else None


def _by_patient(
    statistic: Statistic, values: FloatArray, owner: npt.NDArray[np.intp]
) -> Callable[..., FloatArray]:
    """The statistic as a function of drawn patients, their numbers along the last axis."""
    count = int(owner.max()) + 1

    def of_drawn(drawn: npt.NDArray[np.intp], axis: int = -1) -> FloatArray:
        rows = np.moveaxis(np.asarray(drawn, np.intp), axis, -1)
        flat = rows.reshape(-1, rows.shape[-1])
        index = (flat + np.arange(len(flat))[:, None] * count).ravel()
        times = np.bincount(index, minlength=len(flat) * count).reshape(len(flat), count)
        return statistic(values, times[:, owner].astype(np.float64)).reshape(rows.shape[:-1])

    return of_drawn


def _interval(
    statistic: Callable[..., FloatArray],
    patients: npt.NDArray[np.intp],
    rng: np.random.Generator,
    *,
    method: Method,
    confidence: float,
    resamples: int,
) -> tuple[float, float]:
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # NaN says it, with a reason
        found = stats.bootstrap(
            (patients,),
            statistic,
            n_resamples=resamples,
            batch=max(1, MOST_WEIGHTS // patients.size),
            vectorized=True,
            axis=-1,
            confidence_level=confidence,
            method=method,
            rng=rng,
        )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
