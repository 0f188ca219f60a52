"""A job is one accepted request. It knows its order and tells its clients what happens to it.

Jobs live on the event loop. The pool posts events to a job and ends it exactly once. Every client reads the events
with a reader of its own. Most jobs have one client:

    reader = job.join()
    async for event in reader:  # Started, Progress, Partial, Painted
        ...                     # the loop ends after the last picture, or raises the job's error
    pool.leave(reader)          # always; when the last reader leaves, the job is cancelled

A reader keeps only the latest unread event of each kind and picture. A slow client therefore holds one frame of each
picture in memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from model.errors import DalleError, DeadlineExceeded
from model.inference.events import (
    Event,
    Judged,
    Painted,
    Partial,
    Progress,
    Revised,
    Started,
    Times,
)
from model.inference.requests import GenerationRequest

POISONOUS = 2  # a job fails when so many workers crashed or hung while they painted it
HUNGRY = 3  # a job is painted alone and last when so many workers were killed from outside while they painted it


class Outcome(StrEnum):
    """How a job ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True)
class Elsewhere:
    """Places that requests before this one take in all pools, where a front passes requests on to several.

    models: pictures by the model's name as requests write it; "" for the default one. own: those of the same client.
    pace: of all pools, as `forecast.slots_a_second`; 0.0 while it is not known.
    """

    models: Mapping[str, int]
    own: int
    pace: float = 0.0


@dataclass(frozen=True)
class Order:
    """What a route asks of the pool.

    text: the prompt. request: the pictures. The pool sets its id, text_ids and deadline when it accepts the order.
    model: the name of the model that paints; "" for the default one.
    truncate: whether a text that is too long is cut instead of refused.
    seconds: from `began` (monotonic seconds) to the deadline; None for no deadline.
    client: the client whose share of the queue this order uses; "" for none.
    shared: whether other clients may join the job. If they may, its pictures are kept as long as the job.
    request_id: names the request in the log.
    trace: the span that asks for it, as the header traceparent of W3C writes it; "" for none.
    elsewhere: the places that are taken in all pools; None if this pool is the only one.
    """

    text: str
    request: GenerationRequest
    truncate: bool = False
    seconds: float | None = None
    client: str = ""
    began: float = field(default_factory=time.monotonic)
    shared: bool = False
    request_id: str = ""
    model: str = ""
    trace: str = ""
    elsewhere: Elsewhere | None = None

    @property
    def deadline(self) -> float | None:
        """The deadline in monotonic seconds, None for none."""
        return None if self.seconds is None else self.began + self.seconds

    @property
    def slots_per_image(self) -> int:
        """Slots of the KV cache that one picture takes."""
        return self.request.slots_per_image

    @property
    def rows_done(self) -> list[int]:
        """For each picture the number of its rows of cells that are painted: 0."""
        return [0] * self.request.num_images


class Job:
    """An accepted order. Its request has an id, text_ids and a deadline.

    id: that of the request. tokens: how many the whole text has. read: how many of them the model reads.
    accepted, started, ended: monotonic seconds; None until it happens.
    ended_at: seconds since 1970; None until it ends.
    outcome: how it ended; None until then. error: why it failed; None if it did not.
    crashes: how many workers crashed or hung while they painted it. kills: how many workers were killed from outside
    while they painted it.
    rows_done: for each picture the number of its rows of cells that are painted.
    revised: the text that the worker paints in place of the prompt, before any style; None if it has changed nothing.
    judged: how well that text says the prompt; None until the worker has read it.
    observed: whether the metrics have counted its times. times: those of each painted picture, by its index.
    """

    def __init__(self, order: Order, tokens: int, read: int | None = None) -> None:
        self.order = order
        self.request = order.request
        self.id = self.request.id
        self.deadline = self.request.deadline
        self.tokens = tokens
        self.read = tokens if read is None else read
        self.accepted = time.monotonic()
        self.started: float | None = None
        self.ended: float | None = None
        self.ended_at: float | None = None
        self.outcome: Outcome | None = None
        self.revised: Revised | None = None
        self.judged: Judged | None = None
        self.crashes = 0
        self.kills = 0
        self.rows_done = order.rows_done
        self.error: DalleError | None = None
        self.observed = False
        self.times: dict[int, Times] = {}
        self._painted: dict[int, Painted | None] = {}
        self._partial: dict[int, int] = {}  # index -> finished rows of the picture when it was last shown
        self._first: Reader | None = Reader(self, joined=False)
        self._readers = [self._first]
        self._callbacks: list[Callable[[], None]] = []

    @property
    def prompt(self) -> str:
        """The text that is painted: the prompt as it was sent, completed or revised. A style may change it further."""
        return self.revised.text if self.revised else self.order.text

    def text_of(self, painted: Painted) -> str:
        """The text that this picture was painted from, in its style."""
        return self.prompt if painted.text is None else painted.text

    @property
    def background(self) -> bool:
        """Whether other jobs go before it, and it has no place in the queue's bounds."""
        return self.request.background

    @property
    def poisonous(self) -> bool:
        """Whether workers probably crash because of this job. It must not be painted again."""
        return self.crashes >= POISONOUS

    @property
    def hungry(self) -> bool:
        """Whether workers may be killed because of the memory that this job takes."""
        return self.kills >= HUNGRY

    @property
    def alone(self) -> bool:
        """Whether the job must be painted without other jobs, because workers may die of it."""
        return self.crashes > 0 or self.hungry

    @property
    def unpainted(self) -> int:
        """Pictures that are still to be painted."""
        return self.request.num_images - len(self._painted)

    @property
    def slots_per_image(self) -> int:
        """Slots of the KV cache that one picture takes."""
        return self.request.slots_per_image

    @property
    def slots(self) -> int:
        """Slots that all its unpainted pictures take together."""
        return self.unpainted * self.slots_per_image

    def remaining(self) -> GenerationRequest:
        """What a worker has to paint: the shortest run of pictures that holds all missing ones."""
        first, count = self.request.first_index, self.request.num_images
        missing = [i for i in range(first, first + count) if i not in self._painted] or [first]
        return replace(self.request, first_index=missing[0], num_images=missing[-1] - missing[0] + 1)

    def post(self, event: Event, first_index: int) -> None:
        """Pass an event of a worker on to the readers. first_index: of the request that the worker was given.

        A picture that is painted again, because its worker died, is sent only once. Its number of finished rows never
        falls.
        """
        if self.outcome is not None:
            return
        match event:
            case Started():
                if self.started is not None:
                    return
                self.started = time.monotonic()
            case Revised():
                self.revised = event  # the next worker says the same again
                return
            case Judged():
                self.judged = event
                return
            case Progress(rows_done=rows):
                offset = first_index - self.request.first_index
                for i, done in enumerate(rows, offset):
                    self.rows_done[i] = max(self.rows_done[i], done)
                event = Progress(event.request_id, tuple(self.rows_done))
            case Partial(index=index, rows_done=done):
                if index in self._painted or done <= self._partial.get(index, 0):
                    return
                self._partial[index] = done
            case Painted(index=index):
                if index in self._painted:
                    return
                self._painted[index] = event if self.order.shared else None
                if event.times is not None:
                    self.times[index] = event.times
        for reader in self._readers:
            reader.put(event)

    def end(self, outcome: Outcome, error: DalleError | None = None) -> None:
        """End the job. Its readers get the events that are left, and then `error`. The pool calls this exactly once."""
        self.outcome, self.error, self.ended, self.ended_at = outcome, error, time.monotonic(), time.time()
        for reader in self._readers:
            reader.wake()
        for callback in self._callbacks:
            callback()

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the job ends, or at once if it has ended."""
        if self.outcome is None:
            self._callbacks.append(callback)
        else:
            callback()

    def join(self, seconds: float | None = None) -> Reader:
        """A new reader, which must be given back to `WorkerPool.leave`.

        The first reader gets every event. A later reader gets the finished pictures and all later events.
        seconds: from now until the later reader's own deadline; None for the job's deadline.
        """
        if self._first is not None:
            reader, self._first = self._first, None
            return reader
        reader = Reader(self, seconds)
        for event in self._painted.values():
            if event is not None:
                reader.put(event)
        self._readers.append(reader)
        return reader

    def leave(self, reader: Reader) -> bool:
        """Remove a reader. Returns whether none is left."""
        if reader in self._readers:
            self._readers.remove(reader)
        return not self._readers

    @property
    def size(self) -> int:
        """How many bytes, roughly, the job keeps for later readers."""
        pictures = sum(len(event.rgb) + len(event.tokens) for event in self._painted.values() if event)
        return pictures + len(self.request.image or b"") + 4 * len(self.order.text)


class Reader:
    """The events that one client has not read yet. It is an asynchronous iterator; the module shows its use.

    since: monotonic seconds at which this client's request began. joined: whether it joined another client's job.
    """

    def __init__(self, job: Job, seconds: float | None = None, joined: bool = True) -> None:
        self.job = job
        self.joined = joined
        self.since = time.monotonic()
        self._seconds = seconds
        self._pending: dict[Hashable, Event] = {}  # in the order of arrival
        self._wake = asyncio.Event()

    @property
    def deadline(self) -> float | None:
        """The client's deadline in monotonic seconds, None for none."""
        if not self.joined:
            return self.job.deadline
        seconds = self._seconds or self.job.order.seconds
        return None if seconds is None else self.since + seconds

    def put(self, event: Event) -> None:
        """Add an event. It replaces an unread one of the same kind and picture."""
        key: Hashable = type(event).__name__
        match event:
            case Partial(index=index):
                key = ("partial", index)
            case Painted(index=index):
                key = ("painted", index)
                self._pending.pop(("partial", index), None)
        self._pending.pop(key, None)
        self._pending[key] = event
        self._wake.set()

    def wake(self) -> None:
        """Wake a waiting client, because the job has ended."""
        self._wake.set()

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> Event:
        """The next event. Raises the job's error, and DeadlineExceeded if this reader's own deadline passes."""
        while not self._pending:
            if self.job.outcome is not None:
                if self.job.error is not None:
                    raise self.job.error
                raise StopAsyncIteration
            self._wake.clear()
            await self._woken()
        return self._pending.pop(next(iter(self._pending)))

    async def _woken(self) -> None:
        if self._seconds is None:
            await self._wake.wait()
            return
        try:
            async with asyncio.timeout(self.since + self._seconds - time.monotonic()):
                await self._wake.wait()
        except TimeoutError:
            raise late(self._seconds) from None


def late(seconds: float | None) -> DeadlineExceeded:
    """The error of a request that was not done within `seconds`."""
    return DeadlineExceeded(f"the request was not done within its {seconds:g} s")
