"""One accepted request: what was ordered, and the stream of what becomes of it.

A job belongs to the event loop. The pool posts events and ends it, exactly once. Each of its clients, which is mostly
one, has a reader:

    reader = job.join()
    async for event in reader:  # Started, Progress, Partial, Painted
        ...                     # after the last picture the loop ends; a failure is raised
    pool.leave(reader)          # always; when the last one has left, the job is cancelled

What a reader has not taken yet is kept per picture and latest wins, so a slow one holds one frame a picture.
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


class Outcome(StrEnum):
    """How a job ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True)
class Order:
    """What a route asks of the pool.

    seconds: until its deadline, None for none, from `began` (monotonic). client: whose share of the queue it counts to,
    "" for nobody's.
    partial_rows, image, keep, score, complete, revise: as in GenerationRequest. shared: others may join, also
    when it is done: its pictures are kept as long as the job is. request_id: of the log lines.
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
        """Monotonic seconds."""
        return None if self.seconds is None else self.began + self.seconds

    @property
    def rows_each(self) -> int:
        """Rows of the cache that a picture takes."""
        return self.request("", (), self.first_index, self.num_images).slots_per_image

    @property
    def rows_done(self) -> list[int]:
        """Rows of cells of each picture: none."""
        return [0] * self.num_images

    def request(self, job_id: str, text_ids: tuple[int, ...], first_index: int, num_images: int) -> GenerationRequest:
        """What a worker is told of so many of its pictures."""
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
    """An accepted order. id: a number of ours, and the request's id.

    tokens: of the whole text, of which text_ids may be a cut.
    accepted, started, ended: monotonic seconds; the latter two None until then. deaths: workers that died under it.
    error: what it ended with, None if all went well. observed: whether its times have been counted.
    rows_done: rows of cells of each picture. rows_each: rows of the cache that a picture takes.
    revised: the text that is painted, if it is another than the order's, once the worker has told it.
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
        self.deaths = 0
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
    def unpainted(self) -> int:
        """Pictures that are still to be painted."""
        return self.order.num_images - len(self._painted)

    @property
    def rows(self) -> int:
        """Rows of the cache that all its unpainted pictures take."""
        return self.unpainted * self.rows_each

    def request(self) -> GenerationRequest:
        """What a worker has to paint: all, or after a crash the shortest run of pictures that holds what is missing."""
        first, count = self.order.first_index, self.order.num_images
        missing = [i for i in range(first, first + count) if i not in self._painted] or [first]
        return self.order.request(self.id, self.text_ids, missing[0], missing[-1] - missing[0] + 1)

    def post(self, event: Event, first_index: int) -> None:
        """Take what a worker says. first_index: of the request that it is painting.

        After a crash pictures are painted again: nothing is shown twice, and rows never go back.
        """
        if self.outcome is not None:
            return
        match event:
            case Started():
                if self.started is not None:
                    return
                self.started = time.monotonic()
            case Revised():
                self.revised = event  # after a crash the same again
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
        """The last word on this job; `error` is raised to its readers. Only the pool calls this, and only once."""
        self.outcome, self.error, self.ended = outcome, error, time.monotonic()
        for reader in self._readers:
            reader.wake()
        for callback in self._callbacks:
            callback()

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the job ends, at once if it has."""
        if self.outcome is None:
            self._callbacks.append(callback)
        else:
            callback()

    def join(self, seconds: float | None = None) -> Reader:
        """A reader for another client; leave it by `Pool.leave`. seconds: that it has from now, None for the job's own.

        The first one misses nothing. Others, of a shared order, are told what has been painted and what comes.
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
        """Take a reader away. Returns whether it was the last one."""
        if reader in self._readers:
            self._readers.remove(reader)
        return not self._readers

    @property
    def size(self) -> int:
        """Bytes, nearly, of what it holds for readers to come."""
        pictures = sum(len(event.rgb) + len(event.tokens) for event in self._painted.values() if event)
        return pictures + len(self.order.image or b"") + 4 * len(self.order.text)


class Reader:
    """What one client has still to be told of its job. An async iterator of events, see the module.

    since: monotonic seconds, of the job's acceptance or, of one who joined, of the joining. joined: not the first one.
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
        """Monotonic seconds until which its client wants to wait; None for no end."""
        if not self.joined:
            return self.job.deadline
        seconds = self._seconds or self.job.order.seconds
        return None if seconds is None else self.since + seconds

    def put(self, event: Event) -> None:
        """Take an event of the job in, instead of an older one of its kind that was not yet read."""
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
        """Look again: the job has ended."""
        self._wake.set()

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> Event:
        """Raises what the job ended with, and DeadlineExceeded when this reader's own seconds are over."""
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
    """What a request that had so many seconds is told."""
    return DeadlineExceeded(f"the request was not done within its {seconds:g} s")
