"""Many tests at once, and how small a difference a study can see."""

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

from brainmets.errors import ConfigError

FloatArray = npt.NDArray[np.float64]


def holm(p: npt.ArrayLike) -> FloatArray:
    """P values that keep the chance of any false rejection (Holm 1979, Scand J Stat 6:65).

    Args:
        p: shape (n,); NaN, a test that could not be made, stays and counts for nothing.
    """
    values = _checked(p)
    order = np.argsort(values)[: int((~np.isnan(values)).sum())]
    steps = values[order] * np.arange(order.size, 0, -1)
    adjusted = np.full(values.shape, math.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def benjamini_hochberg(p: npt.ArrayLike) -> FloatArray:
    """P values that keep the share of false ones among rejections (1995, J R Stat Soc B 57:289).

    Args:
        p: as in :func:`holm`.
    """
    values = _checked(p)
    made = ~np.isnan(values)
    adjusted = np.full(values.shape, math.nan)
    if made.any():
        adjusted[made] = stats.false_discovery_control(values[made], method="bh")
    return adjusted


def detectable_delta(first: int, second: int, *, level: float = 0.05, power: float = 0.8) -> float:
    """The smallest Cliff's delta that two groups of these sizes show with that power.

    Noether 1987, J Am Stat Assoc 82:645, formula 9 solved for P(X > Y), which gives
    delta = 2 |P − ½|; above 1: no difference of ranks would do. NaN for an empty group.
    """
    if min(first, second) < 1:
        return math.nan
    reach = stats.norm.isf(level / 2) + stats.norm.ppf(power)
    total = first + second
    share = first / total
    return float(2 * reach / math.sqrt(12 * share * (1 - share) * total))


def detectable_difference(
    sd: float, pairs: int, *, level: float = 0.05, power: float = 0.8
) -> float:
    """The smallest mean difference that so many pairs show with that power.

    Args:
        sd: standard deviation of the differences, in their unit.
        pairs: how many; fewer than 2 give NaN.
        level: two-sided.
        power: of the test.
    """
    if pairs < 2 or math.isnan(sd):
        return math.nan
    reach = stats.norm.isf(level / 2) + stats.norm.ppf(power)
    return float(reach * sd / math.sqrt(pairs))


def _checked(p: npt.ArrayLike) -> FloatArray:
    values = np.asarray(p, np.float64)
    if ((values < 0) | (values > 1)).any():
        raise ConfigError(f"p values {values.tolist()}; expected 0 to 1")
    return values
