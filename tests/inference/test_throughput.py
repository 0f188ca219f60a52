"""The measured pace counts the usual time of steps, and hardly counts a stall."""

from __future__ import annotations

import pytest

from model.inference.throughput import Throughput


def steps(pace: Throughput, *seconds: float) -> float:
    for taken in seconds:
        pace.record(taken, 8)
    return pace.seconds_per_step


def test_painting_counts_in_full() -> None:
    pace = Throughput()
    assert pace.seconds_per_step == pace.tokens_per_second == 0.0
    assert steps(pace, *[0.01, 0.01, 0.01, 0.05] * 16) == pytest.approx(0.02)
    assert pace.tokens_per_second == pytest.approx(400)


def test_a_stall_counts_for_little_and_a_slow_machine_until_it_recovers() -> None:
    pace = Throughput()
    assert steps(pace, *[0.01] * 40, 3.0, *[0.01] * 20) < 0.012
    assert steps(pace, *[0.1] * 64) == pytest.approx(0.1)
    assert steps(pace, *[0.01] * 64) == pytest.approx(0.01)
    assert pace.tokens == 8 * 189
