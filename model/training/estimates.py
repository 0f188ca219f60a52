"""Estimates from independent trials, with their 95 % confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z = 1.959964  # two-sided 95 % of the normal distribution


@dataclass(frozen=True)
class Estimate:
    """A figure from `n` trials or pictures. low, high: its 95 % confidence interval."""

    value: float
    low: float
    high: float
    n: int


def proportion(trials: Sequence[bool]) -> Estimate:
    """The share of True, with Wilson's score interval (Wilson 1927), which also holds at 0 and 1 and for few trials.

    Raises ValueError when there is no trial.
    """
    n, hits = len(trials), sum(map(bool, trials))
    if not n:
        raise ValueError("trials must not be empty")
    share, z2 = hits / n, Z * Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Estimate(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)), n)


def mean(values: Sequence[float]) -> Estimate:
    """The mean of independent values, with the interval of the normal approximation.

    Raises ValueError when there is no value. The interval of a single value is infinite.
    """
    n = len(values)
    if not n:
        raise ValueError("values must not be empty")
    middle = math.fsum(values) / n
    if n == 1:
        return Estimate(middle, -math.inf, math.inf, 1)
    half = Z * math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (n - 1) / n)
    return Estimate(middle, middle - half, middle + half, n)
