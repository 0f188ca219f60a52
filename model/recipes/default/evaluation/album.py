"""The painted pictures of an evaluation, cached on disk.

The name of a picture is a hash of the weights, the prompt, the seed, the index and the sampling parameters. So an
evaluation that was stopped goes on where it was, and parts that need the same picture share it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from model.checkpoints import sums
from model.inference.requests import GenerationRequest, SamplingParams
from model.painter import Painter
from model.styles import AUTO

ROUNDS = 4  # pictures are saved when the engine's slots have been filled so many times


def weights_digest(folder: Path) -> str:
    """A hash of the weights and the tokenizer; documents are left out. Raises CheckpointError."""
    listed = sums.load(folder)
    read = sorted(name for name in listed.names if name.endswith((".safetensors", "tokenizer.json")))
    return hashlib.sha256("".join(f"{name} {listed.sum(name)}\n" for name in read).encode()).hexdigest()[:12]


def seed_of(seed: int, prompt: str) -> int:
    """A seed for each prompt, so that no two prompts share their random numbers."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {prompt}".encode(), digest_size=4).digest(), "little")


@dataclasses.dataclass(frozen=True)
class Painting:
    """A picture and its score: how much likelier it is with the prompt than without, in nats per token."""

    image: Image.Image
    score: float


class Album:
    """The pictures of one checkpoint, one seed and one set of sampling parameters, in a folder."""

    def __init__(
        self, painter: Painter, folder: Path, seed: int, params: SamplingParams, *, revise: bool = True
    ) -> None:
        """params: their seed is not used, because each prompt has its own, made from `seed`. revise: whether prompts
        are revised, if the checkpoint has a reviser.
        """
        self._painter, self._seed, self._params = painter, seed, params
        self._revise = revise and painter.revises
        self._first = next(iter(painter.checkpoint.styles.names), AUTO)
        self._folder = folder / weights_digest(painter.checkpoint.path)

    def params(self, prompt: str) -> SamplingParams:
        return dataclasses.replace(self._params, seed=seed_of(self._seed, prompt))

    def _path(self, prompt: str, index: int, style: str) -> Path:
        unrevised = self._painter.revises and not self._revise
        more = [*(["as it is"] if unrevised else []), *([f"style {style}"] if style != self._first else [])]
        how = json.dumps([prompt, *dataclasses.astuple(self.params(prompt)), *more])
        return self._folder / f"{hashlib.blake2b(how.encode(), digest_size=10).hexdigest()}-{index}.png"

    def paint(
        self,
        prompts: Sequence[str],
        n: int = 1,
        progress: Callable[[int, int], object] | None = None,
        style: str | None = None,
    ) -> list[list[Painting]]:
        """Pictures 0 to n - 1 of each prompt. progress: called with (pictures done, pictures in all).

        style: as in GenerationRequest. None: the checkpoint's first style, in which most real drawings are.
        Raises PromptTooLong, which names the prompt, and what the painter raises.
        """
        style = style or self._first
        wanted = list(dict.fromkeys((prompt, index) for prompt in prompts for index in range(n)))
        missing = [(prompt, index) for prompt, index in wanted if not self._path(prompt, index, style).exists()]
        at_once = ROUNDS * self._painter.slots
        for first in range(0, len(missing), at_once):
            if progress:
                progress(len(wanted) - len(missing) + first, len(wanted))
            self._paint(missing[first : first + at_once], style)
        if progress:
            progress(len(wanted), len(wanted))
        return [[self._read(prompt, index, style) for index in range(n)] for prompt in prompts]

    def _paint(self, missing: Sequence[tuple[str, int]], style: str) -> None:
        encode, more = self._painter.tokenizer.encode, {"score": True, "revise": self._revise, "style": style}
        requests = [
            GenerationRequest(str(at), tuple(encode(prompt)), 1, self.params(prompt), index, **more)  # type: ignore[arg-type]
            for at, (prompt, index) in enumerate(missing)
        ]
        self._folder.mkdir(parents=True, exist_ok=True)
        for (prompt, index), image in zip(missing, self._painter.paint(requests), strict=True):
            info = PngInfo()
            info.add_itxt("Prompt", prompt)
            info.add_text("Score", repr(image.info["score"]))
            path = self._path(prompt, index, style)
            partial = path.with_suffix(f".{os.getpid()}.partial")
            image.save(partial, "PNG", pnginfo=info, compress_level=1)
            partial.replace(path)

    def _read(self, prompt: str, index: int, style: str) -> Painting:
        with Image.open(self._path(prompt, index, style)) as image:
            image.load()
            return Painting(image.convert("RGB"), float(image.text["Score"]))  # type: ignore[attr-defined]
