"""The engine: prompts and forced tokens in, pictures out, many at a time, a step of the decoder after another.

    engine = Engine(load("weights/default"), slots=16)
    engine.add(GenerationRequest("a", tuple(engine.tokenizer.encode("a red apple")), 4, SamplingParams(seed=1)))
    while engine.has_work:
        for event in engine.step():
            ...

One step admits what there are slots for, draws one group of tokens for every running image, each at its own position,
feeds them, and paints. It knows nothing of processes or HTTP; `worker` runs it in a process of its own.

In strict mode a picture is a function of (model, prompt, parameters, index, forced tokens), bit for bit, on one machine
with one number of threads: prompts are read alone, attention reads the whole capacity of a slot, rows are computed in
widths and with threads that were measured to agree (`widths`), noise is counter-based, and pictures are painted one by
one.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from model.checkpoints import Checkpoint
from model.errors import InvalidRequest
from model.inference.batch import Batch
from model.inference.decoder import SlotDecoder
from model.inference.pace import Pace
from model.inference.painting import Easel
from model.inference.scheduler import Counts, Scheduler
from model.inference.scoring import Scorer
from model.inference.sequence import (
    DEADLINE_EXCEEDED,
    INTERNAL_ERROR,
    MAX_IMAGES,
    NUMERICAL_ERROR,
    Cancelled,
    EngineStats,
    Event,
    Failed,
    Finished,
    GenerationRequest,
    Painted,
    Partial,
    Progress,
    Revised,
    SamplingParams,
    Sequence,
    Started,
)
from model.inference.writing import Writer

log = logging.getLogger(__name__)

_PAINT_AT_ONCE = 16  # pictures, outside strict mode


@dataclass(eq=False)
class _Job:
    """What the engine keeps of a request in flight."""

    rows_done: list[int]  # of each image
    forced: Tensor | None = None  # (image tokens,) int64, -1 where the model is free
    text: Tensor | None = None  # the prompt's vector, where a CLIP is to score the pictures
    started: bool = False
    progressed: bool = False


@dataclass(frozen=True, eq=False)
class _Canvas:
    """A picture to be painted: finished, or unfinished with so many rows done."""

    sequence: Sequence
    tokens: Tensor  # (image tokens,) int64, on the CPU
    rows_done: int | None = None
    seconds: float = 0.0
    score: float | None = None


class Engine:
    """Continuous batching over the slots of one static KV cache, on one device. Not thread-safe."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        slots: int = 16,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        strict: bool = True,
    ) -> None:
        """slots: rows that images may take; a guided image takes two. dtype: of the transformer and its cache, as it is
        if None. The checkpoint's models are moved to the device. Raises InvalidRequest for fewer than two slots."""
        if slots < 2:
            raise InvalidRequest("slots", f"slots: {slots}, and it must be 2 or more: a guided image takes 2")
        self.device = torch.device(device)
        self.strict = strict
        self.tokenizer = checkpoint.tokenizer
        self.config = checkpoint.config.transformer
        transformer = checkpoint.transformer.to(device=self.device, dtype=dtype).eval()
        self.writer = Writer(checkpoint, self.device)
        self._null = tuple(self.tokenizer.null)
        self.scorer = Scorer(checkpoint, self.device) if checkpoint.clip else None
        self.decoder = SlotDecoder(transformer, self._null, slots, self.device, strict, likelihood=self.scorer is None)
        self.easel = Easel(checkpoint.vae.to(self.device).eval(), self.device)
        self.scheduler = Scheduler(slots)
        self._pace = Pace()
        self._jobs: dict[str, _Job] = {}
        self._canvases: deque[_Canvas] = deque()
        self._events: list[Event] = []
        self._images = 0
        self._batch: Batch | None = None

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do or to tell."""
        return bool(self.scheduler.in_flight or self._events)

    def add(self, request: GenerationRequest, deadline: float | None = None) -> None:
        """Accept a request. deadline: a reading of time.monotonic().

        Raises InvalidRequest, and changes nothing, if the request cannot be honoured.
        """
        request.check(self.config, self.easel.size)
        if request.text_ids[0] != self.tokenizer.bos or request.text_ids[-1] != self.tokenizer.eot:
            ends = f"{request.text_ids[0]} and {request.text_ids[-1]}"
            expected = f"{self.tokenizer.bos} and {self.tokenizer.eot}"
            raise InvalidRequest("text_ids", f"text_ids: the ends are {ends}, and they must be {expected}")
        if request.complete is not None:
            self.writer.check()
        if request.revise:
            self.writer.check_revises()
        self.scheduler.add(request, deadline)
        job = self._jobs[request.id] = _Job([0] * request.num_images)
        if request.forced is not None:
            job.forced = torch.from_numpy(np.frombuffer(request.forced, "<i2").astype(np.int64))

    def cancel(self, request_id: str) -> bool:
        """Free at once what the request holds; the next `step` tells Cancelled. False when it is not in flight."""
        if not self.scheduler.cancel(request_id):
            return False
        self._forget(request_id, Cancelled(request_id))
        return True

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Admit, draw one group of tokens for every running image, paint. Returns what happened, in order."""
        began = time.monotonic()
        for entry in self.scheduler.expire(began):
            message = "the deadline passed before the pictures were done"
            self._forget(entry.request.id, Failed(entry.request.id, DEADLINE_EXCEEDED, message))
        self._drop_unsound()
        self._admit(began)
        drawn = self._decode(began) if self.scheduler.running else 0
        self._paint()
        if drawn:
            self._pace.step(time.monotonic() - began, drawn)
        events, self._events = self._events, []
        return events

    def warm_up(self) -> None:
        """Run a few steps with every slot busy and paint once, to touch all memory and to measure a step's time.

        Call it before the first request: what it counts is forgotten, its times are kept. Raises RuntimeError if the
        model cannot decode.
        """
        params = SamplingParams(seed=0, guidance=2.0)
        images = min(self.scheduler.slots // 2, MAX_IMAGES)
        self.add(GenerationRequest("warm-up", self._null, images, params))
        events = [event for _ in range(4) for event in self.step()]
        if failed := [event for event in events if isinstance(event, Failed)]:
            raise RuntimeError(f"warm-up: {failed[0].message}")
        self.easel.paint(self.decoder.tokens(0)[None])
        self.cancel("warm-up")
        self.step()
        self.scheduler.counts = Counts()
        self._pace.restart()

    def stats(self) -> EngineStats:
        """Counts and times now; reads memory only."""
        scheduler, steps, counts = self.scheduler, self.config.steps, self.scheduler.counts
        running = scheduler.running
        waiting = sum(entry.waiting * entry.request.rows for entry in scheduler.entries())
        return EngineStats(
            slots=scheduler.slots,
            rows_busy=sum(len(s.slots) for s in running),
            waiting=scheduler.waiting,
            running=len(running),
            steps=self._pace.steps,
            tokens=self._pace.tokens,
            tokens_per_second=self._pace.tokens_per_second,
            seconds_per_step=self._pace.seconds_per_step,
            steps_left=waiting * steps + sum(len(s.slots) * (steps - s.step) for s in running),
            images=self._images,
            accepted=counts.accepted,
            completed=counts.completed,
            failed=counts.failed,
            cancelled=counts.cancelled,
            expired=counts.expired,
            in_flight=scheduler.in_flight,
        )

    # Requests that end early.

    def _forget(self, request_id: str, event: Event) -> None:
        """The scheduler no longer has the request: drop what the engine keeps of it, and tell."""
        del self._jobs[request_id]
        self._canvases = deque(c for c in self._canvases if c.sequence.request.id != request_id)
        self._batch = None
        self._events.append(event)

    def _fail(self, request_id: str, code: str, message: str) -> None:
        if self.scheduler.fail(request_id):
            self._forget(request_id, Failed(request_id, code, message))

    def _drop_unsound(self) -> None:
        """Fail the requests whose logits gave no distribution in the last step; nobody shall find their NaN."""
        flags = self.decoder.unsound()
        if any(flags):
            for sequence in [s for s in self.scheduler.running if flags[s.slots[0]]]:
                self._fail_unsound(sequence)
            self.decoder.clean(self.scheduler.free_slots)  # also those of a request that was cancelled meanwhile

    def _fail_unsound(self, sequence: Sequence) -> None:
        if sequence.slots:  # else its request failed with another image just now
            log.error("request %s, image %d: no finite logits", sequence.request.id, sequence.index)
            message = "the model gave no finite probabilities for this picture"
            self._fail(sequence.request.id, NUMERICAL_ERROR, message)

    # Admission.

    def _admit(self, now: float) -> None:
        for request_id, group in groupby(self.scheduler.admit(now), key=lambda s: s.request.id):
            sequences = list(group)
            self._batch = None
            try:
                self._start(self._jobs[request_id], sequences)
            except Exception:  # whatever is wrong with this prompt, its neighbours go on
                log.exception("request %s: prefill failed", request_id)
                self._fail(request_id, INTERNAL_ERROR, "the prompt could not be read by the model")

    def _start(self, job: _Job, sequences: list[Sequence]) -> None:
        """Images of one request have their slots: read the picture to keep, once, and the prompt."""
        request = sequences[0].request
        if request.complete is not None or request.revise:
            request = self._revise(request)
        if request.image is not None and request.keep is not None and job.forced is None:
            keep = torch.from_numpy(np.frombuffer(request.keep, np.uint8).astype(np.bool_))
            job.forced = torch.where(keep, self.easel.read(request.image), -1)
        self.decoder.start(sequences, job.forced)
        if request.score and self.scorer and job.text is None:
            job.text = self.scorer.read(request.text_ids)
        if not job.started:
            job.started = True
            self._events.append(Started(request.id))

    def _revise(self, request: GenerationRequest) -> GenerationRequest:
        """The request with the text that is painted: completed, and then said in words that the model was taught."""
        text_ids, text, written = request.text_ids, None, 0
        if request.complete is not None:
            text = self.writer.complete(text_ids, request.complete, request.params.seed)
            text_ids = tuple(self.tokenizer.encode(text, truncate=True))
            written = max(0, len(text_ids) - len(request.text_ids))
        if request.revise and (said := self.writer.revise(text_ids)) != self.tokenizer.decode(text_ids):
            text, text_ids = said, tuple(self.tokenizer.encode(said, truncate=True))
            written += len(text_ids) - 2  # without <bos> and <eot>
        if text is not None:
            self._events.append(Revised(request.id, text, written))
        return self.scheduler.revise(request.id, text_ids)

    # One step of the decoder.

    def _decode(self, now: float) -> int:
        """Draw a group for every running image; feed it to those that go on. Returns the number of tokens drawn."""
        batch = self._current_batch()
        self.decoder.draw(batch)
        for sequence in batch.sequences:
            sequence.step += 1
            self._note_progress(sequence)
            if sequence.step == self.config.steps:
                self._retire(sequence, now)
        for request_id, job in self._jobs.items():
            if job.progressed:
                job.progressed = False
                self._events.append(Progress(request_id, tuple(job.rows_done)))
        if self.scheduler.running:
            self.decoder.feed(self._current_batch())
        return len(batch.sequences) * self.config.group

    def _current_batch(self) -> Batch:
        if self._batch is None:
            forced = {request_id for request_id, job in self._jobs.items() if job.forced is not None}
            self._batch = self.decoder.batch(self.scheduler.running, forced)
        return self._batch

    # Pictures.

    def _note_progress(self, sequence: Sequence) -> None:
        request, job = sequence.request, self._jobs.get(sequence.request.id)
        rows_done = sequence.step * self.config.group // self.config.grid
        if job is None or rows_done == job.rows_done[sequence.position]:
            return
        job.rows_done[sequence.position] = rows_done
        job.progressed = True
        if rows_done in request.partial_rows:
            self._canvases.append(_Canvas(sequence, self.decoder.tokens(sequence.slots[0]), rows_done))

    def _retire(self, sequence: Sequence, now: float) -> None:
        """All tokens of an image are drawn: free its slots, queue its picture."""
        if not sequence.slots:
            return  # its request failed with another image just now
        slot = sequence.slots[0]
        if not self.decoder.sound(slot):
            self._fail_unsound(sequence)  # its slots are cleaned by the next step, before they are given to anybody
            return
        tokens = self.decoder.tokens(slot)
        score = self._score(sequence, tokens) if sequence.request.score else None
        self.scheduler.drawn(sequence)
        self._batch = None
        self._canvases = deque(c for c in self._canvases if c.sequence is not sequence)  # older, unfinished ones
        self._canvases.append(_Canvas(sequence, tokens, None, now - sequence.started, score))

    def _score(self, sequence: Sequence, tokens: Tensor) -> float:
        """How well the drawn tokens fit the prompt: by the CLIP, or by the transformer's own likelihood without one."""
        text = self._jobs[sequence.request.id].text
        if self.scorer is None or text is None:
            return self.decoder.score(sequence.slots[0])
        return self.scorer.fit(tokens, text)

    def _paint(self) -> None:
        """Paint what is drawn: one picture while others are being drawn, so that they wait little; else all of them."""
        while self._canvases:
            canvases = [self._canvases.popleft()]
            if not self.strict and canvases[0].rows_done is None:
                while self._canvases and self._canvases[0].rows_done is None and len(canvases) < _PAINT_AT_ONCE:
                    canvases.append(self._canvases.popleft())
            try:
                self._paint_together(canvases)
            except Exception:  # a picture that cannot be painted ends its own request only
                log.exception("painting failed")
                for canvas in canvases:
                    self._fail(canvas.sequence.request.id, INTERNAL_ERROR, "the picture could not be painted")
            if self.scheduler.running:
                return

    def _paint_together(self, canvases: list[_Canvas]) -> None:
        """Finished pictures, or one unfinished one."""
        first = canvases[0]
        request = first.sequence.request
        if first.rows_done is not None:
            forced = self._jobs[request.id].forced
            known = torch.arange(self.config.image_tokens) < first.rows_done * self.config.grid
            tokens = first.tokens
            if forced is not None:
                tokens = torch.where(known | (forced < 0), tokens, forced)
                known = known | (forced >= 0)
            unfinished = self.easel.paint_unfinished(tokens, known)
            self._events.append(Partial(request.id, first.sequence.index, first.rows_done, unfinished))
            return
        pictures = self.easel.paint(torch.stack([canvas.tokens for canvas in canvases]))
        for canvas, rgb in zip(canvases, pictures, strict=True):
            request, index = canvas.sequence.request, canvas.sequence.index
            encoded = canvas.tokens.numpy().astype("<i2").tobytes()
            self._events.append(Painted(request.id, index, rgb, encoded, canvas.seconds, canvas.score))
            self._images += 1
            if self.scheduler.painted(canvas.sequence):
                del self._jobs[request.id]
                self._events.append(Finished(request.id))
