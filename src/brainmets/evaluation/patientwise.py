"""One verdict per patient: any metastasis or none, how many, how much.

The unit is what the caller takes for one: several scans of a patient are not independent,
so give one row per patient where intervals or tests are to follow.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from brainmets.errors import ConfigError
from brainmets.evaluation.scores import Score, ratio, undefined
from brainmets.evaluation.statistics import OfWeights

Z_95 = 1.96
"""Bland and Altman's limits hold 95 % of normally distributed differences."""

TOO_FEW = "fewer than two patients"


@dataclass(frozen=True)
class Patient:
    """What was there and what was announced in one patient.

    Attributes:
        patient_id: which one.
        reference_lesions: how many metastases there are.
        predicted_lesions: how many were announced.
        reference_mm3: their volume together.
        predicted_mm3: the announced volume together.

    Raises:
        ConfigError: a count or a volume is negative or not finite.
    """

    patient_id: str
    reference_lesions: int
    predicted_lesions: int
    reference_mm3: float
    predicted_mm3: float

    def __post_init__(self) -> None:
        """Check that counts and volumes can be."""
        numbers = (
            self.reference_lesions,
            self.predicted_lesions,
            self.reference_mm3,
            self.predicted_mm3,
        )
        if not all(math.isfinite(n) and n >= 0 for n in numbers):
            raise ConfigError(
                f"patient {self.patient_id}: counts and volumes {numbers}; "
                "expected finite numbers of 0 or more"
            )


@dataclass(frozen=True)
class BlandAltman:
    """Agreement of two measurements of the same patients (Bland and Altman 1986).

    Attributes:
        bias: mean of predicted − reference.
        sd: standard deviation of the differences (n − 1).
        lower: bias − 1.96 sd.
        upper: bias + 1.96 sd.
    """

    bias: Score
    sd: Score
    lower: Score
    upper: Score


def any_metastasis(patients: Sequence[Patient]) -> dict[str, Score]:
    """Whether a patient has any metastasis: the four predictive shares and accuracy."""
    true = [p.reference_lesions > 0 for p in patients]
    said = [p.predicted_lesions > 0 for p in patients]
    both = sum(t and s for t, s in zip(true, said, strict=True))
    neither = sum(not (t or s) for t, s in zip(true, said, strict=True))
    ill, announced = sum(true), sum(said)
    return {
        "patient_sensitivity": ratio(both, ill, "no patient has a metastasis"),
        "patient_specificity": ratio(neither, len(true) - ill, "every patient has a metastasis"),
        "patient_ppv": ratio(both, announced, "no patient was said to have a metastasis"),
        "patient_npv": ratio(
            neither, len(true) - announced, "every patient was said to have a metastasis"
        ),
        "patient_accuracy": ratio(both + neither, len(true), "there are no patients"),
    }


def count_agreement(patients: Sequence[Patient]) -> dict[str, Score]:
    """How well the numbers of metastases agree."""
    counts = _columns([(p.reference_lesions, p.predicted_lesions) for p in patients])
    apart = np.abs(counts[:, 1] - counts[:, 0])
    none = "there are no patients"
    return {
        "count_equal": ratio(int((apart == 0).sum()), apart.size, none),
        "count_within_one": ratio(int((apart <= 1).sum()), apart.size, none),
        "count_mean_absolute_difference": ratio(float(apart.sum()), apart.size, none),
        **_agreement(counts, "count", ""),
    }


def burden_agreement(patients: Sequence[Patient]) -> dict[str, Score]:
    """How well the total volumes agree, in mm³."""
    volumes = _columns([(p.reference_mm3, p.predicted_mm3) for p in patients])
    return _agreement(volumes, "burden", "_mm3")


def icc_2_1(ratings: npt.ArrayLike) -> Score:
    """ICC(2,1): absolute agreement of single measurements, two-way random effects.

    (MSR − MSE) / (MSR + (k − 1) MSE + k (MSC − MSE) / n), Shrout and Fleiss 1979, Psychol
    Bull 86:420.

    Args:
        ratings: shape (n, k), n targets measured by each of k raters.
    """
    table = np.asarray(ratings, np.float64)
    if table.ndim != 2:
        raise ConfigError(f"ratings of shape {table.shape}; expected targets × raters")
    n, k = table.shape
    if n < 2 or k < 2:
        return undefined(TOO_FEW if n < 2 else "fewer than two raters")
    mean, rows, columns = table.mean(), table.mean(axis=1), table.mean(axis=0)
    between_rows = k * ((rows - mean) ** 2).sum() / (n - 1)
    between_columns = n * ((columns - mean) ** 2).sum() / (k - 1)
    rest = table - rows[:, None] - columns + mean
    error = (rest**2).sum() / ((n - 1) * (k - 1))
    whole = between_rows + (k - 1) * error + k * (between_columns - error) / n
    return ratio(float(between_rows - error), float(whole), "all measurements are equal")


def bland_altman(reference: npt.ArrayLike, prediction: npt.ArrayLike) -> BlandAltman:
    """Bias and 95 % limits of agreement of prediction − reference.

    The limits suppose differences whose spread does not grow with size; volumes often
    break this, so look at the plot, or give logarithms.
    """
    apart = np.asarray(prediction, np.float64) - np.asarray(reference, np.float64)
    bias = ratio(float(apart.sum()), apart.size, "there are no patients")
    if apart.size < 2:
        none = undefined(TOO_FEW)
        return BlandAltman(bias, none, none, none)
    sd = float(apart.std(ddof=1))
    return BlandAltman(
        bias, Score(sd), Score(bias.value - Z_95 * sd), Score(bias.value + Z_95 * sd)
    )


def _columns(pairs: Sequence[tuple[float, float]]) -> npt.NDArray[np.float64]:
    return np.asarray(pairs, np.float64).reshape(-1, 2)


def _agreement(pairs: npt.NDArray[np.float64], what: str, unit: str) -> dict[str, Score]:
    limits = bland_altman(pairs[:, 0], pairs[:, 1])
    return {
        f"{what}_icc": icc_2_1(pairs),
        f"{what}_bias{unit}": limits.bias,
        f"{what}_sd{unit}": limits.sd,
        f"{what}_lower_limit{unit}": limits.lower,
        f"{what}_upper_limit{unit}": limits.upper,
    }


def statistics_of(patients: Sequence[Patient]) -> dict[str, OfWeights]:
    """Every score of this page as a function of patients' weights, for the bootstrap.

    With each patient once they are the scores themselves.
    """
    counts = _columns([(p.reference_lesions, p.predicted_lesions) for p in patients])
    volumes = _columns([(p.reference_mm3, p.predicted_mm3) for p in patients])
    apart = np.abs(counts[:, 1] - counts[:, 0])
    ill, said = counts.T > 0
    every = np.ones(len(counts))
    return {
        "patient_sensitivity": _share(ill & said, ill),
        "patient_specificity": _share(~(ill | said), ~ill),
        "patient_ppv": _share(ill & said, said),
        "patient_npv": _share(~(ill | said), ~said),
        "patient_accuracy": _share(ill == said, every),
        "count_equal": _share(apart == 0, every),
        "count_within_one": _share(apart <= 1, every),
        "count_mean_absolute_difference": _share(apart, every),
        **_agreement_of_weights(counts, "count", ""),
        **_agreement_of_weights(volumes, "burden", "_mm3"),
    }


def _share(part: npt.ArrayLike, whole: npt.ArrayLike) -> OfWeights:
    top, bottom = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return lambda weights: np.asarray((weights @ top) / (weights @ bottom))


def _agreement_of_weights(
    pairs: npt.NDArray[np.float64], what: str, unit: str
) -> dict[str, OfWeights]:
    centred = pairs - pairs.mean() if pairs.size else pairs  # smaller numbers, smaller rounding
    x, y = centred.T
    apart = y - x
    bias = _share(apart, np.ones(len(pairs)))

    def spread(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        number = weights.sum(axis=-1)
        squares = weights @ apart**2 - number * bias(weights) ** 2
        return np.asarray(np.sqrt(np.maximum(squares, 0) / (number - 1)))

    def icc(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """ICC(2,1) of two ratings from sums, see :func:`icc_2_1`."""
        n = weights.sum(axis=-1)
        mean = (weights @ (x + y)) / (2 * n)
        rows = (weights @ ((x + y) ** 2) / 2 - 2 * n * mean**2) / (n - 1)
        columns = n * bias(weights) ** 2 / 2
        error = spread(weights) ** 2 / 2
        return np.asarray((rows - error) / (rows + error + 2 * (columns - error) / n))

    return {
        f"{what}_icc": icc,
        f"{what}_bias{unit}": bias,
        f"{what}_sd{unit}": spread,
        f"{what}_lower_limit{unit}": lambda w: np.asarray(bias(w) - Z_95 * spread(w)),
        f"{what}_upper_limit{unit}": lambda w: np.asarray(bias(w) + Z_95 * spread(w)),
    }
