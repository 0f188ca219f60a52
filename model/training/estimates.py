"""Figures with the interval that they are known in: 95 % confidence, from independent trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z = 1.959964  # two-sided 95 % of the normal distribution


@dataclass(frozen=True)
class Estimate:
    """value: of `n` trials or pictures. low, high: its 95 % confidence interval."""

    value: float
    low: float
    high: float
    n: int


def proportion(trials: Sequence[bool]) -> Estimate:
    """The share of True, with Wilson's score interval (Wilson 1927), which is sound at 0 and 1 and for few trials.

    Raises ValueError when there is no trial.
    """
    n, hits = len(trials), sum(map(bool, trials))
    if not n:
        raise ValueError("trials: none, and a share of nothing is not known")
    share, z2 = hits / n, Z * Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Estimate(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)), n)


def mean(values: Sequence[float]) -> Estimate:
    """The mean of independent values, with the interval of the normal approximation.

    Raises ValueError when there is no value. One value alone has the whole line as its interval.
    """
    n = len(values)
    if not n:
        raise ValueError("values: none, and a mean of nothing is not known")
    middle = math.fsum(values) / n
    if n == 1:
        return Estimate(middle, -math.inf, math.inf, 1)
    half = Z * math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (n - 1) / n)
    return Estimate(middle, middle - half, middle + half, n)
