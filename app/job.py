"""One accepted request: what was ordered, and the stream of what becomes of it.

A job belongs to the event loop. The pool posts events and ends it, exactly once; one reader iterates:

    async for event in job:  # Started, Progress, Partial, Painted
        ...                  # after the last picture the loop ends; a failure is raised

What the reader has not taken yet is kept per picture and latest wins, so a slow reader holds one frame a picture.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import StrEnum

from model.errors import DalleError
from model.inference.sequence import (
    Completion,
    Event,
    GenerationRequest,
    Painted,
    Partial,
    Progress,
    Revised,
    SamplingParams,
    Started,
)


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
    partial_rows, image, keep, score, complete: as in GenerationRequest.
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
    began: float = field(default_factory=time.monotonic)

    @property
    def deadline(self) -> float | None:
        """Monotonic seconds."""
        return None if self.seconds is None else self.began + self.seconds

    @property
    def rows_each(self) -> int:
        """Rows of the cache that a picture takes."""
        return self.request("", (), self.first_index, self.num_images).rows

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
        )


class Job:
    """An accepted order. id: ours, never a client's. tokens: of the whole text, of which text_ids may be a cut.

    accepted, started, ended: monotonic seconds; the latter two None until then. deaths: workers that died under it.
    rows_done: rows of cells of each picture. rows_each: rows of the cache that a picture takes.
    revised: the completed prompt, once the worker has told it.
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
        self._error: DalleError | None = None
        self._painted: set[int] = set()
        self._partial: dict[int, int] = {}  # index -> rows of the last unfinished picture shown
        self._pending: dict[Hashable, Event] = {}  # in the order of arrival
        self._wake = asyncio.Event()

    @property
    def prompt(self) -> str:
        """The text that is painted: as it was sent, or completed."""
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
        key: Hashable = type(event).__name__
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
                key = ("partial", index)
            case Painted(index=index):
                if index in self._painted:
                    return
                self._painted.add(index)
                self._pending.pop(("partial", index), None)
                key = ("painted", index)
        self._pending.pop(key, None)
        self._pending[key] = event
        self._wake.set()

    def end(self, outcome: Outcome, error: DalleError | None = None) -> None:
        """The last word on this job; `error` is raised to its reader. Only the pool calls this, and only once."""
        self.outcome, self._error, self.ended = outcome, error, time.monotonic()
        self._wake.set()

    def __aiter__(self) -> Job:
        return self

    async def __anext__(self) -> Event:
        while not self._pending:
            if self.outcome is not None:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._pending.pop(next(iter(self._pending)))
