"""What comes out of the engine: events of requests, and the engine's counts. Knows no tensors.

Everything here can be pickled and imports no torch, because the HTTP process uses it. Pictures leave as raw RGB bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from model.errors import DalleError, DeadlineExceeded, InvalidRequest, PaintingFailed, UnknownPrompt

# Failed.code is one of these.
INVALID_REQUEST = "invalid_request"
UNKNOWN_PROMPT = "unknown_prompt"
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


class Fit(StrEnum):
    """How well the painted caption says the prompt.

    known: it says all of it. near: something is left out, or replaced by what is nearest. unknown: the model knows
    nothing of it.
    """

    KNOWN = "known"
    NEAR = "near"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Judged(Event):
    """How well the painted text says the prompt, of a request that is revised. Comes before Started.

    closest: what the model knows that is nearest to the prompt: "a cat". "" if nothing is.
    missing_style: the style that was asked for, if it does not know what is painted; "" for none. Another one is taken.
    """

    fit: Fit
    closest: str
    missing_style: str = ""

    def told(self) -> dict[str, str]:
        """What answers tell of it: "fit", and where there is something to tell "closest" and "missing_style"."""
        closest = self.closest if self.fit is Fit.UNKNOWN else ""
        found = {"fit": self.fit.value, "closest": closest, "missing_style": self.missing_style}
        return {name: value for name, value in found.items() if value}


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


class Times(NamedTuple):
    """When what happened to a picture, in monotonic seconds of this machine, as the worker's processor sees it.

    started: it got its slots. read: its text is read (prefill). drawn: its tokens are drawn (decode). painted: the VAE
    has painted it.
    """

    started: float
    read: float
    drawn: float
    painted: float


@dataclass(frozen=True)
class Painted(Event):
    """A finished picture.

    rgb: image_size * image_size * 3 bytes, row by row. tokens: little-endian int16, grid * grid of them.
    seconds: from the image's start to its end. score: where asked for, how well it fits the prompt, higher fits better:
    the cosine of the CLIP's vectors, -1 to 1, or where the checkpoint has no CLIP the mean over the drawn tokens of
    log p(token | prompt) - log p(token | null prompt), in nats. style: its name, "" for a checkpoint without styles.
    text: what was painted, where the style has changed it; None: the text that Revised told, else the request's.
    times: None where nobody took them.
    """

    index: int
    rgb: bytes = field(repr=False)
    tokens: bytes = field(repr=False)
    seconds: float
    score: float | None = None
    style: str = ""
    text: str | None = None
    times: Times | None = None


@dataclass(frozen=True)
class Finished(Event):
    """All images of the request were painted."""


@dataclass(frozen=True)
class Failed(Event):
    """The request ended without all its images.

    code: one of the constants at the top of this file. message: one line for a person. field: the request's field at
    fault, with code invalid_request or unknown_prompt.
    """

    code: str
    message: str
    field: str | None = None

    def error(self) -> DalleError:
        """The same as an exception: DeadlineExceeded, UnknownPrompt, InvalidRequest or PaintingFailed."""
        if self.code == DEADLINE_EXCEEDED:
            return DeadlineExceeded(self.message)
        if self.code == UNKNOWN_PROMPT:
            return UnknownPrompt(self.field or "text", self.message)
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
