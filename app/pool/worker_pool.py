"""The pool of worker processes on this machine. It accepts orders up to its bounds, and keeps one worker a device.

The event loop owns all state. Nothing is awaited between a check and the change that depends on it. An order gets its
place in the queue before any work is done for it, so that no place is given twice.

A worker that dies is replaced (see `deaths`), and its jobs are painted again with the same seeds (see `job_queue`). A
job keeps its finished pictures. It can be cancelled, and its deadline can pass, at any time, also without a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from app.checkpoint import ServedCheckpoint
from app.pool.deaths import Cause
from app.pool.device_worker import DeviceWorker, Held
from app.pool.early import EarlyWorker
from app.pool.forecast import Work, rows_until_done
from app.pool.job import Job, Order, Outcome, Reader, late
from app.pool.job_queue import JobQueue
from app.pool.keeper import Keeper
from app.pool.stats import PoolStats
from app.pool.supervisor import WorkerProcess
from app.settings import Settings
from model.errors import (
    DalleError,
    Draining,
    Overloaded,
    RequestCancelled,
    WorkerFailed,
)
from model.inference import events
from model.inference.events import Event
from model.inference.messages import Cancel, Heartbeat, Ready, WorkerOptions

SURE = 1.5  # a request is refused if its forecast is longer than this many times its time, since forecasts err
LONG_TEXT = (
    500  # characters; a longer text is tokenized in a thread, since a shorter one takes a few milliseconds at most
)
log = logging.getLogger("dalle.pool")


class WorkerPool:
    """The pool of worker processes on this machine, one for each device of the settings.

        reader = (await pool.submit(order)).join()  # raises Overloaded, Draining, PromptTooLong, ...
        async for event in reader: ...
        pool.leave(reader)                          # always, at the end

    checkpoint: the model that is served. fatal: why the server has to end; None unless it has to.
    process: the class of worker processes. early: processes that were started before the pool; see `start_early`.
    """

    def __init__(
        self,
        settings: Settings,
        checkpoint: ServedCheckpoint,
        process: type[WorkerProcess] = WorkerProcess,
        early: Sequence[EarlyWorker] = (),
    ) -> None:
        self.checkpoint = checkpoint
        self.fatal: str | None = None
        self._settings = settings
        self._workers = [
            DeviceWorker(
                WorkerOptions(
                    checkpoint=str(settings.weights),
                    device=device,
                    slots=settings.slots,
                    threads=settings.threads,
                    dtype=settings.dtype,
                    strict=settings.strict,
                    known=checkpoint.known,
                )
            )
            for device in settings.devices
        ]
        self._ids = itertools.count(1)
        self._jobs: dict[str, Job] = {}  # in flight
        self._queue = JobQueue(self._workers)  # the jobs in flight that no worker has
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._reserved: list[Order] = []  # places given to orders whose text is still being read
        self._accepted = 0
        self._outcomes: Counter[Outcome] = Counter()
        self._pictures = 0
        self._tokens = 0  # of workers that have ended
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._keeper = Keeper(self._workers, settings, process, self._on_message, self._on_death, self._give_up, early)

    # --- what the routes use

    async def start(self) -> None:
        """Begin to load the model. It returns at once. Orders may be submitted before a worker is ready."""
        self._keeper.start()

    async def submit(self, order: Order) -> Job:
        """Accept an order. It waits only for the tokens of a long text, after it has reserved the order's place.

        Raises Overloaded, Draining, DeadlineExceeded, PromptTooLong or InvalidRequest, and then nothing is accepted.
        """
        order.request.params.check(self.checkpoint.config.vae.codes)
        with self.hold(order):
            if len(order.text) <= LONG_TEXT:
                text_ids, tokens = self.checkpoint.tokenize(order.text, order.truncate)
            else:
                text_ids, tokens = await asyncio.to_thread(self.checkpoint.tokenize, order.text, order.truncate)
                self._check_open()
        job_id = f"job-{next(self._ids)}/{order.request_id}"
        request = replace(order.request, id=job_id, text_ids=tuple(text_ids), deadline=order.deadline)
        job = Job(replace(order, request=request), tokens, len(text_ids) - self.checkpoint.tokenizer.specials)
        self._accepted += 1
        self._jobs[job.id] = job
        self._queue.add(job)
        self._idle.clear()
        if job.deadline is not None:
            delay = job.deadline - time.monotonic()
            self._timers[job.id] = asyncio.get_running_loop().call_later(delay, self._expire, job)
        self._dispatch()
        return job

    @contextlib.contextmanager
    def hold(self, order: Order) -> Iterator[None]:
        """Keep a place in the queue for an order while the context lasts.

        Raises what `submit` raises if there is no room. At the end the place is free again. Submit the order then at
        once, without an await in between.
        """
        self._check_room(order)
        self._reserved.append(order)
        try:
            yield
        finally:
            self._reserved.remove(order)

    def _check_room(self, order: Order) -> None:
        self._check_open()
        if order.deadline is not None and time.monotonic() >= order.deadline:
            raise late(order.seconds)
        ahead = self._in_flight()
        if ahead + order.request.num_images > self._settings.queue:
            limit = self._settings.queue
            message = f"the queue is full: {ahead} pictures are waiting or being painted, and it takes {limit}"
            raise Overloaded(message, self._seconds(ahead))
        share = self._settings.client_queue
        if share and order.client and (own := self._in_flight(order.client)) + order.request.num_images > share:
            counts = f"{own} pictures are waiting or being painted, and it takes {share}"
            message = f"your share of the queue is full: {counts}"
            raise Overloaded(message, self._seconds(own), per_client=True)
        others: list[Work] = [*self._jobs.values(), *self._reserved]
        if order.deadline is not None and others:  # a request that is alone is always tried
            given = order.deadline - time.monotonic()
            needed = self._forecast([*others, order], order) or 0.0
            if needed > SURE * given:
                message = f"with those before it the request would take about {needed:.3g} s, and it has {given:.3g} s"
                raise Overloaded(message, needed - given)

    def cancel(self, job: Job) -> None:
        """End the job. Its slots are free one step later. Nothing happens if it has ended."""
        self._end(job, Outcome.CANCELLED, RequestCancelled("the request was cancelled"))

    def leave(self, reader: Reader) -> None:
        """Remove a reader whose client wants no more. The job is cancelled unless others read it, too."""
        if reader.job.leave(reader):
            self.cancel(reader.job)

    def ahead(self, job: Job) -> int:
        """How many pictures are painted before the first one of this job. 0 once it has started."""
        if job.started is not None or job.outcome is not None:
            return 0
        earlier = itertools.takewhile(lambda other: other is not job, self._jobs.values())
        return sum(other.unpainted for other in earlier)

    def seconds_left(self, job: Job) -> float | None:
        """Seconds until its last picture is painted, at the measured pace. None while no worker is ready."""
        return self._forecast(self._jobs.values(), job)

    def _forecast(self, works: Iterable[Work], work: Work) -> float | None:
        """Seconds until `work`, which is among `works`, is done. None while no worker is ready."""
        workers = [(worker, worker.ready) for worker in self._workers if worker.ready]
        if not workers:
            return None
        slots = sum(ready.slots for _, ready in workers)
        pace = sum(worker.seconds_per_row for worker, _ in workers) / len(workers)
        return rows_until_done(works, work, workers[0][1].grid, slots) * pace

    def stats(self) -> PoolStats:
        """The figures of the pool. It reads memory and waits for nothing."""
        ready = [worker for worker in self._workers if worker.ready]
        known = [worker.stats for worker in ready if worker.stats]
        return PoolStats(
            accepted=self._accepted,
            completed=self._outcomes[Outcome.COMPLETED],
            failed=self._outcomes[Outcome.FAILED],
            cancelled=self._outcomes[Outcome.CANCELLED],
            expired=self._outcomes[Outcome.EXPIRED],
            in_flight=len(self._jobs),
            queued_requests=len(self._queue),
            pictures_in_flight=self._in_flight(),
            queue_limit=self._settings.queue,
            pictures=self._pictures,
            tokens=self._tokens + sum(stats.tokens for stats in known),
            tokens_per_second=sum(stats.tokens_per_second for stats in known if stats.slots_busy),
            workers=len(self._workers),
            workers_ready=len(ready),
            worker_deaths=self._keeper.deaths.counts.copy(),
            slots=sum(worker.ready.slots for worker in ready if worker.ready),
            slots_busy=sum(stats.slots_busy for stats in known),
            heartbeat_age=max((worker.process.age for worker in ready if worker.process), default=None),
            draining=self._draining,
        )

    def not_ready(self) -> str | None:
        """Why orders would not be painted now, or None if they would. It reads memory and waits for nothing."""
        if self.fatal:
            return self.fatal
        if self._draining:
            return "the server is shutting down"
        ages = [worker.process.age for worker in self._workers if worker.ready and worker.process]
        if not ages:
            if (seconds := self._keeper.seconds_to_start()) is not None:
                return f"the worker was killed from outside; another one is started in {seconds:.1f} s"
            return "the model is being loaded"
        if min(ages) > self._settings.heartbeat_timeout:
            return f"the worker has made no step for {min(ages):.0f} s"
        return None

    async def drain(self, seconds: float) -> None:
        """Accept no more orders, and wait for the accepted ones. After `seconds` the remaining ones fail."""
        self._draining = True
        self._keeper.hurry()
        log.info("draining: %d requests in flight have %g s to finish", len(self._jobs), seconds)
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            self._fail_all(Draining("the server is shutting down and could not finish this request in time"))

    async def stop(self) -> None:
        """End the workers. Jobs that have not ended fail."""
        self._draining = True
        self._fail_all(Draining("the server is shutting down"))
        await self._keeper.stop()

    def kill(self) -> None:
        """End the workers at once. This works when the event loop no longer runs."""
        self._keeper.kill()

    # --- the queue

    def _in_flight(self, client: str | None = None) -> int:
        """Pictures that have a place in the queue: of all clients, or of one."""
        accepted = sum(job.unpainted for job in self._jobs.values() if client in (None, job.order.client))
        return accepted + sum(order.request.num_images for order in self._reserved if client in (None, order.client))

    def _check_open(self) -> None:
        if self._draining or self.fatal:
            raise Draining(self.fatal or "the server is shutting down and takes no more requests")

    def _seconds(self, pictures: int) -> float:
        """Seconds until so many pictures are painted at the measured pace, or at 1 s a picture while none is known."""
        pace = 0.0  # pictures a second
        for worker in self._workers:
            if ready := worker.ready:
                step = worker.stats.seconds_per_step if worker.stats else ready.seconds_per_step
                pace += ready.slots / self._mean_slots() / max(step * ready.steps, 1e-3)
        return pictures / pace if pace else float(pictures)

    def _mean_slots(self) -> float:
        """How many slots a picture in flight takes, on average."""
        slots = sum(job.slots for job in self._jobs.values())
        pictures = sum(job.unpainted for job in self._jobs.values())
        return slots / pictures if pictures else 1.0

    def _dispatch(self) -> None:
        """Give jobs to the workers that have room for them."""
        for worker, job in self._queue.give_out():
            self._give(worker, job)

    def _give(self, worker: DeviceWorker, job: Job) -> None:
        if job.outcome is not None or worker.process is None:
            return
        if job.deadline is not None and time.monotonic() >= job.deadline:  # the event loop was busy: its timer is late
            self._expire(job)
            return
        request = job.remaining()
        worker.held[job.id] = Held(job, request, request.num_images)
        worker.process.send(request)

    # --- the end of a job

    def _end(self, job: Job, outcome: Outcome, error: DalleError | None = None) -> None:
        """End a job. Every job ends here, and only once."""
        if self._jobs.pop(job.id, None) is None:
            return
        self._queue.discard(job)
        if timer := self._timers.pop(job.id, None):
            timer.cancel()
        for worker in self._workers:
            if job.id in worker.held and worker.process and outcome is not Outcome.COMPLETED:
                worker.process.send(Cancel(job.id))
        self._outcomes[outcome] += 1
        job.end(outcome, error)
        if not self._jobs:
            self._idle.set()

    def _expire(self, job: Job) -> None:
        self._end(job, Outcome.EXPIRED, late(job.order.seconds))

    def _fail_all(self, error: DalleError) -> None:
        for job in list(self._jobs.values()):
            self._end(job, Outcome.FAILED, error)

    # --- workers

    def _on_death(self, worker: DeviceWorker, cause: Cause) -> None:
        """Take back the jobs of a worker that died."""
        self._tokens += worker.stats.tokens if worker.stats else 0
        worker.stats = None
        for job in self._queue.take_back(worker, cause):
            message = "two workers crashed or hung while they painted this request; it is not tried again"
            self._end(job, Outcome.FAILED, WorkerFailed(message, poison=True))
        self._dispatch()  # another worker may have room

    def _give_up(self, cause: str) -> None:
        self.fatal = cause
        self._fail_all(WorkerFailed("the server can paint no more and is ending"))

    def _on_message(self, worker: DeviceWorker, message: Any) -> None:
        match message:
            case Ready():
                log.info(
                    "ready: %s on %s (%s), %d parameters, %d slots, %d threads, loaded in %.1f s, warmed up in %.1f s",
                    *(message.model, message.device, message.dtype, message.parameters, message.slots, message.threads),
                    *(message.load_seconds, message.warm_up_seconds),
                )
                self._dispatch()
            case Heartbeat():
                worker.stats = message.stats
                for held in worker.held.values():  # a cancel that was lost on the way is sent again
                    if held.job.outcome is not None and worker.process:
                        worker.process.send(Cancel(held.job.id))
            case Event():
                self._on_event(worker, message)

    def _on_event(self, worker: DeviceWorker, event: Event) -> None:
        held = worker.held.get(event.request_id)
        if held is None:
            return
        job = held.job
        match event:
            case events.Finished():
                del worker.held[job.id]
                self._end(job, Outcome.COMPLETED)
            case events.Cancelled():
                del worker.held[job.id]
                self._end(job, Outcome.CANCELLED, RequestCancelled("the request was cancelled"))
            case events.Failed():
                del worker.held[job.id]
                outcome = Outcome.EXPIRED if event.code == events.DEADLINE_EXCEEDED else Outcome.FAILED
                self._end(job, outcome, event.error())
            case events.Started():
                held.started = True
                job.post(event, held.request.first_index)
                return
            case events.Painted():
                held.unpainted -= 1
                self._pictures += 1
                job.post(event, held.request.first_index)
            case _:
                job.post(event, held.request.first_index)
                return
        self._dispatch()
