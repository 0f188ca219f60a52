"""From an order to PNG files: submit, encode every picture as it is painted, and stop the moment the client leaves."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from dataclasses import dataclass

from starlette.types import Receive

import model
from app.errors import ClientGone
from app.images import PngThreads
from app.job import Job, Order
from app.metrics import Metrics
from app.pool import Pool
from app.settings import Settings
from model.config import CheckpointConfig
from model.inference.sequence import Painted

SPECIALS = 2  # <bos> and <eot> around the text


@dataclass(frozen=True)
class Service:
    """What the routes share; `app.state.service` of the application."""

    settings: Settings
    pool: Pool
    metrics: Metrics
    threads: PngThreads


@dataclass(frozen=True)
class Painting:
    """An order, painted. pngs: in the order of their indices. tokens: of the text, of which `read` were read.

    queued, painted, encoded: seconds, one after another.
    """

    pngs: list[bytes]
    tokens: int
    read: int
    queued: float
    painted: float
    encoded: float  # of it, what was left to do after the last picture was painted


async def paint(service: Service, order: Order, receive: Receive) -> Painting:
    """Paint the order. Raises what the pool and the job raise, and ClientGone when the client leaves first.

    receive: the ASGI channel of the request, whose body has been read: what comes now is the client's leaving.
    """
    job = service.pool.submit(order)
    working = asyncio.create_task(_collect(job, service))
    leaving = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone("the client left before its pictures were done")
        return working.result()
    finally:
        service.pool.cancel(job)
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait({working, leaving})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _collect(job: Job, service: Service) -> Painting:
    """Wait for every picture of the job; each is encoded while the others are painted."""
    config = service.pool.checkpoint.config
    size = config.vae.image_size

    async def encode(painted: Painted) -> bytes:
        before = time.monotonic()
        png = await service.threads.encode(painted.rgb, size, size, provenance(job.order, painted.index, config))
        service.metrics.encode_seconds.observe(time.monotonic() - before)
        return png

    encoding: dict[int, asyncio.Task[bytes]] = {}
    try:
        async for event in job:
            if isinstance(event, Painted):
                encoding[event.index] = asyncio.create_task(encode(event))
        pngs = [await encoding[index] for index in sorted(encoding)]
    finally:
        for task in encoding.values():
            task.cancel()
    started, ended = job.started or job.accepted, job.ended or job.accepted
    painting = Painting(
        pngs=pngs,
        tokens=job.tokens,
        read=len(job.text_ids) - SPECIALS,
        queued=started - job.accepted,
        painted=ended - started,
        encoded=time.monotonic() - ended,
    )
    service.metrics.queue_seconds.observe(painting.queued)
    service.metrics.paint_seconds.observe(painting.painted)
    return painting


def provenance(order: Order, index: int, config: CheckpointConfig) -> dict[str, str]:
    """The PNG's text chunks: what is needed to paint the picture again, if one knows the prompt."""
    params = order.params
    parameters = {
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "guidance": params.guidance,
    }
    return {
        "Software": f"dalle-server {model.__version__}",
        "Model": config.name,
        "Seed": str(params.seed),
        "Index": str(index),
        "Parameters": json.dumps(parameters),
        "Prompt-SHA256": hashlib.sha256(order.text.encode()).hexdigest(),
    }
