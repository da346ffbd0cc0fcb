"""Groups of patients compared: a test, its p, and how large the difference is.

Every function leaves out NaN and says how many; a comparison that cannot be made is NaN with a
reason. Tests are scipy's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from brainmets.errors import ConfigError
from brainmets.evaluation.statistics import draw, interval, percentile_interval

FloatArray = npt.NDArray[np.float64]
TOO_SMALL = "a group of fewer than two patients"
ALL_EQUAL = "all values are equal"
NO_PAIRS = "fewer than two pairs"
NO_DIFFERENCE = "all pairs are equal"
NO_DISCORDANT = "both agree on everyone"
SLIGHTLY = 1e-12
"""Beside an estimate of 0 or 1, which solves Newcombe's equation too, but is no end."""

FEW = 30
"""Below this many patients intervals cover less than they say; see the study's benchmark."""


@dataclass(frozen=True)
class Comparison:
    """What a test says.

    Attributes:
        test: its name.
        sizes: patients with a value, by group.
        excluded: patients without one.
        statistic: the test's.
        p: two-sided.
        effect: what ``size`` is.
        size: of the difference.
        low: lower end of its 95 % interval.
        high: upper end.
        reason: why there is none; None where there is one.
    """

    test: str
    sizes: Mapping[str, int]
    excluded: int
    statistic: float
    p: float
    effect: str
    size: float
    low: float
    high: float
    reason: str | None = None

    @property
    def few(self) -> bool:
        """Whether a group is so small that its interval is not to be relied on."""
        return min(self.sizes.values(), default=0) < FEW


def compare_groups(
    groups: Mapping[str, npt.ArrayLike], rng: np.random.Generator, *, resamples: int = 2000
) -> Comparison:
    """Two groups by Mann and Whitney, more by Kruskal and Wallis.

    Args:
        groups: values of each group's patients, one a patient; NaN is left out.
        rng: seeded; used for the interval of three groups and more.
        resamples: of that interval.

    Raises:
        ConfigError: fewer than two groups.
    """
    if len(groups) < 2:
        raise ConfigError(f"{len(groups)} groups; expected two or more to compare")
    every = {name: np.asarray(values, np.float64) for name, values in groups.items()}
    kept = {name: values[~np.isnan(values)] for name, values in every.items()}
    excluded = sum(v.size for v in every.values()) - sum(v.size for v in kept.values())
    if len(groups) == 2:
        return _mann_whitney(kept, excluded)
    return _kruskal_wallis(kept, excluded, rng, resamples)


def _mann_whitney(groups: Mapping[str, FloatArray], excluded: int) -> Comparison:
    """The effect is Cliff's delta, first against second: 2 U / (m n) − 1, from −1 to 1.

    Its interval is Newcombe's for U / (m n).
    """
    test, effect = "Mann–Whitney U", "Cliff's delta"
    sizes = {name: values.size for name, values in groups.items()}
    first, second = groups.values()
    reason = _why_not(groups)
    if reason is not None:
        return _none(test, sizes, excluded, effect, reason)
    found = stats.mannwhitneyu(first, second, alternative="two-sided")
    above = float(found.statistic) / (first.size * second.size)
    low, high = _newcombe_area(above, list(sizes.values()))
    return Comparison(
        test, sizes, excluded, float(found.statistic), float(found.pvalue), effect,
        2 * above - 1, 2 * low - 1, 2 * high - 1,
    )  # fmt: skip


def _newcombe_area(share: float, sizes: Sequence[int]) -> tuple[float, float]:
    """95 % for U / (m n), which it never leaves undefined (Newcombe 2006, Stat Med 25:559).

    Method 5: the values θ with |share − θ| = z √V(θ), V(θ) = θ (1 − θ) (1 + k (1 − θ) / (2 − θ)
    + k θ / (1 + θ)) / (m n), k = (m + n) / 2 − 1.
    """
    m, n = sizes
    k, z = (m + n) / 2 - 1, 1.959964

    def beyond(theta: float) -> float:
        spread = 1 + k * (1 - theta) / (2 - theta) + k * theta / (1 + theta)
        return (share - theta) ** 2 - z**2 * theta * (1 - theta) * spread / (m * n)

    low = 0.0 if share <= 0 else float(optimize.brentq(beyond, 0, share - SLIGHTLY))
    high = 1.0 if share >= 1 else float(optimize.brentq(beyond, share + SLIGHTLY, 1))
    return low, high


def _kruskal_wallis(
    groups: Mapping[str, FloatArray], excluded: int, rng: np.random.Generator, resamples: int
) -> Comparison:
    """The effect is epsilon squared, H / (n − 1) (Tomczak and Tomczak 2014), from 0 to 1."""
    test, effect = "Kruskal–Wallis H", "epsilon squared"
    sizes = {name: values.size for name, values in groups.items()}
    reason = _why_not(groups)
    if reason is not None:
        return _none(test, sizes, excluded, effect, reason)
    lists = list(groups.values())
    found = stats.kruskal(*lists)
    total = sum(sizes.values())

    def again() -> float:
        drawn = [rng.choice(values, values.size) for values in lists]
        if np.ptp(np.concatenate(drawn)) == 0:
            return math.nan
        return float(stats.kruskal(*drawn).statistic) / (total - 1)

    bounds = percentile_interval(np.array([again() for _ in range(resamples)]), total)
    return Comparison(
        test, sizes, excluded, float(found.statistic), float(found.pvalue), effect,
        float(found.statistic) / (total - 1), bounds.low, bounds.high,
    )  # fmt: skip


def compare_pairs(
    first: npt.ArrayLike, second: npt.ArrayLike, rng: np.random.Generator
) -> Comparison:
    """Two measurements of each patient by Wilcoxon's signed-rank test.

    Equal pairs are left out, as Wilcoxon did. The effect is the mean difference first − second,
    in the measurements' unit, with its BCa interval over patients.

    Args:
        first: shape (n,), one a patient.
        second: shape (n,), of the same patients.
        rng: seeded.

    Raises:
        ConfigError: of different lengths.
    """
    test, effect = "Wilcoxon signed-rank", "mean difference"
    one, two, excluded = _pairs(first, second)
    sizes = {"pairs": one.size}
    apart = one - two
    if one.size < 2:
        return _none(test, sizes, excluded, effect, NO_PAIRS)
    if not apart.any():
        return _none(test, sizes, excluded, effect, NO_DIFFERENCE)
    found = stats.wilcoxon(apart)
    weights = draw(one.size, rng)
    bounds = interval(lambda w: w @ apart / w.sum(axis=-1), weights)
    return Comparison(
        test, sizes, excluded, float(found.statistic), float(found.pvalue), effect,
        float(apart.mean()), bounds.low, bounds.high,
    )  # fmt: skip


@dataclass(frozen=True)
class Saving:
    """How much less of something the second way takes.

    Attributes:
        share: 1 − sum of second / sum of first.
        low: lower end of its 95 % interval.
        high: upper end.
        pairs: patients with both values.
        reason: why there is none.
    """

    share: float
    low: float
    high: float
    pairs: int
    reason: str | None = None


def saving(first: npt.ArrayLike, second: npt.ArrayLike, rng: np.random.Generator) -> Saving:
    """The share saved by the second way, of the whole: long patients count as they last."""
    one, two, _ = _pairs(first, second)
    if one.size < 2 or one.sum() <= 0:
        return Saving(math.nan, math.nan, math.nan, one.size, NO_PAIRS)
    bounds = interval(lambda w: 1 - (w @ two) / (w @ one), draw(one.size, rng))
    return Saving(float(1 - two.sum() / one.sum()), bounds.low, bounds.high, one.size)


def compare_detections(first: Sequence[bool], second: Sequence[bool]) -> Comparison:
    """Two yes-or-no verdicts on the same patients by McNemar's exact test.

    The effect is the difference of shares first − second, with Newcombe's 1998 interval for
    paired shares (Stat Med 17:2635, method 10).

    Raises:
        ConfigError: of different lengths.
    """
    one, two = (np.asarray(v, bool) for v in (first, second))
    if one.shape != two.shape:
        raise ConfigError(f"{one.size} and {two.size} verdicts; expected the same patients")
    test, effect = "McNemar, exact", "difference of shares"
    sizes = {"pairs": one.size}
    only_one, only_two = int((one & ~two).sum()), int((two & ~one).sum())
    if not only_one + only_two:
        return _none(test, sizes, 0, effect, NO_DISCORDANT)
    p = stats.binomtest(only_one, only_one + only_two).pvalue
    low, high = _newcombe(one, two)
    size = (only_one - only_two) / one.size
    return Comparison(test, sizes, 0, float(only_one), float(p), effect, size, low, high)


def _newcombe(one: npt.NDArray[np.bool_], two: npt.NDArray[np.bool_]) -> tuple[float, float]:
    n = one.size
    a, b = int((one & two).sum()), int((one & ~two).sum())
    c, d = int((two & ~one).sum()), int((~one & ~two).sum())
    p1, p2 = (a + b) / n, (a + c) / n
    (l1, u1), (l2, u2) = (_wilson(round(p * n), n) for p in (p1, p2))
    inside = (a + b) * (c + d) * (a + c) * (b + d)
    raw = a * d - b * c
    corrected = max(raw - n / 2, 0) if raw > 0 else raw  # as method 10 has it
    phi = corrected / math.sqrt(inside) if inside else 0.0
    down = math.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    up = math.sqrt((u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2)
    return p1 - p2 - down, p1 - p2 + up


def _wilson(found: int, of: int) -> tuple[float, float]:
    bounds = stats.binomtest(found, of).proportion_ci(method="wilson")
    return float(bounds.low), float(bounds.high)


def _pairs(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[FloatArray, FloatArray, int]:
    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.shape != two.shape:
        raise ConfigError(f"{one.size} and {two.size} values; expected pairs")
    keep = ~np.isnan(one) & ~np.isnan(two)
    return one[keep], two[keep], int((~keep).sum())


def _why_not(groups: Mapping[str, FloatArray]) -> str | None:
    if min(values.size for values in groups.values()) < 2:
        return TOO_SMALL
    return ALL_EQUAL if np.ptp(np.concatenate(list(groups.values()))) == 0 else None


def _none(
    test: str, sizes: Mapping[str, int], excluded: int, effect: str, reason: str
) -> Comparison:
    nothing = math.nan
    return Comparison(
        test, sizes, excluded, nothing, nothing, effect, nothing, nothing, nothing, reason
    )
