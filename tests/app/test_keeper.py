"""Workers that crash, hang, are killed or cannot start: what happens to them and to their jobs."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Callable

import pytest

from app.pool import deaths
from app.pool.deaths import BUDGET
from app.pool.job import HUNGRY, Job
from model.errors import DeadlineExceeded, Draining, RequestCancelled, WorkerFailed
from model.inference.events import Painted, Progress, Started
from model.inference.messages import StartFailed
from tests.app.puppets import READY, Puppet, Stage, fails, read

KILLED = -signal.SIGKILL


def given(worker: Puppet) -> list[str]:
    """The ids of the jobs that a worker was given, in order."""
    return [request.id for request in worker.requests]


def begin(worker: Puppet, *jobs: Job) -> None:
    worker.say(*(Started(job.id) for job in jobs))


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was killed is replaced at once."""
    monkeypatch.setattr(deaths, "FIRST_WAIT", 0.0)


@pytest.fixture
def long_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was killed is replaced after the end of any test."""
    monkeypatch.setattr(deaths, "FIRST_WAIT", 1000.0)


def test_after_a_crash_what_is_missing_is_painted_again_alone_with_the_same_seed(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        jobs = [await stage.order(images=3) for _ in range(3)]
        first, second, third = stage.worker.requests
        stage.worker.say(Started(first.id), Started(second.id), Progress(first.id, (9, 9, 9)))
        stage.worker.paint(first, 0)
        stage.worker.die()
        worker = await stage.next_worker()
        (again,) = worker.requests  # a suspect, alone; the one that only waited is not given yet
        assert (again.id, again.first_index, again.num_images) == (first.id, 1, 2)
        assert (again.params, again.text_ids) == (first.params, first.text_ids)
        worker.say(Started(again.id), Progress(again.id, (1, 1)))
        worker.paint(again)
        assert [request.id for request in worker.requests] == [first.id, second.id]
        worker.paint(worker.requests[1])
        assert [request.id for request in worker.requests] == [first.id, second.id, third.id]
        worker.paint(worker.requests[2])
        events = await read(jobs[0])
        assert [event.index for event in events if isinstance(event, Painted)] == [0, 1, 2]
        assert [event.rows_done for event in events if isinstance(event, Progress)] == [(9, 9, 9)]  # never back
        assert stage.outcomes() == (3, 0, 0, 0)
        assert stage.pool.stats().worker_deaths == {"crash": 1, "hang": 0, "killed": 0, "start": 0}

    play(scene)


def test_a_request_under_which_two_workers_died_is_poison_and_its_neighbours_live(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        poison, neighbour = await stage.order(), await stage.order()
        stage.worker.say(Started(poison.id), Started(neighbour.id))
        stage.worker.die()
        worker = await stage.next_worker()
        worker.say(Started(poison.id))
        worker.die()
        error = await fails(poison, WorkerFailed)
        assert isinstance(error, WorkerFailed)
        assert error.poison
        worker = await stage.next_worker()
        (request,) = worker.requests
        assert request.id == neighbour.id
        worker.paint(request)
        assert len(await read(neighbour)) == 2
        assert stage.outcomes() == (1, 1, 0, 0)

    play(scene)


def test_a_request_that_crashes_workers_before_it_starts_is_found_too(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        job = await stage.order()
        stage.worker.die()
        (await stage.next_worker()).die()
        await fails(job, WorkerFailed)

    play(scene)


def test_five_deaths_in_a_minute_end_the_server_and_nobody_waits_on(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        for _ in range(BUDGET - 1):
            stage.worker.die()
            await stage.next_worker()
        job = await stage.order()
        stage.worker.die()
        await fails(job, WorkerFailed)
        assert stage.pool.fatal == stage.pool.not_ready()
        assert "5 workers died within 60 s" in str(stage.pool.fatal)
        with pytest.raises(Draining):
            await stage.order()

    play(scene)


def test_a_checkpoint_that_cannot_be_loaded_ends_the_server(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        job = await stage.order()
        stage.worker.say(StartFailed("weights/x: altered"))
        await fails(job, WorkerFailed)
        assert stage.pool.fatal == "weights/x: altered"

    play(scene, ready=False)


def test_a_worker_that_makes_no_step_is_replaced(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        job = await stage.order()
        stage.worker.say(Started(job.id))
        stage.worker.alive_at = time.monotonic() - 100
        assert re.fullmatch(r"the worker has made no step for 1\d\d s", str(stage.pool.not_ready()))
        worker = await stage.next_worker()
        worker.paint(worker.requests[0])
        await read(job)
        assert stage.pool.stats().worker_deaths["hang"] == 1

    play(scene)


@pytest.mark.usefixtures("no_wait")
def test_kills_from_outside_end_neither_a_request_nor_the_server(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        job = await stage.order(images=3)
        for kills in range(3 * BUDGET):
            (request,) = stage.worker.requests
            assert (request.params.seed, request.first_index) == (1, 0 if kills == 0 else 1)
            begin(stage.worker, job)
            if kills == 0:
                stage.worker.paint(request, 0)
            stage.worker.die(KILLED)
            await stage.next_worker()
            assert stage.pool.fatal is None
            stage.outcomes()
        stage.worker.paint(stage.worker.requests[0])
        events = await read(job)
        assert [event.index for event in events if isinstance(event, Painted)] == [0, 1, 2]
        assert stage.outcomes() == (1, 0, 0, 0)
        assert stage.pool.stats().worker_deaths == {"crash": 0, "hang": 0, "killed": 3 * BUDGET, "start": 0}

    play(scene)


@pytest.mark.usefixtures("no_wait")
def test_jobs_under_a_kill_go_back_in_order_and_beside_each_other(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        jobs = [await stage.order(images=3) for _ in range(4)]  # the last one has no room
        begin(stage.worker, *jobs[:2])
        stage.worker.die(KILLED)
        worker = await stage.next_worker()
        assert given(worker) == [job.id for job in jobs[:3]]

    play(scene)


@pytest.mark.usefixtures("no_wait")
def test_a_job_under_three_kills_is_painted_alone_and_after_those_that_wait(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        hungry = await stage.order()
        for _ in range(HUNGRY - 1):
            begin(stage.worker, hungry)
            stage.worker.die(KILLED)
            await stage.next_worker()
        begin(stage.worker, hungry)
        others = [await stage.order(images=4) for _ in range(2)]
        waits = await stage.order(images=4)
        stage.worker.die(KILLED)
        for _ in range(3):  # again and again: it costs the others one attempt each time, and never their turn
            worker = await stage.next_worker()
            assert given(worker) == [job.id for job in others]
            begin(worker, *others)
            worker.paint(worker.requests[0])
            assert given(worker)[2:] == [waits.id]
            later = [await stage.order(images=4) for _ in range(3)]
            worker.paint(worker.requests[1])
            assert given(worker)[3:] == []  # the turn of the hungry one, which waits until it is alone
            assert stage.pool.stats().queued_requests == 4
            worker.paint(worker.requests[2])
            assert given(worker)[3:] == [hungry.id]
            begin(worker, hungry)
            worker.die(KILLED)
            others, waits = later[:2], later[2]
        worker = await stage.next_worker()
        for index in range(4):
            worker.paint(worker.requests[index])
        assert given(worker) == [*(job.id for job in others), waits.id, hungry.id]
        assert stage.outcomes() == (13, 0, 0, 0)
        assert stage.pool.stats().worker_deaths["killed"] == HUNGRY + 3

    play(scene)


@pytest.mark.usefixtures("no_wait")
def test_jobs_that_were_never_begun_under_three_kills_are_not_blamed(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        painted, waiting = await stage.order(images=4), await stage.order(images=4)
        for _ in range(HUNGRY):
            begin(stage.worker, painted)
            stage.worker.die(KILLED)
            await stage.next_worker()
        assert given(stage.worker) == [waiting.id]
        later = await stage.order(images=3)
        assert given(stage.worker) == [waiting.id]  # the hungry one is before it
        stage.worker.paint(stage.worker.requests[0])
        assert given(stage.worker)[1:] == [painted.id]
        stage.worker.paint(stage.worker.requests[1])
        assert given(stage.worker)[2:] == [later.id]

    play(scene)


@pytest.mark.usefixtures("no_wait")
def test_a_kill_leaves_suspects_alone_and_does_not_make_them_poison(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        first, second = await stage.order(), await stage.order()
        begin(stage.worker, first, second)
        stage.worker.die()
        for _ in range(2):
            worker = await stage.next_worker()
            assert given(worker) == [first.id]
            begin(worker, first)
            worker.die(KILLED)
        worker = await stage.next_worker()
        assert given(worker) == [first.id]
        begin(worker, first)
        worker.die()
        error = await fails(first, WorkerFailed)
        assert isinstance(error, WorkerFailed)
        assert error.poison
        worker = await stage.next_worker()
        assert given(worker) == [second.id]
        worker.paint(worker.requests[0])
        assert len(await read(second)) == 2
        assert stage.outcomes() == (1, 1, 0, 0)

    play(scene)


@pytest.mark.usefixtures("no_wait")
def test_a_worker_that_is_killed_while_it_loads_is_started_again_and_blames_nobody(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        job = await stage.order()
        for started in range(1, 3 * BUDGET):
            stage.worker.die(KILLED)
            while len(Puppet.started) == started:
                await asyncio.sleep(0.001)
        assert stage.pool.fatal is None
        assert job.kills == 0
        stage.worker.say(READY)
        stage.worker.paint(stage.worker.requests[0])
        await read(job)

    play(scene, ready=False)


async def killed_for_long(stage: Stage) -> None:
    """Kill the worker, and wait until another one is waited for."""
    stage.worker.die(KILLED)
    while not str(stage.pool.not_ready()).startswith("the worker was killed from outside; another one is started in"):
        await asyncio.sleep(0.001)


@pytest.mark.usefixtures("long_wait")
def test_cancel_and_deadline_do_not_wait_for_the_next_worker(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        cancelled = await stage.order()
        begin(stage.worker, cancelled)
        await killed_for_long(stage)
        late = await stage.order(seconds=0.2)
        stage.pool.cancel(cancelled)
        await fails(cancelled, RequestCancelled)
        await fails(late, DeadlineExceeded)
        with pytest.raises(DeadlineExceeded):
            await stage.order(seconds=0.0)
        assert stage.outcomes() == (0, 0, 1, 1)
        assert len(Puppet.started) == 1
        await stage.pool.drain(1000)  # nothing is left: it does not wait either

    play(scene)


@pytest.mark.usefixtures("long_wait")
def test_a_drain_cuts_the_wait_short_and_finishes_what_was_accepted(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        job = await stage.order()
        await killed_for_long(stage)
        draining = asyncio.create_task(stage.pool.drain(1000))
        worker = await stage.next_worker()
        worker.paint(worker.requests[0])
        assert len(await read(job)) == 1
        await draining
        assert stage.outcomes() == (1, 0, 0, 0)

    play(scene)


@pytest.mark.usefixtures("long_wait")
def test_the_jobs_of_a_worker_that_waits_are_painted_by_another_one(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        while len(Puppet.started) < 2:
            await asyncio.sleep(0.001)
        one, other = Puppet.started
        other.say(READY)
        first, second = await stage.order(images=4), await stage.order(images=4)
        assert (given(one), given(other)) == ([first.id], [second.id])
        begin(one, first)
        one.die(KILLED)
        while given(other) != [second.id, first.id]:
            await asyncio.sleep(0.001)
        assert stage.pool.not_ready() is None

    play(scene, device="cuda:0,cuda:1")
