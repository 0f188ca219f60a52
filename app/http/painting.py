"""From an order to files: submit, encode every picture as it is painted, and stop the moment the client leaves."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from starlette.types import Receive

from app.http.errors import ClientGone
from app.http.idempotency import Idempotency
from app.http.metrics import Metrics
from app.pictures.decoders import Decoders
from app.pictures.encode import PNG, Finish, Threads
from app.pictures.provenance import Provenance, forced_tokens, prompt_hash
from app.pool.job import Job, Reader
from app.pool.port import Pool
from app.settings import Settings
from model.config import CheckpointConfig
from model.inference.events import Painted

SPECIALS = 2  # <bos> and <eot> around the text


@dataclass(frozen=True)
class Service:
    """What the routes share; `app.state.service` of the application.

    threads encode pictures, decoders decode what clients send. repeated: requests that may come again.
    """

    settings: Settings
    pool: Pool
    metrics: Metrics
    threads: Threads
    decoders: Decoders
    repeated: Idempotency


@dataclass(frozen=True)
class Wanted:
    """What a client wants of the pictures of its order.

    best: only so many, the best by their score; None for all. embed_prompt: the prompt itself in a PNG's text chunks.
    """

    finish: Finish = PNG
    best: int | None = None
    embed_prompt: bool = False


@dataclass(frozen=True)
class Picture:
    """A file. index: of the picture, first_index of its order included."""

    index: int
    file: bytes = field(repr=False)
    score: float | None = None


@dataclass(frozen=True)
class Painting:
    """An order, painted.

    pictures: in the order of their indices, or the best one first. tokens: of the text, of which `read` were read.
    queued, painted, encoded: seconds, one after another. revised: the text that was painted, if it is another than was
    sent; written: tokens that were drawn for it.
    """

    pictures: list[Picture]
    tokens: int
    read: int
    queued: float
    painted: float
    encoded: float  # of it, what was left to do after the last picture was painted
    revised: str | None = None
    written: int = 0


async def paint(service: Service, reader: Reader, receive: Receive, wanted: Wanted) -> Painting:
    """The pictures of the reader's job. Raises what the job raises, and ClientGone when the client leaves first.

    receive: the ASGI channel of the request, whose body has been read: what comes now is the client's leaving.
    """
    working = asyncio.create_task(_collect(reader, service, wanted))
    leaving = asyncio.create_task(gone(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone("the client left before its pictures were done")
        return working.result()
    finally:
        service.pool.leave(reader)
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait({working, leaving})


async def gone(receive: Receive) -> None:
    """Wait until the client has left. A receive() is pending all the while, which is how the server notices."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _collect(reader: Reader, service: Service, wanted: Wanted) -> Painting:
    """Wait for every picture of the job; each is encoded while the others are painted, unless only the best count."""
    job = reader.job
    painted: list[Painted] = []
    encoding: dict[int, asyncio.Task[Picture]] = {}

    def encode(picture: Painted) -> None:
        encoding[picture.index] = asyncio.create_task(finish(service, job, picture, wanted))

    try:
        async for event in reader:
            if isinstance(event, Painted):
                painted.append(event)
                if wanted.best is None:
                    encode(event)
        if wanted.best is not None:
            painted = sorted(painted, key=lambda picture: (-(picture.score or 0.0), picture.index))[: wanted.best]
            for picture in painted:
                encode(picture)
        else:
            painted.sort(key=lambda picture: picture.index)
        pictures = [await encoding[picture.index] for picture in painted]
    finally:
        for task in encoding.values():
            task.cancel()
    queued, seconds = observe(service, job)
    encoded = time.monotonic() - max(job.ended or job.accepted, reader.since)
    revised = job.revised.text if job.revised else None
    return Painting(pictures, job.tokens, text_tokens(job), queued, seconds, encoded, revised, written_tokens(job))


def text_tokens(job: Job) -> int:
    """Tokens of the sent text that the model reads."""
    return len(job.text_ids) - SPECIALS


def written_tokens(job: Job) -> int:
    """Tokens that the model drew to complete or revise it."""
    return job.revised.written if job.revised else 0


def observe(service: Service, job: Job) -> tuple[float, float]:
    """Count the seconds of a job that has ended, in the queue and in painting, once, and return them."""
    started, ended = job.started or job.accepted, job.ended or job.accepted
    if not job.observed:
        job.observed = True
        service.metrics.queue_seconds.observe(started - job.accepted)
        service.metrics.paint_seconds.observe(ended - started)
    return started - job.accepted, ended - started


async def finish(service: Service, job: Job, painted: Painted, wanted: Wanted) -> Picture:
    """Make the file of a picture, on another thread."""
    before = time.monotonic()
    config = service.pool.checkpoint.config
    texts = provenance(job, painted, config, wanted.embed_prompt).texts()
    file = await service.threads.run(wanted.finish.encode, painted.rgb, config.vae.image_size, texts)
    service.metrics.encode_seconds.observe(time.monotonic() - before)
    return Picture(painted.index, file, painted.score)


def provenance(job: Job, painted: Painted, config: CheckpointConfig, embed_prompt: bool) -> Provenance:
    """What the picture's file tells. Its prompt is the one that was painted."""
    order = job.order
    return Provenance(
        model=config.name,
        index=painted.index,
        params=order.params,
        prompt_hash=prompt_hash(job.prompt),
        prompt=job.prompt if embed_prompt else None,
        forced=None if order.keep is None else forced_tokens(painted.tokens, order.keep),
    )
