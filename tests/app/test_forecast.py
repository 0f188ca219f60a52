"""How much is still to be painted before a job is done, counted by hand."""

from __future__ import annotations

import pytest

from app.pool.forecast import rows_until_done
from app.pool.job import Job
from model.inference.requests import SamplingParams
from tests.app.puppets import order_of

GRID = 32


def job(*rows_done: int, guidance: float = 1.0) -> Job:
    made = Job(order_of("a cat", len(rows_done), SamplingParams(seed=0, guidance=guidance)), 1)
    made.rows_done = list(rows_done)
    return made


@pytest.mark.parametrize(
    ("jobs", "slots", "rows"),
    [
        ([job(0)], 4, 32),  # alone
        ([job(20)], 4, 12),
        ([job(32, 30, 10)], 4, 22),
        ([job(0, 0, 0, 0)], 4, 32),  # all at once
        ([job(0, 0, 0, 0)], 2, 64),  # in two turns
        ([job(0, 0, 0, 0, guidance=3.0)], 4, 64),  # a guided picture takes two slots
        ([job(0, 0, 0, guidance=3.0)], 5, 64),  # and one slot alone is of no use to it
        ([job(30, 20), job(0)], 2, 34),  # begins where the first of those before it ends
        ([job(30, 20), job(0, 0)], 2, 44),
        ([job(0), job(31)], 2, 1),  # is painted already
        ([job(32), job(32)], 2, 0),
        ([job(0, 0), job(0), job(0, guidance=3.0)], 1, 128),
    ],
)
def test_rows_are_counted_in_the_order_in_which_they_are_painted(jobs: list[Job], slots: int, rows: int) -> None:
    assert rows_until_done(jobs, jobs[-1], GRID, slots) == rows
    assert rows_until_done([*jobs, job(0)], jobs[-1], GRID, slots) == rows  # what comes later changes nothing


def test_a_job_that_has_ended_has_nothing_left() -> None:
    assert rows_until_done([job(0)], job(0), GRID, 4) == 0
