"""Why a worker died, when that ends the server, and how long it waits before it starts another one."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from app.pool.deaths import BUDGET, CALM, LONGEST_WAIT, WINDOW, Backoff, Cause, Death, Deaths
from app.pool.memory_kills import MemoryKills

CRASHES = ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE"]


@pytest.mark.parametrize("name", CRASHES)
def test_a_signal_of_a_fault_is_a_crash(name: str) -> None:
    status = -signal.Signals[name]
    assert Death.by_status(status, ready=True, memory="x") == Death(Cause.CRASH, f"crashed with {name}")
    assert Death.by_status(status, ready=False) == Death(Cause.START, f"crashed with {name} before it was ready")


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "ended by itself with status 0"),
        (1, "ended by itself with status 1"),
        (137, "ended by itself with status 137"),
        (-40, "crashed with signal 40"),
        (None, "closed its pipe but went on running, and was killed"),
    ],
)
def test_a_worker_that_ends_by_itself_has_crashed(status: int | None, text: str) -> None:
    assert Death.by_status(status, ready=True, memory="x") == Death(Cause.CRASH, text)


@pytest.mark.parametrize("ready", [True, False])
def test_a_signal_that_somebody_sent_is_a_kill_from_outside(ready: bool) -> None:
    when = "" if ready else " while it loaded"
    killed = Death.by_status(-signal.SIGKILL, ready, "out of memory?")
    assert killed == Death(Cause.KILLED, f"was killed from outside by SIGKILL{when}; out of memory?")
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"):
        death = Death.by_status(-signal.Signals[name], ready, "out of memory?")
        assert death == Death(Cause.KILLED, f"was killed from outside by {name}{when}")


def test_only_deaths_that_are_no_kills_spend_the_budget() -> None:
    counted = Deaths()
    killed, crash = Death(Cause.KILLED, "was killed"), Death(Cause.CRASH, "crashed")
    assert [counted.add(killed, now) for now in range(100)] == [None] * 100
    assert [counted.add(crash, 0.0) for _ in range(BUDGET - 1)] == [None] * (BUDGET - 1)
    assert counted.add(killed, 1.0) is None
    assert counted.add(crash, WINDOW + 1) is None  # the first one is long ago
    assert counted.add(crash, WINDOW) == "5 workers died within 60 s, and the last one crashed"
    assert counted.counts == {"crash": 6, "hang": 0, "killed": 101, "start": 0}


def test_the_wait_doubles_with_every_kill_and_is_forgotten_once_a_worker_was_ready_for_a_while() -> None:
    backoff = Backoff()
    assert [backoff.after(Cause.KILLED, 0.0) for _ in range(7)] == [0.5, 1, 2, 4, 8, 15, 15]
    assert backoff.after(Cause.CRASH, 0.0) == 0.0
    assert backoff.after(Cause.KILLED, CALM - 1) == LONGEST_WAIT
    assert backoff.after(Cause.KILLED, CALM) == 0.5
    assert backoff.after(Cause.KILLED, 0.0) == 1.0


def test_the_kernels_count_tells_whether_memory_was_short(tmp_path: Path) -> None:
    def count(kills: int) -> None:
        group.write_text(f"low 0\nhigh 3\nmax 9\noom 7\noom_kill {kills}\noom_group_kill 0\n")

    group, files = tmp_path / "memory.events", [str(tmp_path / "missing"), str(tmp_path / "memory.events")]
    assert MemoryKills(files).since() == "out of memory?"
    unknown = MemoryKills(files)
    count(2)
    assert unknown.since() == "out of memory?"
    known = MemoryKills(files)
    assert known.since() == f"not by the kernel for want of memory: oom_kill in {group} did not rise"
    count(3)
    assert known.since() == f"out of memory? while it lived, oom_kill in {group} rose by 1"
    group.write_text("oom_kill\n")
    assert known.since() == "out of memory?"
