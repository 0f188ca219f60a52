"""Times of the engine's steps over whole pictures, through the engine's own verbs `add` and `step`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace

import torch

from model.benchmark.floor import Sizes, demand
from model.benchmark.machine import Machine, best
from model.checkpoints.networks import AnyTransformer
from model.inference.engine import Engine
from model.inference.events import Failed
from model.inference.requests import MAX_IMAGES, GenerationRequest, SamplingParams

WINDOW = 0.08  # of a picture's steps: its start, its middle and its end are so long
ROUNDS = 3  # in which engines take turns
TEXT = "a red apple"


@dataclass(frozen=True)
class Pictures:
    """Pictures that were painted together, from the first step to the last.

    images: pictures. rows: of a step; a guided picture takes two. ids: of the text. sizes: of the engine's numbers.
    total: steps of a whole picture.
    steps: seconds of each step that was made, in order, the fastest of `runs` runs; the first step reads the prompts.
    If the time was up, fewer steps than `total` were made. unpainted: seconds that the VQ decoder would have taken for
    all pictures, if the last step was not reached; else 0.0.
    """

    images: int
    rows: int
    ids: int
    sizes: Sizes
    total: int
    steps: tuple[float, ...]
    runs: int
    unpainted: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether the last step was reached."""
        return len(self.steps) == self.total

    @property
    def step(self) -> float:
        """Seconds of a step, the mean of all but the first and the last."""
        return statistics.fmean(self._middle())

    @property
    def seconds(self) -> float:
        """Seconds for the pictures. Where the time was up, the missing steps count as the mean of the others."""
        return sum(self.steps) + (self.total - len(self.steps)) * self.step + self.unpainted

    def part(self, where: float) -> tuple[float, float] | None:
        """A window at the share `where` of the picture, 0 to 1: the middle step's number, and a step's median seconds.

        None if the time was up before.
        """
        last = self.total - 2  # the last step feeds nothing
        width = max(1, min(round(self.total * WINDOW), last))
        first = 1 + round(where * (last - width))
        found = self.steps[first : first + width]
        if len(found) < width:
            return None
        return first + (width - 1) / 2, statistics.median(found)

    def floor(self, transformer: AnyTransformer, machine: Machine, at: float | None = None) -> float:
        """The floor of step `at` in seconds; of the mean over the steps that were made, if None."""
        needed = demand(transformer, self.ids, self._mean() if at is None else at)
        return needed.seconds(machine, self.rows, self.sizes)

    def mbu(self, transformer: AnyTransformer, machine: Machine) -> float:
        """The share of the bandwidth that the steps use, on average."""
        return demand(transformer, self.ids, self._mean()).mbu(machine, self.rows, self.sizes, self.step)

    def _middle(self) -> tuple[float, ...]:
        return self.steps[1 : self.total - 1] or self.steps

    def _mean(self) -> float:
        return len(self.steps) / 2


def paint(
    engine: Engine,
    images: int,
    params: SamplingParams,
    seconds: float,
    *,
    pixels: bool = False,
    text: str = TEXT,
    repeats: int = 3,
) -> Pictures:
    """Paint `images` pictures of one text at once, up to `repeats` times while `seconds` last.

    A run that takes three times `seconds` is cut short. pixels: whether the VQ decoder paints them, too. The engine
    must be idle, and have slots for all of them. Raises RuntimeError if a picture fails.
    """
    ids = tuple(engine.tokenizer.encode(text))
    began = time.perf_counter()
    least: list[float] = []
    runs = 0
    while runs < repeats and (not runs or time.perf_counter() - began < seconds):
        until = began + 3 * seconds
        found = _run(engine, _requests(images, ids, params, pixels), until)
        if runs and len(found) < len(least):
            break  # the time is up
        least = [min(pair) for pair in zip(least, found, strict=True)] if runs else found
        runs += 1
    rows = images * (1 if params.guidance == 1.0 else 2)
    sizes = Sizes(*engine.decoder.number_bytes)
    missing = images * painting_seconds(engine) if pixels and len(least) < engine.config.steps else 0.0
    return Pictures(images, rows, len(ids), sizes, engine.config.steps, tuple(least), runs, missing)


def in_turns(engines: Seq[Engine], images: int, params: SamplingParams, seconds: float) -> list[Pictures]:
    """As `paint`, once a round for each engine, so that what else the machine does slows all of them.

    The steps of all have the same numbers: those that every run has made.
    """
    runs: list[list[Pictures]] = [[] for _ in engines]
    for _ in range(ROUNDS):
        for engine, found in zip(engines, runs, strict=True):
            found.append(paint(engine, images, params, seconds / ROUNDS, repeats=1))
    made = min(len(one.steps) for found in runs for one in found)
    return [
        replace(found[0], steps=tuple(map(min, zip(*(one.steps[:made] for one in found), strict=True))), runs=ROUNDS)
        for found in runs
    ]


def painting_seconds(engine: Engine) -> float:
    """Seconds that the VQ decoder takes for a picture."""
    tokens = torch.zeros(1, engine.config.image_tokens, dtype=torch.int64)
    return best(lambda: engine.image_codec.decode(tokens), engine.device, 3)


def _requests(images: int, ids: tuple[int, ...], params: SamplingParams, pixels: bool) -> list[GenerationRequest]:
    """As few requests as a request's limit allows."""
    return [
        GenerationRequest(str(first), ids, min(MAX_IMAGES, images - first), params, first_index=first, paint=pixels)
        for first in range(0, images, MAX_IMAGES)
    ]


def _run(engine: Engine, requests: list[GenerationRequest], until: float) -> list[float]:
    """Seconds of each step, up to the picture's last or to `until`."""
    for request in requests:
        engine.add(request)
    steps: list[float] = []
    together = sum(request.num_images for request in requests) * engine.config.group
    while engine.has_work:
        began, before = time.perf_counter(), engine.stats().tokens
        events = engine.step()
        now = time.perf_counter()
        drawn = max(1, (engine.stats().tokens - before) // together)  # of more groups than one if they were guessed
        steps += [(now - began) / drawn] * drawn
        if failed := [event for event in events if isinstance(event, Failed)]:
            raise RuntimeError(f"a picture of the benchmark failed: {failed[0].message}")
        if now > until:
            for request in requests:
                engine.cancel(request.id)
            engine.step()  # tells that they are cancelled
            break
    extra = len(steps) - engine.config.steps  # steps that only paint belong to the last one
    if extra > 0:
        steps[-extra - 1 :] = [sum(steps[-extra - 1 :])]
    return steps
