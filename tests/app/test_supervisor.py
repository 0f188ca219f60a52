"""How a worker process ended, told by the supervisor of real processes that end in every way."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from app.pool import supervisor
from app.pool.cpu_wait import CpuWait
from app.pool.deaths import Cause, Death
from app.pool.supervisor import WorkerProcess
from model.inference.messages import StartFailed, WorkerOptions
from tests.app.puppets import READY


def end(connection: Connection, options: WorkerOptions, *_log: Any) -> None:
    """A worker's main function, which ends as the name of its checkpoint says."""
    match options.checkpoint.split():
        case ["killed-early"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["failed"]:
            connection.send(StartFailed("no memory", permanent=False))
            time.sleep(1000)
    connection.send(READY)
    match options.checkpoint.split():
        case ["signal", name]:
            os.kill(os.getpid(), signal.Signals[name])
        case ["status", status]:
            os._exit(int(status))
        case ["slowly", status]:
            connection.close()
            time.sleep(1)  # as an interpreter with much to tidy up
            os._exit(int(status))
        case ["never"]:
            connection.close()
    time.sleep(1000)


async def death(how: str, heartbeat_timeout: float = 600.0) -> Death:
    worker = WorkerProcess(WorkerOptions(how, device="cpu"), lambda _: None, heartbeat_timeout, 600.0)
    await worker.start()
    async with asyncio.timeout(300):
        found = await worker.watch()
    assert worker.pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(worker.pid, 0)
    return found


@pytest.mark.parametrize(
    ("how", "cause", "text"),
    [
        ("signal SIGSEGV", Cause.CRASH, "crashed with SIGSEGV"),
        ("signal SIGTERM", Cause.KILLED, "was killed from outside by SIGTERM"),
        ("signal SIGKILL", Cause.KILLED, "was killed from outside by SIGKILL; "),
        ("killed-early", Cause.KILLED, "was killed from outside by SIGKILL while it loaded; "),
        ("status 3", Cause.CRASH, "ended by itself with status 3"),
        ("slowly 3", Cause.CRASH, "ended by itself with status 3"),
        ("failed", Cause.START, "could not start: no memory"),
    ],
)
def test_the_cause_of_a_death_is_told(monkeypatch: pytest.MonkeyPatch, how: str, cause: Cause, text: str) -> None:
    monkeypatch.setattr(supervisor, "run_worker", end)
    monkeypatch.setattr(supervisor, "EXIT_SECONDS", 100.0)
    found = asyncio.run(death(how))
    assert found.cause is cause
    assert found.text.startswith(text)


def test_a_worker_that_the_supervisor_ends_does_not_count_as_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "run_worker", end)
    monkeypatch.setattr(supervisor, "EXIT_SECONDS", 0.1)
    assert asyncio.run(death("never")) == Death(Cause.CRASH, "closed its pipe but went on running, and was killed")
    hung = asyncio.run(death("hangs", heartbeat_timeout=0.3))
    assert hung.cause is Cause.HANG
    assert hung.text.startswith("made no step for ")


class Busy:
    """A machine that gives a worker a processor only after 20 looks."""

    looks = 0

    def __init__(self, _pid: int | None) -> None: ...

    def stuck(self, age: float) -> float:
        Busy.looks += 1
        return 0.0 if Busy.looks <= 20 else age


def test_a_worker_that_waits_for_a_processor_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "run_worker", end)
    monkeypatch.setattr(supervisor, "CpuWait", Busy)
    monkeypatch.setattr(Busy, "looks", 0)
    assert asyncio.run(death("hangs", heartbeat_timeout=0.01)).cause is Cause.HANG
    assert Busy.looks == 21


def test_the_wait_for_a_processor_is_counted() -> None:
    processor = min(os.sched_getaffinity(0))
    busy = [sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{processor}])\nwhile True: pass"]
    with subprocess.Popen(busy) as one, subprocess.Popen(busy) as other:
        try:
            waits = CpuWait(one.pid)
            while waits.stuck(1000.0) > 999.95:  # the two share one processor
                time.sleep(0.01)
        finally:
            one.kill()
            other.kill()
    assert waits.stuck(1000.0) <= 999.95  # it has ended; what it waited stays
    assert CpuWait(None).stuck(1000.0) == 1000.0  # there is none


def test_threads_that_wait_in_turn_make_one_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A step needs both of its threads. Each look is a second later, and another one of them has waited since."""
    now = [0.0]
    monkeypatch.setattr("app.pool.cpu_wait.time.monotonic", lambda: now[0])
    monkeypatch.setattr("app.pool.cpu_wait.Path", lambda _: tmp_path)

    def write(thread: int, ran: float, waited: float) -> None:
        (tmp_path / str(thread)).mkdir(exist_ok=True)
        (tmp_path / str(thread) / "schedstat").write_text(f"{int(ran * 1e9)} {int(waited * 1e9)} 3\n")

    for thread in (1, 2):
        write(thread, 5, 7)
    waits = CpuWait(1)
    for second in range(1, 11):
        now[0] += 1.0
        write(1 + second % 2, 5, 7 + (second + 1) // 2)
        found = waits.stuck(now[0])
    assert found == pytest.approx(0.0)
    for thread in (1, 2):  # both wait at once: a second is a second
        write(thread, 5, 90)
    now[0] += 1.0
    assert waits.stuck(now[0]) == pytest.approx(0.0)
    write(1, 14, 90)  # and who runs without end hangs, whatever the other does
    assert waits.stuck(now[0]) == pytest.approx(9.0)
