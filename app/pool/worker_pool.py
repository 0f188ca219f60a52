"""The pool of worker processes on this machine. It accepts orders up to its bounds.

It has one worker a device for each model that is in memory (see `residents`). All models share one queue. Each has some
of its places to itself.

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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from app.models import Models
from app.pool.deaths import Cause
from app.pool.device_worker import DeviceWorker, Held
from app.pool.early import EarlyWorker
from app.pool.forecast import seconds_for, seconds_until_done, slots_a_second
from app.pool.job import Job, Order, Outcome, Reader, late
from app.pool.lane import Lane, State
from app.pool.places import Places
from app.pool.residents import IDLE, Residents
from app.pool.stats import PoolStats
from app.pool.supervisor import WorkerProcess
from app.settings import Settings
from model.errors import (
    DalleError,
    Draining,
    ModelFailed,
    RequestCancelled,
    WorkerFailed,
)
from model.inference import events
from model.inference.events import Event
from model.inference.messages import Cancel, Heartbeat, Ready

LOAD_KILLS = 3  # a model's loading fails when so many of its workers were killed from outside
LONG_TEXT = 500  # characters; a longer text is tokenized in a thread. A shorter one takes a few milliseconds at most
log = logging.getLogger("dalle.pool")


class WorkerPool:
    """The pool of worker processes on this machine, one for each loaded model and device of the settings.

        reader = (await pool.submit(order)).join()  # raises Overloaded, Draining, PromptTooLong, ...
        async for event in reader: ...
        pool.leave(reader)                          # always, at the end

    models: those that are served. fatal: why the server has to end; None unless it has to.
    on_end: called with every job that has ended.
    process: the class of worker processes. idle_seconds: until a model without work is put away.
    early: processes that were started before the pool, for the default model; see `start_early`.
    """

    def __init__(
        self,
        settings: Settings,
        models: Models | None = None,
        process: type[WorkerProcess] = WorkerProcess,
        idle_seconds: float = IDLE,
        early: Sequence[EarlyWorker] = (),
    ) -> None:
        self.models = models or Models.read(settings)
        self.fatal: str | None = None
        self.on_end: Callable[[Job], None] = lambda _: None
        self._settings = settings
        self._lanes = {
            name: Lane(
                name,
                checkpoint,
                settings,
                process,
                self._on_message,
                self._on_death,
                self._on_give_up,
                early if name == self.models.default else (),
            )
            for name, checkpoint in self.models.served.items()
        }
        self._default = self._lanes[self.models.default]
        self._residents = Residents([*self._lanes.values()], settings, self._dispatch, self._on_gone, idle_seconds)
        self._given = itertools.count(1)
        self._ids = itertools.count(1)
        self._jobs: dict[str, Job] = {}  # in flight
        self._places = Places(settings, self._lanes, self._jobs, self.models.named)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._accepted = 0
        self._outcomes: Counter[Outcome] = Counter()
        self._pictures = 0
        self._tokens = 0  # of workers that have ended
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    # --- what the routes use

    @property
    def ending(self) -> bool:
        """Whether it takes no more orders."""
        return self._draining or self.fatal is not None

    async def start(self) -> None:
        """Begin to load the default model. It returns at once. Orders may be submitted before a worker is ready."""
        self._residents.start()

    async def submit(self, order: Order) -> Job:
        """Accept an order. It waits only for the tokens of a long text, after it has reserved the order's place.

        Raises Overloaded, Draining, DeadlineExceeded, ModelFailed, PromptTooLong or InvalidRequest, and then nothing is
        accepted.
        """
        lane = self._lane(order)
        checkpoint = lane.checkpoint
        order.request.params.check(checkpoint.config.vae.codes)
        with self.hold(order):
            if len(order.text) <= LONG_TEXT:
                text_ids, tokens = checkpoint.tokenize(order.text, order.truncate)
            else:
                text_ids, tokens = await asyncio.to_thread(checkpoint.tokenize, order.text, order.truncate)
                self._check_open(lane)
        job_id = f"job-{next(self._ids)}/{order.request_id}"
        request = replace(order.request, id=job_id, text_ids=tuple(text_ids), deadline=order.deadline)
        order = replace(order, request=request, model=lane.name)
        job = Job(order, tokens, len(text_ids) - checkpoint.tokenizer.specials)
        self._accepted += 1
        self._jobs[job.id] = job
        lane.queue.add(job)
        self._idle.clear()
        if job.deadline is not None:
            delay = job.deadline - time.monotonic()
            self._timers[job.id] = asyncio.get_running_loop().call_later(delay, self._expire, job)
        self._dispatch()
        self._residents.wake()
        return job

    @contextlib.contextmanager
    def hold(self, order: Order) -> Iterator[None]:
        """Keep a place in the queue for an order while the context lasts.

        Raises what `submit` raises if there is no room. At the end the place is free again. Submit the order then at
        once, without an await in between.
        """
        lane = self._lane(order)
        self._check_open(lane)
        with self._places.hold(order, lane):
            yield

    def cancel(self, job: Job) -> None:
        """End the job. Its slots are free one step later. Nothing happens if it has ended."""
        self._end(job, Outcome.CANCELLED, RequestCancelled("the request was cancelled"))

    def leave(self, reader: Reader) -> None:
        """Remove a reader whose client wants no more. The job is cancelled unless others read it, too."""
        if reader.job.leave(reader):
            self.cancel(reader.job)

    def ahead(self, job: Job) -> int:
        """How many pictures its model paints before the first one of this job. 0 once it has started."""
        if job.started is not None or job.outcome is not None:
            return 0
        earlier = itertools.takewhile(lambda other: other is not job, self._jobs_of(self._lane(job.order)))
        return sum(other.unpainted for other in earlier)

    def seconds_left(self, job: Job) -> float | None:
        """Seconds until its last picture is painted, at the measured pace. None while no worker is ready."""
        lane = self._lane(job.order)
        return seconds_until_done(self._jobs_of(lane), job, lane.workers)

    def seconds_for(self, pictures: int, model: str) -> float:
        """Seconds in which the model of this name paints so many pictures, with the checkpoint's guidance."""
        lane = self._lanes[model]
        slots = 1 if lane.checkpoint.config.sampling.guidance == 1.0 else 2
        return seconds_for(pictures, slots, slots_a_second(lane.workers))

    def stats(self) -> PoolStats:
        """The figures of the pool. It reads memory and waits for nothing."""
        lanes = self._lanes.values()
        running = [worker for lane in lanes if lane.state is not State.AWAY for worker in lane.workers]
        ready = [worker for worker in running if worker.ready]
        known = [worker.stats for worker in ready if worker.stats]
        return PoolStats(
            accepted=self._accepted,
            completed=self._outcomes[Outcome.COMPLETED],
            failed=self._outcomes[Outcome.FAILED],
            cancelled=self._outcomes[Outcome.CANCELLED],
            expired=self._outcomes[Outcome.EXPIRED],
            in_flight=len(self._jobs),
            queued_requests=sum(len(lane.queue) for lane in lanes),
            pictures_in_flight=self._places.taken(),
            queue_limit=self._settings.queue,
            pictures=self._pictures,
            tokens=self._tokens + sum(stats.tokens for stats in known),
            tokens_per_second=sum(stats.tokens_per_second for stats in known if stats.slots_busy),
            workers=len(running),
            workers_ready=len(ready),
            worker_deaths={
                cause: sum(lane.keeper.deaths.counts[cause] for lane in lanes)
                for cause in self._default.keeper.deaths.counts
            },
            models_loaded={lane.name: lane.state is State.LOADED for lane in lanes},
            slots=sum(worker.ready.slots for worker in ready if worker.ready),
            slots_busy=sum(stats.slots_busy for stats in known),
            pace=self._places.pace(),
            heartbeat_age=max((worker.process.age for worker in ready if worker.process), default=None),
            draining=self._draining,
        )

    def not_ready(self) -> str | None:
        """Why orders would not be painted now, or None if they would. It reads memory and waits for nothing."""
        if self.fatal:
            return self.fatal
        if self._draining:
            return "the server is shutting down"
        if self._default.failed:
            return f"the model {self._default.name} cannot be loaded"
        if self._default.known and self._default.state is not State.LOADED:
            return None  # it makes room for others, and is loaded again when it is asked for
        ages = [worker.process.age for worker in self._default.workers if worker.ready and worker.process]
        if not ages:
            if (seconds := self._default.keeper.seconds_to_start()) is not None:
                return f"the worker was killed from outside; another one is started in {seconds:.1f} s"
            return "the model is being loaded"
        if min(ages) > self._settings.heartbeat_timeout:
            return f"the worker has made no step for {min(ages):.0f} s"
        return None

    async def drain(self, seconds: float) -> None:
        """Accept no more orders, and wait for the accepted ones. After `seconds` the remaining ones fail."""
        self._draining = True
        for lane in self._lanes.values():
            lane.keeper.hurry()
        self._rest()
        log.info("draining: %d requests in flight have %g s to finish", len(self._jobs), seconds)
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            self._fail_all(Draining("the server is shutting down and could not finish this request in time"))

    async def stop(self) -> None:
        """End the workers. Jobs that have not ended fail."""
        self._draining = True
        self._fail_all(Draining("the server is shutting down"))
        await self._residents.stop()

    def kill(self) -> None:
        """End the workers at once. This works when the event loop no longer runs."""
        for lane in self._lanes.values():
            lane.keeper.kill()

    # --- the queue

    def _lane(self, order: Order) -> Lane:
        """The model that paints this order."""
        return self._lanes[order.model or self.models.default]

    def _jobs_of(self, lane: Lane) -> Iterator[Job]:
        """The jobs in flight of this model, in the order of their acceptance, those in the background last."""
        jobs = [job for job in self._jobs.values() if job.order.model == lane.name]
        return iter(sorted(jobs, key=lambda job: job.background))

    def _check_open(self, lane: Lane) -> None:
        if self.ending:
            raise Draining(self.fatal or "the server is shutting down and takes no more requests")
        if lane.failed:
            raise ModelFailed(lane.name)

    def _dispatch(self) -> None:
        """Give jobs to the workers that have room for them."""
        for lane in self._lanes.values():
            for worker, job in lane.give_out():
                lane.used = next(self._given)
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
        lane = self._lane(job.order)
        lane.queue.discard(job)
        if timer := self._timers.pop(job.id, None):
            timer.cancel()
        for worker in lane.workers:
            if job.id in worker.held and worker.process and outcome is not Outcome.COMPLETED:
                worker.process.send(Cancel(job.id))
        self._outcomes[outcome] += 1
        job.end(outcome, error)
        self.on_end(job)
        self._residents.wake()
        if not self._jobs:
            self._idle.set()

    def _expire(self, job: Job) -> None:
        self._end(job, Outcome.EXPIRED, late(job.order.seconds))

    def _rest(self) -> None:
        """End the background jobs. Whoever submitted them has them painted later, or elsewhere."""
        for job in [job for job in self._jobs.values() if job.background]:
            self._end(job, Outcome.CANCELLED, Draining("the server is shutting down; it goes on with this later"))

    def _fail_all(self, error: DalleError) -> None:
        for job in list(self._jobs.values()):
            self._end(job, Outcome.FAILED, error)

    # --- workers

    def _on_death(self, lane: Lane, worker: DeviceWorker, cause: Cause) -> None:
        """Take back the jobs of a worker that died."""
        self._tokens += worker.stats.tokens if worker.stats else 0
        worker.stats = None
        for job in lane.queue.take_back(worker, cause):
            message = "two workers crashed or hung while they painted this request; it is not tried again"
            self._end(job, Outcome.FAILED, WorkerFailed(message, poison=True))
        lane.kills += cause is Cause.KILLED and lane.state is State.LOADING
        if lane.kills >= LOAD_KILLS and len(self._lanes) > 1 and lane.known | (lane is not self._default):
            self._on_give_up(lane, f"{LOAD_KILLS} workers were killed while they loaded it; out of memory?", False)
        self._dispatch()  # another worker may have room

    def _on_give_up(self, lane: Lane, cause: str, permanent: bool) -> None:
        """No worker of this model is started any more. The server ends if it is the default one and was never ready."""
        if len(self._lanes) == 1 or (lane is self._default and not lane.known):
            self.fatal = cause
            self._rest()
            self._fail_all(WorkerFailed("the server can paint no more and is ending"))
            return
        log.error("%s cannot be loaded: %s", lane.name, cause)
        lane.failed, lane.gave_up = permanent, True
        for job in list(self._jobs_of(lane)):
            self._end(job, Outcome.FAILED, ModelFailed(lane.name))
        lane.settled.set()
        self._residents.wake()

    def _on_gone(self, lane: Lane) -> None:
        """The workers of a model have ended because it was put away."""
        for worker in lane.workers:
            self._tokens += worker.stats.tokens if worker.stats else 0
            worker.stats = None
            worker.held.clear()
            worker.alone.clear()

    def _on_message(self, lane: Lane, worker: DeviceWorker, message: Any) -> None:
        match message:
            case Ready():
                log.info(
                    "ready: %s on %s (%s, products in %s), %d parameters, %d slots, %d threads, loaded in %.1f s, "
                    "warmed up in %.1f s",
                    *(lane.name, message.device, message.dtype, message.products, message.parameters),
                    *(message.slots, message.threads, message.load_seconds, message.warm_up_seconds),
                )
                lane.known = True
                self._residents.arrived(lane)
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
        self._residents.wake()
