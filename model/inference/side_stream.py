"""Finished pictures on a GPU: painted on a stream of their own, beside the steps, and brought to the host unwaited for.

    painting = painter.begin(tokens, bad)  # behind the work given so far; returns at once
    painting.ready                         # at some later step
    painting.take()                        # tokens, whether they are sound, and the pixels

The copies go to pinned memory, so the host waits for nothing but the events of paintings that are done. Without CUDA
the same is computed at once, which tests use.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from model.inference.image_codec import ImageCodec, to_rgb

_AT_A_TIME = 4  # pictures of another family's network at once, as `ImageTokenizer.decode` has it


class Taken(NamedTuple):
    """What came to the host. tokens: (n, grid * grid) int64. bad: (n,) bool. pictures: RGB bytes, b"" unpainted."""

    tokens: Tensor
    bad: Tensor
    pictures: list[bytes]


class Painting:
    """Pictures under way: host tensors that are filled when `event` has happened; None: they are filled."""

    def __init__(self, tokens: Tensor, bad: Tensor, pixels: Tensor | None, event: torch.cuda.Event | None) -> None:
        self._tokens, self._bad, self._pixels, self._event = tokens, bad, pixels, event

    @property
    def ready(self) -> bool:
        """Whether `take` would not wait."""
        return self._event is None or bool(self._event.query())  # type: ignore[no-untyped-call]

    def take(self) -> Taken:
        """The pictures; waits for them."""
        if self._event is not None:
            self._event.synchronize()
        count = len(self._tokens)
        pictures = [b""] * count if self._pixels is None else [one.tobytes() for one in self._pixels.numpy()]
        return Taken(self._tokens, self._bad, pictures)


class SidePainter:
    """Gives paintings to the device of a codec."""

    def __init__(self, codec: ImageCodec) -> None:
        self._codec = codec
        self._stream: torch.cuda.Stream | None = None
        if codec.device.type == "cuda":
            self._stream = torch.cuda.Stream(codec.device)  # type: ignore[no-untyped-call]

    def begin(self, tokens: Tensor, bad: Tensor, paint: bool) -> Painting:
        """tokens (n, grid * grid) int64, bad (n,) bool, on the device. Nobody else may change them. paint: pixels too.

        The bits of a picture may depend on how many are given.
        """
        if self._stream is None:
            return Painting(tokens, bad, self._pixels(tokens) if paint else None, None)
        self._stream.wait_stream(torch.cuda.current_stream(self._codec.device))
        with torch.cuda.stream(self._stream):
            pixels = _to_host(self._pixels(tokens)) if paint else None
            painting = Painting(_to_host(tokens), _to_host(bad), pixels, self._stream.record_event())
        for used in (tokens, bad):  # so that their memory is not given away before this stream has read it
            used.record_stream(self._stream)
        return painting

    def _pixels(self, tokens: Tensor) -> Tensor:
        """(n, grid * grid) -> (n, size, size, 3) uint8, on the device. Sampled tokens are always in the codebook."""
        codec = self._codec
        ids = tokens.view(-1, codec.grid, codec.grid)
        return torch.cat([to_rgb(codec.vae.paint(few)) for few in torch.split(ids, _AT_A_TIME)])


def _to_host(there: Tensor) -> Tensor:
    """A pinned copy that is filled when the stream has come so far."""
    return torch.empty(there.shape, dtype=there.dtype, pin_memory=True).copy_(there, non_blocking=True)
