"""Finished images on their way to pictures: they have their tokens and no slots, and wait for the VAE.

On a CPU a picture is painted within a step. On a GPU it is painted beside the steps (`side_stream`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.inference.image_codec import ImageCodec
from model.inference.requests import Sequence
from model.inference.side_stream import Painting, SidePainter

log = logging.getLogger(__name__)

AT_ONCE = 16  # pictures, outside strict mode


@dataclass(frozen=True, eq=False)
class Pending:
    """A finished image. Beside the steps, tokens and `bad` are still on the device."""

    sequence: Sequence
    tokens: Tensor  # (image tokens,) int64
    seconds: float
    score: float | None
    bad: Tensor | None = None  # () bool: the tokens mean nothing
    gone: bool = False  # its request has ended


class FinishedImages:
    """The queue of finished images.

    tell: called with an image, its tokens on the CPU and its RGB, b"" if the request wants tokens alone. fail: called
    with an image that cannot be painted, and whether its numbers are the reason.
    """

    def __init__(
        self,
        codec: ImageCodec,
        strict: bool,
        tell: Callable[[Pending, Tensor, bytes], None],
        fail: Callable[[Sequence, bool], None],
    ) -> None:
        self.side_painter = SidePainter(codec) if codec.device.type == "cuda" else None
        self._codec = codec
        self._strict = strict
        self._tell = tell
        self._fail = fail
        self._pending: deque[Pending] = deque()
        self._paintings: list[tuple[Painting, list[Pending]]] = []  # under way beside the steps

    def add(self, image: Pending) -> None:
        """Put an image at the end of the queue."""
        self._pending.append(image)

    def forget(self, request_id: str) -> None:
        """Drop the images of a request that has ended."""
        self._pending = deque(p for p in self._pending if p.sequence.request.id != request_id)
        for _, batch in self._paintings:
            batch[:] = [p if p.sequence.request.id != request_id else replace(p, gone=True) for p in batch]

    def paint(self, drawing: bool) -> None:
        """Paint what waits. drawing: others are being drawn. On a CPU they then wait for one picture at most."""
        while self._pending:
            batch = self._next()
            try:
                self._together(batch)
            except Exception:  # a picture that cannot be painted ends its own request only
                log.exception("painting failed")
                for pending in batch:
                    self._fail(pending.sequence, False)
            if drawing and self.side_painter is None:
                return
        while self._paintings and (self._paintings[0][0].ready or not drawing):
            self._deliver(*self._paintings[0])
            del self._paintings[0]

    def _next(self) -> list[Pending]:
        """The next image. Outside strict mode also those behind it that want the same."""
        batch = [self._pending.popleft()]
        paint = batch[0].sequence.request.paint
        while not self._strict and self._pending and len(batch) < AT_ONCE:
            if self._pending[0].sequence.request.paint != paint:
                break
            batch.append(self._pending.popleft())
        return batch

    def _together(self, batch: list[Pending]) -> None:
        """Paint images of requests that all want pictures, or all want tokens alone."""
        paint = batch[0].sequence.request.paint
        tokens = torch.stack([pending.tokens for pending in batch])
        if self.side_painter is not None:
            bad = torch.stack([pending.bad for pending in batch if pending.bad is not None])
            self._paintings.append((self.side_painter.begin(tokens, bad, paint), batch))
            return
        pictures = self._codec.decode(tokens) if paint else [b""] * len(batch)
        for pending, rgb in zip(batch, pictures, strict=True):
            self._tell(pending, pending.tokens, rgb)

    def _deliver(self, painting: Painting, batch: list[Pending]) -> None:
        """Tell of pictures that were painted beside the steps, but of those whose request has ended."""
        taken = painting.take()
        for i, (tokens, bad, rgb) in enumerate(zip(*taken, strict=True)):
            if batch[i].gone:  # perhaps by the picture before it
                continue
            if bad:
                self._fail(batch[i].sequence, True)
            else:
                self._tell(batch[i], tokens, rgb)
