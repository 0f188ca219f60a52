"""From the fields of a request to an order of the pool: what all routes that paint have in common."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

from fastapi import Request

from app.http.body import Body
from app.http.headers import idempotency_key, timeout
from app.http.idempotency import fingerprint
from app.http.painting import Painting, Service
from app.http.schemas import Sampling
from app.logs import prompt_fields
from app.pictures.decode import Upload, read_upload
from app.pool.job import Job, Order, Reader
from model.config import SamplingDefaults
from model.errors import InvalidRequest
from model.inference.sequence import Completion, SamplingParams

SEED_BITS = 32  # of a seed that we choose: short enough to be copied, and exact in JavaScript


def make_order(
    request: Request,
    asked: Sampling,
    text: str,
    pictures: int,
    partial_rows: tuple[int, ...] = (),
) -> Order:
    """The order of `pictures` pictures, noted for the request's log line. Its time counts from the request's arrival.

    Raises InvalidRequest for a best_of, complete or revise, and BadHeader for a time limit, that cannot be honoured.
    """
    service: Service = request.app.state.service
    settings = service.settings
    if asked.best_of is not None:
        room = min(settings.queue, settings.client_queue or settings.queue)
        if not pictures <= asked.best_of <= room:
            allowed = f"it must be from {pictures}, the pictures to return, to {room}, which the queue has room for"
            raise InvalidRequest("best_of", f"best_of: {asked.best_of}, and {allowed}")
    config = service.pool.checkpoint.config
    if asked.complete and not config.completes:
        raise InvalidRequest("complete", f"complete: true, and {config.name} was not trained to continue texts")
    if asked.revise and config.reviser is None:
        raise InvalidRequest("revise", f"revise: true, and {config.name} has no reviser")
    revises = settings.revise and not asked.complete and config.reviser is not None
    params = sampling_params(asked, config.sampling)
    order = Order(
        text=text,
        num_images=asked.best_of or pictures,
        params=params,
        first_index=asked.index or 0,
        truncate=settings.truncate if asked.truncate is None else asked.truncate,
        seconds=timeout(request, settings.deadline) or settings.deadline,
        began=request.state.began,
        request_id=request.state.request_id,
        client=request.state.key or (request.client.host if request.client else ""),
        partial_rows=partial_rows,
        score=asked.best_of is not None,
        complete=Completion() if asked.complete else None,
        revise=revises if asked.revise is None else asked.revise,
    )
    _log_order(request, order)
    return order


async def submit(request: Request, sent: Body[Any], order: Callable[[], Coroutine[Any, Any, Order]]) -> Reader:
    """Have the order painted; with an Idempotency-Key, only if the request has not come before.

    sent: what `order` is made of. Raises what `order` and the pool raise, IdempotencyConflict and BadHeader.
    """
    service: Service = request.app.state.service
    key = idempotency_key(request)
    if key is None:
        job = await service.pool.submit(await order())
        request.state.log["job"] = job.id
        return job.join()

    async def accepted() -> Job:
        return await service.pool.submit(dataclasses.replace(await order(), shared=True))

    seconds = timeout(request, service.settings.deadline)
    parts = request.url.path, sent.fields.model_dump_json(), sent.files
    asked = await asyncio.to_thread(fingerprint, *parts) if sent.files else fingerprint(*parts)  # 10 ms for 8 MiB
    job = await service.repeated.job((request.state.key, key), asked, accepted)
    reader = job.join(seconds)
    if reader.joined:
        service.metrics.joined.inc()
        _log_order(request, job.order)
    request.state.log.update(job=job.id, joined=reader.joined)
    return reader


def _log_order(request: Request, order: Order) -> None:
    """Note for the request's log line what is painted for it."""
    request.state.log.update(
        prompt_fields(order.text), images=order.num_images, seed=order.params.seed, index=order.first_index
    )


def log_painting(request: Request, painting: Painting) -> None:
    """Note for the request's log line how it went."""
    request.state.log.update(
        tokens=painting.tokens, queue_ms=milliseconds(painting.queued), paint_ms=milliseconds(painting.painted),
        encode_ms=milliseconds(painting.encoded),
    )  # fmt: skip


def sampling_params(asked: Sampling, defaults: SamplingDefaults) -> SamplingParams:
    """What was asked for, the model's defaults where nothing was, and a random seed where none was."""
    return SamplingParams(
        seed=secrets.randbits(SEED_BITS) if asked.seed is None else asked.seed,
        temperature=defaults.temperature if asked.temperature is None else asked.temperature,
        top_k=defaults.top_k if asked.top_k is None else asked.top_k,
        top_p=defaults.top_p if asked.top_p is None else asked.top_p,
        guidance=defaults.guidance if asked.guidance is None else asked.guidance,
        opening=defaults.opening if asked.temperature is None else 0.0,
    )


def painting_on(order: Order, picture: Upload, keep: bytes) -> Order:
    """The order, to paint on from a picture. keep: for each of its cells whether it is kept."""
    return dataclasses.replace(order, image=picture.rgb, keep=keep)


def text_headers(tokens: int, read: int) -> dict[str, str]:
    """Of the answer: that only `read` of the text's tokens were read, if that is so."""
    return {"X-Text-Truncated": f"{read} of {tokens} tokens"} if read < tokens else {}


def revised_header(prompt: str | None) -> dict[str, str]:
    """Of the answer: the painted text, if it is another than was sent, in UTF-8, percent-encoded as in an address."""
    return {} if prompt is None else {"X-Revised-Prompt": quote(prompt, safe=" ,'()")}


async def decode(service: Service, name: str, data: bytes) -> Upload:
    """The picture that was sent in the field `name`, on another thread. Raises InvalidRequest."""
    vae = service.pool.checkpoint.config.vae
    return await service.upload_threads.run(
        read_upload, name, data, vae.image_size, vae.grid, service.settings.max_pixels
    )


def top_rows(rows: int, grid: int) -> bytes:
    """For each cell of the grid, row by row, whether it is in one of the `rows` top rows. Raises InvalidRequest."""
    if not 1 <= rows < grid:
        raise InvalidRequest("keep_rows", f"keep_rows: {rows}, and it must be an integer from 1 to {grid - 1}")
    return bytes([1]) * rows * grid + bytes((grid - rows) * grid)


def milliseconds(seconds: float) -> float:
    """Rounded for people."""
    return round(seconds * 1000, 1)
