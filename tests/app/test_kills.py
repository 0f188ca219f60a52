"""Real workers that are killed again and again: no request is lost, no picture changes, and the server lives."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.app.live import COMMAND, Live, ledger
from tests.app.test_lifecycle import LONG, at_once, exit_status

Start = Callable[..., Live]
KILLED = 'dalle_worker_deaths_total{cause="killed"}'
CRASHED = 'dalle_worker_deaths_total{cause="crash"}'

NO_WAIT = f"from app.pool import deaths; deaths.FIRST_WAIT = 0.01; {COMMAND}"
LONG_WAIT = f"from app.pool import deaths; deaths.FIRST_WAIT = 1000.0; {COMMAND}"
# Every worker stands still from the moment at which it is ready, and has got its jobs when the server says ready.
STOP_WHEN_READY = f"""
import os, signal
from app.pool.supervisor import WorkerProcess
take = WorkerProcess._take
def stop_when_ready(self, message):
    if type(message).__name__ == "Ready":
        os.kill(self.pid, signal.SIGSTOP)
    take(self, message)
WorkerProcess._take = stop_when_ready
{NO_WAIT}"""


def send(server: Live, *signals: signal.Signals) -> None:
    """Send the one worker signals, and wait until the server has counted its death if one of them ends it."""
    (worker,) = server.wait(server.workers, "no worker")
    dead = deaths(server)
    for number in signals:
        os.kill(worker, number)
    if signals != (signal.SIGCONT,):
        server.wait(lambda: deaths(server) == dead + 1, "the worker's death was not counted")


def deaths(server: Live) -> float:
    return sum(count for name, count in server.metrics().items() if name.startswith("dalle_worker_deaths_total"))


def test_six_kills_under_requests_change_no_picture(start: Start) -> None:
    server = start(slots=2, command=STOP_WHEN_READY).ready()
    send(server, signal.SIGCONT)
    requests = [LONG | {"seed": seed} for seed in range(2)]
    expected = [server.pictures(**request) for request in requests]
    painted = server.metrics()["dalle_pictures_total"]
    futures = at_once(server, requests)
    server.wait(lambda: server.metrics()["dalle_pictures_total"] > painted, "nothing was painted")
    for _ in range(6):
        send(server, signal.SIGKILL)
        server.ready()
    send(server, signal.SIGCONT)
    assert [future.result().json() for future in futures] == expected
    assert server.client.get("/livez").status_code == 200
    metrics = server.metrics()
    assert metrics["dalle_pictures_total"] == 40  # none was painted twice that was finished
    assert (metrics[KILLED], metrics[CRASHED]) == (6, 0)
    assert ledger(metrics)["completed"] == 4
    assert server.log.count("was killed from outside by SIGKILL; ") == 6


def test_a_request_under_which_two_workers_crash_is_still_poison(start: Start) -> None:
    server = start(command=STOP_WHEN_READY).ready()
    (poison,) = at_once(server, [LONG])
    for number in (signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT):  # the kill in between does not count
        assert not poison.done()
        send(server, number, signal.SIGCONT)
        server.ready()
    answer = poison.result()
    assert answer.status_code == 500
    assert "two workers crashed or hung" in answer.json()["Error"]
    send(server, signal.SIGCONT)
    assert len(server.pictures(**LONG)) == 10
    metrics = server.metrics()
    assert (metrics[KILLED], metrics[CRASHED]) == (1, 2)
    ledger(metrics)
    assert "crashed with SIGSEGV" in server.log
    assert "crashed with SIGABRT" in server.log


def test_a_worker_that_is_killed_while_it_loads_is_started_again(start: Start) -> None:
    server = start(command=NO_WAIT)
    (request,) = at_once(server, [LONG])
    for _ in range(6):
        send(server, signal.SIGKILL)
    assert request.result().status_code == 200
    metrics = server.metrics()
    assert metrics[KILLED] == 6
    assert deaths(server) == 6
    assert "was killed from outside by SIGKILL while it loaded" in server.log


def test_a_loop_of_kills_loses_no_request_of_many_clients(start: Start) -> None:
    server = start(command=NO_WAIT).ready()
    seeds = range(4)
    expected = [server.pictures(text="a blue circle", num_images=3, seed=seed) for seed in seeds]
    kills_done = threading.Event()

    def client(seed: int) -> int:
        answered = 0
        while not kills_done.is_set() or not answered:
            assert server.pictures(text="a blue circle", num_images=3, seed=seed) == expected[seed]
            answered += 1
        return answered

    def kill_loop() -> None:
        try:
            for _ in range(3):
                painted = server.metrics()["dalle_pictures_total"]
                server.wait(lambda painted=painted: server.metrics()["dalle_pictures_total"] > painted, "none painted")
                send(server, signal.SIGKILL)
                ledger(server.metrics())
        finally:
            kills_done.set()

    with ThreadPoolExecutor(5) as threads:
        killing = threads.submit(kill_loop)
        answered = sum(threads.map(client, seeds))
        killing.result()
    metrics = server.metrics()
    assert metrics[KILLED] == 3
    assert ledger(metrics) == {
        "accepted": 4 + answered, "completed": 4 + answered, "failed": 0, "cancelled": 0, "expired": 0,
    }  # fmt: skip


@pytest.mark.parametrize("accepted", [0, 1])
def test_nothing_waits_for_a_worker_that_is_started_later(start: Start, accepted: int) -> None:
    server = start(command=LONG_WAIT, drain=300).ready()
    send(server, signal.SIGKILL)
    server.wait(lambda: "is started in 1000 s" in server.log, "no line about the death")
    why = server.client.get("/readyz").json()["Error"]
    assert why.startswith("the worker was killed from outside; another one is started in")
    late = server.post(json=LONG, headers={"X-Request-Timeout": "0.5"})
    assert late.status_code == 504
    futures = at_once(server, [LONG] * accepted) if accepted else []
    server.process.send_signal(signal.SIGTERM)
    assert [future.result().status_code for future in futures] == [200] * accepted
    assert exit_status(server) == 0
    assert "Traceback" not in server.log
