"""The pool's decisions, over worker processes that do what a test tells them: bounds, ledger, deadlines, drain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from app.pool.job import Job
from model.errors import (
    DalleError,
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    Overloaded,
    PaintingFailed,
    PromptTooLong,
    RequestCancelled,
    WorkerFailed,
)
from model.inference.events import Cancelled, Failed, Painted, Partial, Progress, Started
from model.inference.messages import Cancel, StartFailed
from model.inference.requests import SamplingParams
from tests.app.puppets import READY, Puppet, Stage, fails, order_of, read


class Clock:
    """The monotonic clock, which stands still until a test sets it."""

    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the pool and of the event loop."""
    made = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: made.now)
    return made


def test_events_reach_the_job_and_the_ledger_holds(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        job = await stage.order(images=2)
        (request,) = stage.worker.requests
        stage.worker.say(Started(request.id), Progress(request.id, (3, 2)))
        stage.worker.paint(request)
        events = await read(job)
        assert [type(event) for event in events] == [Started, Progress, Painted, Painted]
        assert [event.index for event in events if isinstance(event, Painted)] == [0, 1]
        assert stage.outcomes() == (1, 0, 0, 0)
        assert stage.pool.stats().pictures == 2

    play(scene)


def test_orders_wait_for_a_worker_that_loads(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        assert stage.pool.not_ready() == "the model is being loaded"
        await stage.order()
        assert stage.worker.sent == []
        stage.worker.say(READY)
        assert stage.pool.not_ready() is None
        assert len(stage.worker.requests) == 1

    play(scene, ready=False)


def test_a_worker_gets_twice_its_slots_and_the_rest_waits_in_order(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        jobs = [await stage.order(images=3, guidance=2.0) for _ in range(4)]  # 6 rows each, of 4 slots
        assert [request.id for request in stage.worker.requests] == [jobs[0].id, jobs[1].id]
        assert [stage.pool.ahead(job) for job in jobs] == [0, 3, 6, 9]
        stage.worker.paint(stage.worker.requests[0])
        assert [request.id for request in stage.worker.requests] == [job.id for job in jobs[:3]]
        assert stage.pool.stats().queued_requests == 1

    play(scene)


def test_background_jobs_never_let_a_slot_wait_and_take_no_room_from_others(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        plain = order_of()
        behind = replace(plain, request=replace(plain.request, background=True))
        jobs = [await stage.pool.submit(behind) for _ in range(10)]
        assert len(stage.worker.requests) == 8  # of 4 slots
        stage.worker.paint(stage.worker.requests[0])
        assert len(stage.worker.requests) == 9
        others = [await stage.order() for _ in range(3)]
        assert [request.id for request in stage.worker.requests[9:]] == [job.id for job in others]
        stage.worker.paint(stage.worker.requests[1])
        assert not any(request.id == jobs[9].id for request in stage.worker.requests)  # the others fill its place

    play(scene)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        for _ in range(2):
            await stage.order(images=5)
        with pytest.raises(Overloaded, match="10 pictures are waiting or being painted, and it takes 12") as caught:
            await stage.order(images=3)
        assert caught.value.retry_after == pytest.approx(10 / 4 * 0.5 * 10)  # pictures / slots * seconds a picture
        await stage.order(images=2)  # what fits is taken
        assert stage.pool.stats().accepted == 3

    play(scene, queue=12)


def test_a_client_has_its_share(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        await stage.order(images=4, client="a")
        with pytest.raises(Overloaded, match="your share of the queue is full: 4 pictures") as caught:
            await stage.order(images=1, client="a")
        assert caught.value.per_client
        await stage.order(images=4, client="b")

    play(scene, client_queue=4)


def test_what_cannot_be_painted_is_refused_before_it_is_taken(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        with pytest.raises(PromptTooLong):
            await stage.pool.submit(order_of("🦆" * 100))
        with pytest.raises(InvalidRequest, match="top_k must be .*, got 17"):
            await stage.pool.submit(order_of("a", params=SamplingParams(1, top_k=17)))
        with pytest.raises(DeadlineExceeded):
            await stage.order(seconds=0.0)
        assert stage.pool.stats().accepted == 0

    play(scene)


def test_a_long_text_is_read_elsewhere_and_holds_its_place_meanwhile(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        def long(truncate: bool) -> asyncio.Task[Job]:
            order = order_of("🦆 " * 10_000, 10, truncate=truncate)
            return asyncio.create_task(stage.pool.submit(order))

        submitting = long(truncate=False)
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="10 pictures are waiting or being painted, and it takes 12"):
            await stage.order(images=3)
        with pytest.raises(PromptTooLong, match="at most 256 text tokens"):
            await submitting
        job = await long(truncate=True)
        assert len(job.request.text_ids) == 258
        assert job.tokens > 10_000
        stage.pool.cancel(job)

        submitting = long(truncate=True)
        await asyncio.sleep(0)
        await stage.pool.drain(1)
        with pytest.raises(Draining):
            await submitting
        assert stage.outcomes() == (0, 0, 1, 0)

    play(scene, queue=12)


def test_an_order_holds_its_place_while_its_picture_is_read(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        order = order_of(images=10)
        with stage.pool.hold(order):
            for _ in range(2):
                with pytest.raises(Overloaded, match="10 pictures are waiting or being painted, and it takes 12"):
                    await stage.order(images=3)
        await stage.pool.submit(order)
        with pytest.raises(Overloaded), stage.pool.hold(order):
            raise AssertionError("two of ten are more than twelve")
        assert stage.pool.stats().pictures_in_flight == 10

    play(scene, queue=12)


def test_a_deadline_ends_a_job_that_waits_or_runs(play: Callable[..., None], clock: Clock) -> None:
    async def scene(stage: Stage) -> None:
        running, waiting = await stage.order(images=10, seconds=0.2), await stage.order(images=10, seconds=0.2)
        stage.worker.say(READY, Started(running.id))  # only now, or the second one would be refused at once
        clock.now += 0.2
        for job in (running, waiting):
            assert "within its 0.2 s" in str(await fails(job, DeadlineExceeded))
        assert stage.worker.sent[-1] == Cancel(running.id)
        assert stage.outcomes() == (0, 0, 0, 2)
        assert stage.pool.stats().queued_requests == 0

    play(scene, ready=False)


@pytest.mark.usefixtures("clock")
def test_an_order_that_cannot_be_in_time_is_refused_unless_it_is_alone(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        picture = READY.seconds_per_step * READY.steps
        first = await stage.order(images=4, seconds=0.5 * picture)  # a try harms nobody
        with pytest.raises(Overloaded, match="would take about 10 s, and it has 6 s") as caught:
            await stage.order(seconds=1.2 * picture)
        assert caught.value.retry_after == pytest.approx(0.8 * picture)
        assert not caught.value.per_client
        await stage.order(seconds=1.5 * picture)  # forecasts err
        stage.pool.cancel(first)
        await stage.order(images=3, seconds=0.9 * picture)  # beside the one that is left

    play(scene)


def test_a_deadline_that_passed_is_noticed_when_its_turn_comes(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        await stage.order(images=10)
        (running,) = stage.worker.requests
        late = await stage.order(seconds=20.0)
        late.deadline = time.monotonic() - 1  # as if the event loop had stood still meanwhile
        stage.worker.paint(running)
        assert stage.worker.requests == [running]
        await fails(late, DeadlineExceeded)
        assert stage.outcomes() == (1, 0, 0, 1)

    play(scene)


def test_a_cancelled_job_holds_its_slots_until_the_worker_answers(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        first, second = await stage.order(images=10), await stage.order(images=1)
        stage.pool.cancel(first)
        stage.pool.cancel(first)  # nothing happens
        await fails(first, RequestCancelled)
        assert stage.worker.sent[1:] == [Cancel(first.id)]
        stage.worker.say(Painted(first.id, 0, b"", b"", 0.1))  # said before it read the cancel: nobody is harmed
        stage.worker.say(Cancelled(first.id))
        assert [request.id for request in stage.worker.requests] == [first.id, second.id]
        assert stage.outcomes() == (0, 0, 1, 0)

    play(scene)


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (Failed("", "numerical_error", "not a number"), PaintingFailed),
        (Failed("", "invalid_request", "seed: wrong", "seed"), InvalidRequest),
        (Failed("", "deadline_exceeded", "late"), DeadlineExceeded),
    ],
)
def test_a_workers_failure_is_answered(play: Callable[..., None], event: Failed, kind: type[DalleError]) -> None:
    async def scene(stage: Stage) -> None:
        job = await stage.order()
        stage.worker.say(Failed(job.id, event.code, event.message, event.field))
        assert str(await fails(job, kind)) == event.message

    play(scene)


def test_drain_takes_nothing_new_finishes_what_it_can_and_fails_the_rest(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        quick, slow = await stage.order(), await stage.order()
        draining = asyncio.create_task(stage.pool.drain(0.2))
        await asyncio.sleep(0)
        assert stage.pool.not_ready() == "the server is shutting down"
        with pytest.raises(Draining):
            await stage.order()
        stage.worker.paint(stage.worker.requests[0])
        assert len(await read(quick)) == 1
        await fails(slow, Draining)
        await draining
        assert stage.outcomes() == (1, 1, 0, 0)

    play(scene)


def test_what_was_asked_in_the_background_outlives_a_pool_that_can_paint_no_more(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        waits = await stage.order()
        order = order_of()
        rests = await stage.pool.submit(replace(order, request=replace(order.request, background=True)))
        stage.worker.say(StartFailed("the weights are damaged", permanent=True))
        assert str(await fails(rests, Draining)) == "the server is shutting down; it goes on with this later"
        await fails(waits, WorkerFailed)
        assert stage.pool.fatal == "the weights are damaged"

    play(scene)


def test_drain_ends_with_the_last_job(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        await stage.order()
        draining = asyncio.create_task(stage.pool.drain(1000))
        await asyncio.sleep(0)
        stage.worker.paint(stage.worker.requests[0])
        async with asyncio.timeout(60):
            await draining

    play(scene)


def test_a_slow_reader_holds_the_latest_frame_only(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        job = await stage.order(images=2)
        (request,) = stage.worker.requests
        for rows in range(1, 9):
            stage.worker.say(Progress(request.id, (rows, rows)), Partial(request.id, 0, rows, bytes([rows])))
        reader = job.join()
        assert await anext(reader) == Progress(request.id, (8, 8))
        assert await anext(reader) == Partial(request.id, 0, 8, b"\x08")
        stage.worker.say(Partial(request.id, 1, 3, b""), Partial(request.id, 0, 4, b""))  # rows never go back
        stage.worker.paint(request)
        assert [type(event) async for event in reader] == [Painted, Painted]

    play(scene)


def test_two_devices_share_the_work(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        while len(Puppet.started) < 2:
            await asyncio.sleep(0.001)
        Puppet.started[1].say(READY)
        for _ in range(4):
            await stage.order(images=4)
        assert [len(worker.requests) for worker in Puppet.started] == [2, 2]
        assert stage.pool.stats().slots == 8

    play(scene, device="cuda:0,cuda:1")
