"""What goes into the engine and what comes out: sampling parameters, requests, sequences, events. Knows no tensors.

Everything here is picklable and torch-free: the HTTP process imports it. Texts arrive as token ids, pictures leave as
raw RGB bytes.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field

from model.config import TransformerConfig
from model.errors import InvalidRequest

MAX_IMAGES = 64  # images of one request; what a client may ask for is the HTTP side's own, smaller limit
MAX_INDEX = 2**31  # image indices: the counter of the noise has 32 bits for them

# Failed.code is one of these.
INVALID_REQUEST = "invalid_request"
DEADLINE_EXCEEDED = "deadline_exceeded"
NUMERICAL_ERROR = "numerical_error"
INTERNAL_ERROR = "internal_error"
DRAINING = "draining"


@dataclass(frozen=True)
class SamplingParams:
    """How the image tokens of a request are drawn.

    seed: 0..2**63-1. temperature: 0..5, 0 takes the likeliest token. top_k: keep the k likeliest tokens, 0 keeps all.
    top_p: keep the smallest set of likeliest tokens whose probabilities (after temperature and top_k) reach p, in
    (0, 1]. guidance: 0..20, the scale of classifier-free guidance (Ho and Salimans, 2207.12598):
    null + guidance * (conditional - null); 1 is off and costs half.
    """

    seed: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0

    def check(self, image_vocab: int) -> None:
        """Raises InvalidRequest naming the first field out of range; NaN and infinities are out of every range."""
        _check_integer("seed", self.seed, 0, 2**63 - 1)
        _check_real("temperature", self.temperature, 0.0, 5.0)
        _check_integer("top_k", self.top_k, 0, image_vocab)
        _check_real("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0.0:
            raise InvalidRequest("top_p", "top_p: 0.0, and it must be above 0, up to 1.0")
        _check_real("guidance", self.guidance, 0.0, 20.0)


def _check_integer(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidRequest(name, f"{name}: {value}, and it must be from {low} to {high}")


def _check_bytes(name: str, value: bytes | None, size: int) -> None:
    if value is None or len(value) != size:
        found = "nothing" if value is None else f"{len(value)} bytes"
        raise InvalidRequest(name, f"{name}: {found}, and it must be {size} bytes")


def _check_real(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidRequest(name, f"{name}: {value}, and it must be from {low} to {high}")


@dataclass(frozen=True)
class Completion:
    """How a prompt is continued, by the transformer's text head, until it says that the caption ends.

    temperature: 0..5, 0 takes the likeliest token. top_k: draw from the k likeliest tokens only, 0 from all.
    tokens: at most so many further ones, 1..256; less where the model reads no more.
    """

    temperature: float = 0.7
    top_k: int = 50
    tokens: int = 32

    def check(self, text_vocab: int) -> None:
        """Raises InvalidRequest naming the first field out of range."""
        _check_real("temperature", self.temperature, 0.0, 5.0)
        _check_integer("top_k", self.top_k, 0, text_vocab)
        _check_integer("tokens", self.tokens, 1, 256)


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt and the images asked of it.

    id: unique among the requests in flight. text_ids: <bos>, the prompt's tokens, <eot>.
    Image i of the request has the index first_index + i; a picture is a function of the model, text_ids, params, its
    index and what is forced, never of num_images or of the neighbours.
    forced: little-endian int16 for every image token in raster order, -1 where the model is free.
    image, keep: another way to force: an RGB picture (image_size * image_size * 3 bytes) that the engine encodes, and a
    byte for every image token, 1 where the picture's token is kept; not together with `forced`.
    partial_rows: after that many finished rows of tokens an unfinished picture is sent (1..grid-1, ascending).
    score: each Painted carries a score of how well the picture fits the prompt (for best_of): by the checkpoint's CLIP,
    or without one by likelihood; it takes the null row too, which the latter needs.
    complete: the model first continues the prompt, in a way that the prompt and params.seed decide; Revised tells.
    revise: the model first says the prompt in words that it was taught; Revised tells, where these are others.
    """

    id: str
    text_ids: tuple[int, ...]
    num_images: int
    params: SamplingParams
    first_index: int = 0
    forced: bytes | None = field(default=None, repr=False)
    partial_rows: tuple[int, ...] = ()
    image: bytes | None = field(default=None, repr=False)
    keep: bytes | None = field(default=None, repr=False)
    score: bool = False
    complete: Completion | None = None
    revise: bool = False

    @property
    def rows(self) -> int:
        """Slots that one image of this request takes: 2 with guidance (conditional and null prompt), else 1."""
        return 2 if self.params.guidance != 1.0 or self.score else 1

    def check(self, config: TransformerConfig, image_size: int) -> None:
        """Raises InvalidRequest naming the first field that a model of this config cannot honour, and both values.

        image_size: pixels a side.
        """
        text, cells = self.text_ids, config.image_tokens
        if not 2 <= len(text) <= config.max_text:
            found = f"text_ids: {len(text)} ids, <bos> and <eot> counted"
            raise InvalidRequest("text_ids", f"{found}, and the model reads 2 to {config.max_text}")
        if not (min(text) >= 0 and max(text) < config.text_vocab):
            found = f"text_ids: ids from {min(text)} to {max(text)}"
            raise InvalidRequest("text_ids", f"{found}, and the model knows 0 to {config.text_vocab - 1}")
        _check_integer("num_images", self.num_images, 1, MAX_IMAGES)
        _check_integer("first_index", self.first_index, 0, MAX_INDEX)
        self.params.check(config.image_vocab)
        if self.complete is not None:
            self.complete.check(config.text_vocab)
        rows = self.partial_rows
        if list(rows) != sorted(set(rows)) or any(not 0 < row < config.grid for row in rows):
            allowed = f"ascending numbers from 1 to {config.grid - 1}"
            raise InvalidRequest("partial_rows", f"partial_rows: {list(rows)}, and it must be {allowed}")
        if self.forced is not None:
            if self.image is not None or self.keep is not None:
                raise InvalidRequest("forced", "forced: tokens and a picture to keep cannot both be given")
            _check_bytes("forced", self.forced, 2 * cells)
            tokens = struct.unpack(f"<{cells}h", self.forced)
            if min(tokens) < -1 or max(tokens) >= config.image_vocab:
                found = f"forced: tokens from {min(tokens)} to {max(tokens)}"
                raise InvalidRequest("forced", f"{found}, and they must be from -1 to {config.image_vocab - 1}")
        if self.image is not None or self.keep is not None:
            _check_bytes("image", self.image, 3 * image_size * image_size)
            _check_bytes("keep", self.keep, cells)


@dataclass(eq=False)
class Sequence:
    """One image being painted. Written by the scheduler and the engine only.

    index: the image's index (first_index included). slots: its rows of the cache, () while it waits: the conditional
    one, then with guidance the null one. step: steps of the decoder done, 0..steps. started: monotonic seconds.
    """

    request: GenerationRequest
    index: int
    slots: tuple[int, ...] = ()
    step: int = 0
    started: float = 0.0

    @property
    def position(self) -> int:
        """The image's place in its request, 0..num_images-1."""
        return self.index - self.request.first_index


@dataclass(frozen=True)
class Event:
    """Something that happened to a request. A request ends by exactly one of Finished, Failed and Cancelled."""

    request_id: str


@dataclass(frozen=True)
class Started(Event):
    """The first image of the request has its slots."""


@dataclass(frozen=True)
class Revised(Event):
    """Another text than the request's is painted. written: tokens that were drawn for it. Comes before Started."""

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
    log p(token | prompt) - log p(token | null prompt), in nats.
    """

    index: int
    rgb: bytes = field(repr=False)
    tokens: bytes = field(repr=False)
    seconds: float
    score: float | None = None


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


@dataclass(frozen=True)
class Cancelled(Event):
    """The request was cancelled, waiting or running; its slots are free."""


@dataclass(frozen=True)
class EngineStats:
    """The engine at one moment, and since its start.

    The ledger: accepted = completed + failed + cancelled + expired + in_flight, at every moment.
    """

    slots: int  # rows of the cache
    rows_busy: int  # rows taken by running images (a guided image takes two)
    waiting: int  # images that have no slot yet
    running: int  # images being painted
    steps: int  # steps of the decoder since the start
    tokens: int  # image tokens drawn since the start
    tokens_per_second: float  # while stepping, a moving mean; 0.0 before the first step
    seconds_per_step: float  # a moving mean; the warm-up's measure before the first step
    steps_left: int  # row-steps of all waiting and running images: * seconds_per_step / slots is the backlog in seconds
    images: int  # pictures painted since the start
    accepted: int  # requests
    completed: int
    failed: int
    cancelled: int
    expired: int
    in_flight: int
