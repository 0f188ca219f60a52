"""The pool's decisions, over worker processes that do what a test tells them: bounds, ledger, crashes, drain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.checkpoint import ServedCheckpoint
from app.pool.job import Job, Order
from app.pool.supervisor import ENDED, WorkerProcess
from app.pool.worker_pool import DEATHS, WorkerPool
from app.settings import Settings
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
from model.inference.events import (
    Cancelled,
    Event,
    Failed,
    Finished,
    Painted,
    Partial,
    Progress,
    Started,
)
from model.inference.messages import Cancel, Ready, StartFailed, Submit
from model.inference.requests import GenerationRequest, SamplingParams

READY = Ready(
    model="quick", device="cpu", dtype="float32", strict=True, slots=4, threads=1, widths=(4,), parameters=1,
    cache_bytes=1, load_seconds=0.0, warm_up_seconds=0.0, seconds_per_step=0.5, steps=10, text_tokens=256,
    image_vocab=16, grid=16, image_size=128,
)  # fmt: skip


class Puppet(WorkerProcess):
    """A worker without a process. `started` are all of them, in order."""

    started: list[Puppet]

    async def start(self) -> None:
        self.sent: list[Any] = []
        type(self).started.append(self)

    def send(self, message: Any) -> None:
        self.sent.append(message)

    async def stop(self) -> None:
        self.die()

    def kill(self) -> None:
        self.die()

    def _reap(self) -> int:
        return -9

    def die(self) -> None:
        self._end(ENDED)

    def say(self, *messages: Any) -> None:
        for message in messages:
            self._take(message)

    @property
    def requests(self) -> list[GenerationRequest]:
        return [message.request for message in self.sent if isinstance(message, Submit)]

    def paint(self, request: GenerationRequest, *indices: int) -> None:
        """Say that pictures are done; without indices all, and that the request is."""
        all_of_them = range(request.first_index, request.first_index + request.num_images)
        for index in indices or all_of_them:
            self.say(Painted(request.id, index, b"rgb", b"", 0.1))
        if not indices:
            self.say(Finished(request.id))


class Stage:
    """A pool over puppets."""

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool
        self._known = 1

    @property
    def worker(self) -> Puppet:
        return Puppet.started[-1]

    async def next_worker(self) -> Puppet:
        """The replacement of the last worker, ready."""
        while len(Puppet.started) == self._known:
            await asyncio.sleep(0.001)
        self._known += 1
        self.worker.say(READY)
        return self.worker

    async def order(
        self, images: int = 1, seconds: float | None = None, client: str = "", guidance: float = 1.0
    ) -> Job:
        params = SamplingParams(seed=1, guidance=guidance)
        return await self.pool.submit(Order("a red apple", images, params, seconds=seconds, client=client))

    def outcomes(self) -> tuple[int, ...]:
        """Completed, failed, cancelled, expired; the ledger is checked."""
        stats = self.pool.stats()
        ended = (stats.completed, stats.failed, stats.cancelled, stats.expired)
        assert stats.accepted == sum(ended) + stats.in_flight
        return ended


async def read(job: Job) -> list[Event]:
    return [event async for event in job.join()]


async def fails(job: Job, kind: type[DalleError]) -> DalleError:
    with pytest.raises(kind) as caught:
        await asyncio.wait_for(read(job), 5)
    return caught.value


@pytest.fixture
def play(quick_checkpoint: Path) -> Callable[..., None]:
    """play(scene, **settings): run an async scene on a stage whose first worker is ready."""
    checkpoint = ServedCheckpoint.read(quick_checkpoint)

    @asynccontextmanager
    async def stage(ready: bool, settings: dict[str, Any]) -> AsyncIterator[Stage]:
        Puppet.started = []
        pool = WorkerPool(Settings(weights=quick_checkpoint, **settings), checkpoint, Puppet)
        await pool.start()
        while not Puppet.started:
            await asyncio.sleep(0)
        if ready:
            Puppet.started[0].say(READY)
        try:
            yield Stage(pool)
        finally:
            await pool.stop()

    def run(scene: Callable[[Stage], Coroutine[Any, Any, None]], ready: bool = True, **settings: Any) -> None:
        async def main() -> None:
            async with stage(ready, settings) as made:
                await asyncio.wait_for(scene(made), 20)

        asyncio.run(main())

    return run


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


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        for _ in range(2):
            await stage.order(images=5)
        with pytest.raises(Overloaded, match="10 pictures are waiting or painted, of 12 at most") as caught:
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
            await stage.pool.submit(Order("🦆" * 100, 1, SamplingParams(1)))
        with pytest.raises(InvalidRequest, match="top_k must be .*, got 17"):
            await stage.pool.submit(Order("a", 1, SamplingParams(1, top_k=17)))
        with pytest.raises(DeadlineExceeded):
            await stage.order(seconds=0.0)
        assert stage.pool.stats().accepted == 0

    play(scene)


def test_a_long_text_is_read_elsewhere_and_holds_its_place_meanwhile(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        def long(truncate: bool) -> asyncio.Task[Job]:
            order = Order("🦆 " * 10_000, 10, SamplingParams(1), truncate=truncate)
            return asyncio.create_task(stage.pool.submit(order))

        submitting = long(truncate=False)
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="10 pictures are waiting or painted, of 12 at most"):
            await stage.order(images=3)
        with pytest.raises(PromptTooLong, match="at most 256 text tokens"):
            await submitting
        job = await long(truncate=True)
        assert len(job.text_ids) == 258
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
        order = Order("a red apple", 10, SamplingParams(1))
        with stage.pool.hold(order):
            for _ in range(2):
                with pytest.raises(Overloaded, match="10 pictures are waiting or painted, of 12 at most"):
                    await stage.order(images=3)
        await stage.pool.submit(order)
        with pytest.raises(Overloaded), stage.pool.hold(order):
            raise AssertionError("two of ten are more than twelve")
        assert stage.pool.stats().pictures_in_flight == 10

    play(scene, queue=12)


def test_a_deadline_ends_a_job_that_waits_or_runs(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        running, waiting = await stage.order(images=10, seconds=0.2), await stage.order(images=10, seconds=0.2)
        stage.worker.say(READY, Started(running.id))  # only now, or the second one would be refused at once
        for job in (running, waiting):
            assert "within its 0.2 s" in str(await fails(job, DeadlineExceeded))
        assert stage.worker.sent[-1] == Cancel(running.id)
        assert stage.outcomes() == (0, 0, 0, 2)
        assert stage.pool.stats().queued_requests == 0

    play(scene, ready=False)


def test_what_cannot_be_done_in_time_is_refused_unless_nobody_is_before_it(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        picture = READY.seconds_per_step * READY.steps
        first = await stage.order(images=4, seconds=0.5 * picture)  # a try harms nobody
        with pytest.raises(Overloaded, match="would take about 10 s, and it has [56]") as caught:
            await stage.order(seconds=1.2 * picture)
        assert caught.value.retry_after == pytest.approx(0.8 * picture, abs=0.5)
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


def test_a_cancelled_job_holds_its_rows_until_the_worker_lets_go(play: Callable[..., None]) -> None:
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
def test_what_a_worker_gives_up_is_answered(play: Callable[..., None], event: Failed, kind: type[DalleError]) -> None:
    async def scene(stage: Stage) -> None:
        job = await stage.order()
        stage.worker.say(Failed(job.id, event.code, event.message, event.field))
        assert str(await fails(job, kind)) == event.message

    play(scene)


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
        assert stage.pool.stats().worker_deaths == 1

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


def test_a_request_that_kills_before_it_is_started_is_found_too(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        job = await stage.order()
        stage.worker.die()
        (await stage.next_worker()).die()
        await fails(job, WorkerFailed)

    play(scene)


def test_five_deaths_in_a_minute_end_the_server_and_nobody_waits_on(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        for _ in range(DEATHS - 1):
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
        assert str(stage.pool.not_ready()).startswith("the worker has made no step for 100 s")
        worker = await stage.next_worker()
        worker.paint(worker.requests[0])
        await read(job)

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


def test_drain_ends_with_the_last_job(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        await stage.order()
        draining = asyncio.create_task(stage.pool.drain(1000))
        await asyncio.sleep(0)
        stage.worker.paint(stage.worker.requests[0])
        await asyncio.wait_for(draining, 1)

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
