"""A job is one accepted request. It knows its order, and tells its clients what happens to it.

Jobs live on the event loop. The pool posts events to a job, and ends it exactly once. Every client reads the events
with a reader of its own; most jobs have one client:

    reader = job.join()
    async for event in reader:  # Started, Progress, Partial, Painted
        ...                     # the loop ends after the last picture, or raises why the job failed
    pool.leave(reader)          # always; when the last reader leaves, the job is cancelled

A reader keeps only the latest unread event of each kind, and of each picture. A slow client therefore holds one frame a
picture in memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import StrEnum

from model.errors import DalleError, DeadlineExceeded
from model.inference.events import (
    Event,
    Painted,
    Partial,
    Progress,
    Revised,
    Started,
)
from model.inference.requests import Completion, GenerationRequest, SamplingParams

POISONOUS = 2  # crashes and hangs of workers under a job, after which it fails
HUNGRY = 3  # kills of workers from outside under a job, after which it is painted alone and last


class Outcome(StrEnum):
    """How a job ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True)
class Order:
    """What a route asks of the pool.

    seconds: from `began` (monotonic seconds) to the deadline; None for no deadline.
    client: the client whose share of the queue this order uses; "" for none.
    partial_rows, image, keep, score, complete, revise: as in GenerationRequest.
    shared: whether other clients may join the job. Its pictures are then kept as long as the job is.
    request_id: names the request in the log.
    """

    text: str
    num_images: int
    params: SamplingParams
    first_index: int = 0
    truncate: bool = False
    seconds: float | None = None
    client: str = ""
    partial_rows: tuple[int, ...] = ()
    image: bytes | None = field(default=None, repr=False)
    keep: bytes | None = field(default=None, repr=False)
    score: bool = False
    complete: Completion | None = None
    revise: bool = False
    began: float = field(default_factory=time.monotonic)
    shared: bool = False
    request_id: str = ""

    @property
    def deadline(self) -> float | None:
        """The deadline in monotonic seconds, None for none."""
        return None if self.seconds is None else self.began + self.seconds

    @property
    def rows_each(self) -> int:
        """Rows of the cache that one picture takes."""
        return self.request("", (), self.first_index, self.num_images).slots_per_image

    @property
    def rows_done(self) -> list[int]:
        """Rows of cells that are painted of each picture. None is painted yet."""
        return [0] * self.num_images

    def request(self, job_id: str, text_ids: tuple[int, ...], first_index: int, num_images: int) -> GenerationRequest:
        """The request to a worker to paint `num_images` pictures of this order, from `first_index` on."""
        return GenerationRequest(
            id=job_id,
            text_ids=text_ids,
            num_images=num_images,
            params=self.params,
            first_index=first_index,
            partial_rows=self.partial_rows,
            image=self.image,
            keep=self.keep,
            score=self.score,
            complete=self.complete,
            revise=self.revise,
        )


class Job:
    """An accepted order.

    id: a number that the server counts, and the request's id.
    text_ids: the tokens to paint; they may be cut. tokens: how many tokens the whole text has.
    accepted, started, ended: monotonic seconds; None until it happens.
    outcome: how it ended, None until then. error: why it failed, None if it did not.
    crashes: how many workers crashed or hung while they painted it. kills: how many were killed from outside then.
    rows_done: rows of cells painted of each picture. rows_each: rows of the cache that one picture takes.
    revised: the text that is painted, once the worker has changed it.
    observed: whether the metrics have counted its times.
    """

    def __init__(self, job_id: str, order: Order, text_ids: list[int], tokens: int) -> None:
        self.id = job_id
        self.order = order
        self.text_ids = tuple(text_ids)
        self.tokens = tokens
        self.accepted = time.monotonic()
        self.deadline = order.deadline
        self.started: float | None = None
        self.ended: float | None = None
        self.outcome: Outcome | None = None
        self.revised: Revised | None = None
        self.crashes = 0
        self.kills = 0
        self.rows_done = order.rows_done
        self.rows_each = order.rows_each
        self.error: DalleError | None = None
        self.observed = False
        self._painted: dict[int, Painted | None] = {}
        self._partial: dict[int, int] = {}  # index -> rows of the last unfinished picture shown
        self._first: Reader | None = Reader(self, joined=False)
        self._readers = [self._first]
        self._callbacks: list[Callable[[], None]] = []

    @property
    def prompt(self) -> str:
        """The text that is painted: as it was sent, completed or revised."""
        return self.revised.text if self.revised else self.order.text

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
        """How many pictures are not painted yet."""
        return self.order.num_images - len(self._painted)

    @property
    def rows(self) -> int:
        """Rows of the cache that all its unpainted pictures take together."""
        return self.unpainted * self.rows_each

    def request(self) -> GenerationRequest:
        """What a worker has to paint: the pictures from the first missing one to the last missing one."""
        first, count = self.order.first_index, self.order.num_images
        missing = [i for i in range(first, first + count) if i not in self._painted] or [first]
        return self.order.request(self.id, self.text_ids, missing[0], missing[-1] - missing[0] + 1)

    def post(self, event: Event, first_index: int) -> None:
        """Pass an event of a worker on to the readers. first_index: of the request that the worker was given.

        A picture that is painted again after its worker died is sent only once, and its rows do not go back.
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
            case Progress(rows_done=rows):
                offset = first_index - self.order.first_index
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
        for reader in self._readers:
            reader.put(event)

    def end(self, outcome: Outcome, error: DalleError | None = None) -> None:
        """End the job. Its readers get the events that are left, and then `error`. The pool calls this exactly once."""
        self.outcome, self.error, self.ended = outcome, error, time.monotonic()
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
        """A new reader, which must be given back to `Pool.leave`.

        The first reader gets every event. Later ones, of a shared order, get the finished pictures and what follows.
        seconds: from now until a later reader's own deadline; None for the job's.
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
        """Bytes, roughly, of what the job keeps for later readers."""
        pictures = sum(len(event.rgb) + len(event.tokens) for event in self._painted.values() if event)
        return pictures + len(self.order.image or b"") + 4 * len(self.order.text)


class Reader:
    """The events that one client has not read yet. It is an asynchronous iterator, see the module.

    since: monotonic seconds at which this client's request began. joined: whether another reader was before it.
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
        """Let a waiting client see that the job has ended."""
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
