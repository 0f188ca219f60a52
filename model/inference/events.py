"""What comes out of the engine: events of requests, and the engine's counts. Knows no tensors.

Everything here can be pickled and imports no torch, because the HTTP process uses it. Pictures leave as raw RGB bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from model.errors import DalleError, DeadlineExceeded, InvalidRequest, PaintingFailed

# Failed.code is one of these.
INVALID_REQUEST = "invalid_request"
DEADLINE_EXCEEDED = "deadline_exceeded"
NUMERICAL_ERROR = "numerical_error"
INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True)
class Event:
    """Something that happened to a request. A request ends by exactly one of Finished, Failed and Cancelled."""

    request_id: str


@dataclass(frozen=True)
class Started(Event):
    """The first image of the request has its slots."""


@dataclass(frozen=True)
class Revised(Event):
    """Another text than the request's is painted. written: tokens that were drawn for it. Comes before Started.

    A picture's style may change the text further; Painted tells.
    """

    text: str
    written: int


@dataclass(frozen=True)
class Progress(Event):
    """At least one image has a further row. rows_done: rows of image tokens done, 0..grid, for each image in order."""

    rows_done: tuple[int, ...]


@dataclass(frozen=True)
class Partial(Event):
    """An unfinished picture: rows_done rows of tokens are painted, the rest is a calm fill. rgb as in Painted."""

    index: int
    rows_done: int
    rgb: bytes = field(repr=False)


@dataclass(frozen=True)
class Painted(Event):
    """A finished picture.

    rgb: image_size * image_size * 3 bytes, row by row. tokens: little-endian int16, grid * grid of them.
    seconds: from the image's start to its end. score: where asked for, how well it fits the prompt, higher fits better:
    the cosine of the CLIP's vectors, -1 to 1, or where the checkpoint has no CLIP the mean over the drawn tokens of
    log p(token | prompt) - log p(token | null prompt), in nats. style: its name, "" for a checkpoint without styles.
    text: what was painted, where the style has changed it; None: the text that Revised told, else the request's.
    """

    index: int
    rgb: bytes = field(repr=False)
    tokens: bytes = field(repr=False)
    seconds: float
    score: float | None = None
    style: str = ""
    text: str | None = None


@dataclass(frozen=True)
class Finished(Event):
    """All images of the request were painted."""


@dataclass(frozen=True)
class Failed(Event):
    """The request ended without all its images.

    code: one of the constants at the top of this file. message: one line for a person. field: the request's field at
    fault, with code invalid_request.
    """

    code: str
    message: str
    field: str | None = None

    def error(self) -> DalleError:
        """The same as an exception: DeadlineExceeded, InvalidRequest or PaintingFailed."""
        if self.code == DEADLINE_EXCEEDED:
            return DeadlineExceeded(self.message)
        if self.code == INVALID_REQUEST:
            return InvalidRequest(self.field or "request", self.message)
        return PaintingFailed(self.code, self.message)


@dataclass(frozen=True)
class Cancelled(Event):
    """The request was cancelled, waiting or running; its slots are free."""


@dataclass(frozen=True)
class EngineStats:
    """The engine at one moment, and since its start."""

    slots_busy: int  # rows of the cache taken by running images (a guided image takes two)
    tokens: int  # image tokens drawn since the start
    tokens_per_second: float  # while stepping, a moving mean; 0.0 before the first step
    seconds_per_step: float  # a moving mean; the warm-up's measure before the first step
