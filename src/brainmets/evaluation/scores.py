"""A score: a number, or NaN and the reason why there is none.

Two empty masks have no Dice, and a scan without lesions has no lesion sensitivity. Whoever
wants such a case to count as 0 or 1 decides so; nothing here does.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """One value of one case.

    Attributes:
        value: NaN when undefined.
        reason: why it is undefined; None when it is defined.
    """

    value: float
    reason: str | None = None

    @property
    def defined(self) -> bool:
        """Whether there is a value."""
        return self.reason is None


def undefined(reason: str) -> Score:
    """No value, and why."""
    return Score(math.nan, reason)


def ratio(part: float, whole: float, reason: str) -> Score:
    """``part / whole``, undefined for ``reason`` when the whole is 0.

    >>> ratio(1, 4, "nothing to divide by").value
    0.25
    >>> ratio(0, 0, "nothing to divide by").reason
    'nothing to divide by'
    """
    return Score(part / whole) if whole else undefined(reason)
