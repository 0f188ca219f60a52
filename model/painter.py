"""The model in one Python object: prompt in, pictures out, by the same engine that the server runs.

    painter = model.load("weights/default")
    painter.generate("a red apple", n=4, seed=1)

What it paints is a function of the checkpoint, the prompt, the seed and the sampling parameters, on one machine.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from model.checkpoints import Checkpoint
from model.checkpoints import load as load_checkpoint
from model.errors import DalleError, InvalidRequest
from model.inference.engine import Engine
from model.inference.scoring import Scorer
from model.inference.sequence import (
    INVALID_REQUEST,
    MAX_IMAGES,
    Completion,
    Failed,
    GenerationRequest,
    Painted,
    Progress,
    Revised,
    SamplingParams,
)
from model.inference.writing import Writer
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from model.vae import VAE


class Painter:
    """A loaded checkpoint that paints. Threads may share one: their calls follow each other.

    checkpoint: on the device that is to paint. slots: rows of the KV cache, so the images painted at a time (a guided
    image takes two); the cache is allocated by the first `generate`.
    tokenizer, vae, transformer: the parts, for whoever wants token ids, reconstructions or logits.
    """

    def __init__(self, checkpoint: Checkpoint, slots: int = 16) -> None:
        self.checkpoint = checkpoint
        self.slots = slots
        self._engine: Engine | None = None
        self._clip: Scorer | None = None
        self._lock = threading.Lock()

    @property
    def tokenizer(self) -> Tokenizer:
        return self.checkpoint.tokenizer

    @property
    def vae(self) -> VAE:
        """encode(images (b, 3, 256, 256) in [0, 1]) -> ids (b, 32, 32); decode(ids) -> images."""
        return self.checkpoint.vae

    @property
    def transformer(self) -> Transformer:
        """logits(text_ids (b, t), image_ids (b, k)) -> (b, t + k, text vocabulary + image vocabulary), float32."""
        return self.checkpoint.transformer

    @property
    def clip(self) -> Scorer:
        """score(pictures or tokens, prompt) -> how well each fits. Raises CheckpointError where there is none."""
        if self._clip is None:
            self._clip = Scorer(self.checkpoint, self.device)
        return self._clip

    @property
    def device(self) -> torch.device:
        return next(self.transformer.parameters()).device

    def generate(
        self,
        prompt: str,
        n: int = 1,
        seed: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float | None = None,
        truncate: bool = False,
        on_progress: Callable[[int, int], object] | None = None,
        index: int = 0,
        forced: bytes | None = None,
        best_of: int | None = None,
        revise: bool | None = None,
    ) -> list[Image.Image]:
        """Paint `n` (1 to 64) pictures of `prompt`: RGB, 256 x 256, in the order of their index.

        seed: 0 to 2**63 - 1; the same seed gives the same pictures; None draws one. Each picture's `info` has "seed"
        and "index". temperature, top_k, top_p, guidance: as in SamplingParams; None takes the checkpoint's default.
        truncate: cut a prompt that is too long instead of refusing it. on_progress: called with the rows of image
        tokens done and the rows in all. index: of the first picture; seed and index name a picture. forced: tokens
        that are not drawn but kept, as in GenerationRequest. best_of: paint so many (n to 64) and return the n that fit
        the prompt best, the best one first, each with its "score" in `info`: by the checkpoint's CLIP, or without one
        by likelihood. revise: say the prompt in words that the model was taught, before it is painted; each picture
        has the text that was painted as "revised" in its `info`, if it is another. None: where the checkpoint has a
        reviser.
        Raises InvalidRequest naming the argument, PromptTooLong, and DalleError if the model's output is not finite.
        """
        if not 1 <= n <= MAX_IMAGES:
            raise InvalidRequest("n", f"n: {n}, and it must be from 1 to {MAX_IMAGES}")
        params = self.sampling(seed, temperature, top_k, top_p, guidance)
        if best_of is not None and not n <= best_of <= MAX_IMAGES:
            allowed = f"it must be from {n}, the pictures to return, to {MAX_IMAGES}"
            raise InvalidRequest("best_of", f"best_of: {best_of}, and {allowed}")
        ids = tuple(self.tokenizer.encode(prompt, truncate))
        request = GenerationRequest(
            "0",
            ids,
            best_of or n,
            params,
            index,
            forced,
            score=best_of is not None,
            revise=self.revises if revise is None else revise,
        )
        pictures = self.paint([request], on_progress)
        return best(pictures)[:n] if best_of else pictures

    def generate_each(
        self,
        prompts: Sequence[str],
        seed: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float | None = None,
        on_progress: Callable[[int, int], object] | None = None,
        revise: bool | None = None,
    ) -> list[Image.Image]:
        """Paint one picture of each prompt, many at a time; each is the one that `generate` paints with that seed."""
        params = self.sampling(seed, temperature, top_k, top_p, guidance)
        texts = [tuple(self.tokenizer.encode(prompt)) for prompt in prompts]
        revises = self.revises if revise is None else revise
        requests = [GenerationRequest(str(i), ids, 1, params, revise=revises) for i, ids in enumerate(texts)]
        return self.paint(requests, on_progress)

    def revise(self, prompt: str) -> str:
        """The prompt in words that the model was taught: the text that `generate` paints. Too long a prompt is cut.

        Raises InvalidRequest for a checkpoint without a reviser.
        """
        ids = self.tokenizer.encode(prompt, truncate=True)
        return Writer(self.checkpoint, self.device).revise(ids) or self.tokenizer.decode(ids)

    @property
    def revises(self) -> bool:
        """Whether prompts are revised where nothing is said: the checkpoint has a reviser."""
        return self.checkpoint.reviser is not None

    def complete(
        self,
        prompt: str,
        n: int = 1,
        seed: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        tokens: int | None = None,
    ) -> list[str]:
        """Continue a caption: `n` (1 to 64) texts that begin with `prompt`, which may be empty.

        seed: 0 to 2**63 - 1; the same seed gives the same texts; None draws one. temperature, top_k, tokens: as in
        Completion; None takes its default. A text may be the prompt itself, where the model would add nothing.
        `generate` revises a completed text as any other; revise=False paints it as it is.
        Raises InvalidRequest naming the argument, also "complete" for a checkpoint that cannot; PromptTooLong; and
        DalleError if the model's output is not finite.
        """
        if not 1 <= n <= MAX_IMAGES:
            raise InvalidRequest("n", f"n: {n}, and it must be from 1 to {MAX_IMAGES}")
        given = {"temperature": temperature, "top_k": top_k, "tokens": tokens}
        how = Completion(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        params = self.sampling(seed)
        ids = self.tokenizer.encode(prompt)
        writer = Writer(self.checkpoint, self.device)
        return [writer.complete(ids, how, params.seed, index) for index in range(n)]

    def sampling(
        self,
        seed: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float | None = None,
    ) -> SamplingParams:
        """What `generate` does with these arguments: the checkpoint's defaults, or a random seed, where one is None.

        Raises InvalidRequest naming the argument.
        """
        default = self.checkpoint.config.sampling
        params = SamplingParams(
            seed=secrets.randbelow(2**32) if seed is None else seed,
            temperature=default.temperature if temperature is None else temperature,
            top_k=default.top_k if top_k is None else top_k,
            top_p=default.top_p if top_p is None else top_p,
            guidance=default.guidance if guidance is None else guidance,
        )
        params.check(self.transformer.config.image_vocab)
        return params

    def paint(
        self, requests: Sequence[GenerationRequest], on_progress: Callable[[int, int], object] | None = None
    ) -> list[Image.Image]:
        """The pictures of requests with ids of their own, request by request, painted many at a time.

        What the other methods are made of: each request has its own parameters. A picture of a request that asks for a
        score has it in its `info` as "score"; "revised" there is the text that was painted, if it is another than the
        request's. Raises as `generate` does.
        """
        with self._lock:
            if self._engine is None:
                self._engine = Engine(self.checkpoint, slots=self.slots, device=self.device)
            engine = self._engine
            total = sum(request.num_images for request in requests) * self.transformer.config.grid
            rows: dict[str, int] = {}
            painted: dict[tuple[str, int], Image.Image] = {}
            seeds = {request.id: request.params.seed for request in requests}
            revised: dict[str, str] = {}
            try:
                for request in requests:
                    engine.add(request)
                while engine.has_work:
                    for event in engine.step():
                        if isinstance(event, Failed):
                            raise _error(event)
                        if isinstance(event, Revised):
                            revised[event.request_id] = event.text
                        if isinstance(event, Painted):
                            picture = self._image(event, seeds[event.request_id], revised.get(event.request_id))
                            painted[event.request_id, event.index] = picture
                        elif isinstance(event, Progress) and on_progress:
                            rows[event.request_id] = sum(event.rows_done)
                            on_progress(sum(rows.values()), total)
            finally:
                for request in requests:
                    engine.cancel(request.id)  # an interrupt leaves nothing behind; after the end this does nothing
        return [painted[r.id, r.first_index + i] for r in requests for i in range(r.num_images)]

    def _image(self, event: Painted, seed: int, revised: str | None) -> Image.Image:
        size = self.vae.config.image_size
        image = Image.frombytes("RGB", (size, size), event.rgb)
        image.info.update(seed=seed, index=event.index)
        if revised is not None:
            image.info["revised"] = revised
        if event.score is not None:
            image.info["score"] = event.score
        return image


def best(pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """Scored pictures, the best one first; of equals the one of the lower index."""
    return sorted(pictures, key=lambda picture: (-picture.info["score"], picture.info["index"]))


def _error(event: Failed) -> DalleError:
    if event.code == INVALID_REQUEST:
        return InvalidRequest(event.field or "request", event.message)
    return DalleError(event.message)


def load(path: str | Path = "weights/default", device: str | torch.device = "auto") -> Painter:
    """Load the checkpoint in the folder `path`, strictly.

    device: "cpu", "cuda", "cuda:1" ..., or "auto": the first CUDA device where there is one, else the CPU.
    Raises CheckpointError, one line naming the file, for anything missing or damaged.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Painter(load_checkpoint(path, device))
