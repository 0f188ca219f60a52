"""Intervals whose right answer is known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from model.training.estimates import mean, proportion


def test_a_share_has_wilsons_interval() -> None:
    some = proportion([True] * 15 + [False] * 5)
    assert (some.value, some.n) == (0.75, 20)
    assert (some.low, some.high) == pytest.approx((0.5313, 0.8881), abs=5e-5)  # Newcombe's formula 3, by hand
    none, all_ = proportion([False] * 10), proportion([True] * 10)
    assert (none.low, none.high) == pytest.approx((0.0, 0.2775), abs=5e-5)
    assert (all_.low, all_.high) == pytest.approx((0.7225, 1.0), abs=5e-5)
    with pytest.raises(ValueError, match="must not be empty"):
        proportion([])


def test_wilsons_interval_holds_the_truth_19_times_in_20() -> None:
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        found = proportion((random.random(60) < 0.3).tolist())
        inside += found.low <= 0.3 <= found.high
    assert 0.93 < inside / 2000 < 0.97


def test_a_mean_has_the_normal_interval() -> None:
    found = mean([1.0, 2.0, 3.0, 4.0])
    half = 1.959964 * math.sqrt(5 / 3 / 4)
    assert (found.value, found.low, found.high, found.n) == (2.5, 2.5 - half, 2.5 + half, 4)
    assert mean([7.0]).low == -math.inf
    with pytest.raises(ValueError, match="must not be empty"):
        mean([])
