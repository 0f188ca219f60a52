"""Makes an order of the pool from the fields of a request. All routes that paint share this."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

from fastapi import Request

from app.http.asked import engine_request
from app.http.body import Body
from app.http.errors import ClientGone
from app.http.headers import idempotency_key, timeout
from app.http.idempotency import fingerprint
from app.http.leaving import end, gone
from app.http.painting import Painting
from app.http.schemas import MAX_SAMPLES, Sampling
from app.http.service import Service
from app.logs import prompt_fields
from app.pictures.decode import Upload
from app.pool.job import Job, Order, Reader, late
from model.errors import InvalidRequest
from model.inference.events import Judged

SAFE = " ,'()"  # of a text in a header, beside letters, digits and _.-~


def make_order(
    service: Service,
    request: Request,
    asked: Sampling,
    text: str,
    pictures: int,
    partial_rows: tuple[int, ...] = (),
) -> Order:
    """The order of `pictures` pictures. Its time counts from the request's arrival. The request's log line tells it.

    Raises what `plain_order` raises, and BadHeader if the time limit cannot be honoured.
    """
    settings = service.settings
    seed = getattr(request.state, "seed", None)  # of a front that may have the request painted again
    if asked.seed is None and seed is not None:
        asked = asked.model_copy(update={"seed": seed})
    order = dataclasses.replace(
        plain_order(service, asked, text, pictures, partial_rows),
        seconds=timeout(request, settings.deadline) or settings.deadline,
        began=request.state.began,
        request_id=request.state.request_id,
        trace=service.telemetry.here(),
        client=client_of(request),
        elsewhere=getattr(request.state, "elsewhere", None),  # of a front, too
    )
    _log_order(request, order)
    if service.pool.models.several:
        request.state.log["model"] = order.model
    return order


def client_of(request: Request) -> str:
    """Whose share a request uses: an API key's hash, or without keys the address."""
    return str(request.state.key or (request.client.host if request.client else ""))


def plain_order(
    service: Service, asked: Sampling, text: str, pictures: int, partial_rows: tuple[int, ...] = ()
) -> Order:
    """The order of `pictures` pictures, of no client and without a deadline.

    Raises NoSuchModel, ModelFailed, and InvalidRequest if best_of, filter_thres, complete, revise or style cannot be
    honoured.
    """
    settings = service.settings
    if asked.best_of is not None:
        room = min(settings.queue, settings.client_queue or settings.queue)
        if not pictures <= asked.best_of <= room:
            most = f"{room}, the room of the queue" if room < MAX_SAMPLES else f"{MAX_SAMPLES}"
            allowed = f"from {pictures}, the pictures to return, to {most}"
            raise InvalidRequest("best_of", f"best_of must be {allowed}, got {asked.best_of}")
    model = service.pool.models.named(asked.model)
    checkpoint = service.checkpoint(model)
    return Order(
        text=text,
        request=engine_request(
            asked,
            model,
            checkpoint.config,
            checkpoint.styles,
            pictures,
            settings.revise,
            settings.on_unknown,
            partial_rows=partial_rows,
        ),
        truncate=settings.truncate if asked.truncate is None else asked.truncate,
        model=model,
    )


async def submit(
    service: Service, request: Request, sent: Body[Any], order: Callable[[], Coroutine[Any, Any, Order]]
) -> Reader:
    """Have the order painted; with an Idempotency-Key, only if the request has not come before.

    sent: the body that `order` is made of. Raises IdempotencyConflict, BadHeader, and what `order` and the pool raise.
    """
    key = idempotency_key(request)
    if key is None:
        job = await service.pool.submit(await order())
        request.state.log["job"] = job.id
        return job.join()

    async def accepted() -> Job:
        return await service.pool.submit(dataclasses.replace(await order(), shared=True))

    seconds = timeout(request, service.settings.deadline)
    fields = sent.fields.model_dump_json()
    asked = await asyncio.to_thread(fingerprint, request.url.path, fields, sent.files)  # 1 ms a MiB
    job = await service.repeated.job((request.state.key, key), asked, accepted)
    reader = job.join(seconds)
    if reader.joined:
        service.metrics.joined.inc()
        _log_order(request, job.order)
    request.state.log.update(job=job.id, joined=reader.joined)
    return reader


def _log_order(request: Request, order: Order) -> None:
    """Note for the request's log line what is painted for it."""
    asked = order.request
    request.state.log.update(
        prompt_fields(order.text), images=asked.num_images, seed=asked.params.seed, index=asked.first_index
    )


def log_painting(request: Request, painting: Painting) -> None:
    """Add to the request's log line how many milliseconds its painting took."""
    request.state.log.update(
        tokens=painting.tokens, queue_ms=milliseconds(painting.queued), paint_ms=milliseconds(painting.painted),
        encode_ms=milliseconds(painting.encoded),
    )  # fmt: skip


def painting_on(order: Order, rgb: bytes, keep: bytes) -> Order:
    """The order, to paint on from a picture, its RGB bytes. keep: for each of its cells whether it is kept."""
    return dataclasses.replace(order, request=dataclasses.replace(order.request, image=rgb, keep=keep))


def model_headers(reader: Reader) -> dict[str, str]:
    """The answer's header X-Model: the name of the model that paints."""
    return {"X-Model": _percent(reader.job.order.model)}


def text_headers(tokens: int, read: int) -> dict[str, str]:
    """The answer's header X-Text-Truncated, if only `read` of the text's tokens were read."""
    return {"X-Text-Truncated": f"{read} of {tokens} tokens"} if read < tokens else {}


def revised_headers(painting: Painting) -> dict[str, str]:
    """The answer's headers X-Revised-Prompt, X-Revised-Prompts and X-Styles, where they have something to tell.

    Texts are UTF-8, percent-encoded as in a URL. X-Revised-Prompt is one text, as older clients read it. The text of
    every picture, in a JSON list, comes beside it if a style has changed one.
    """
    told = {}
    if painting.revised is not None:
        told["X-Revised-Prompt"] = _percent(painting.revised)
    if any(picture.told.restyled for picture in painting.pictures):
        texts = json.dumps([picture.told.text for picture in painting.pictures], ensure_ascii=False)
        told["X-Revised-Prompts"] = _percent(texts)
    styles = [picture.told.style for picture in painting.pictures]
    if None not in styles:
        told["X-Styles"] = ",".join(map(str, styles))
    return told


def fit_headers(judged: Judged | None) -> dict[str, str]:
    """The answer's headers X-Prompt-Fit, X-Prompt-Closest and X-Missing-Style, as far as there is something to tell."""
    names = {"fit": "X-Prompt-Fit", "closest": "X-Prompt-Closest", "missing_style": "X-Missing-Style"}
    return {names[name]: _percent(text) for name, text in (judged.told() if judged else {}).items()}


def fit_keys(judged: Judged | None) -> dict[str, Any]:
    """The keys prompt_fit, prompt_closest and missing_style of an answer, as far as there is something to tell."""
    names = {"fit": "prompt_fit", "closest": "prompt_closest", "missing_style": "missing_style"}
    return {names[name]: text for name, text in (judged.told() if judged else {}).items()}


def _percent(text: str) -> str:
    return quote(text, safe=SAFE)


async def decode(service: Service, request: Request, order: Order, name: str, data: bytes) -> Upload:
    """The picture that was sent in the field `name`, decoded in another process within the order's time.

    Raises InvalidRequest, also for a model that cannot read pictures, DeadlineExceeded and Draining, and ClientGone if
    the client leaves first. With an Idempotency-Key others may wait for the same pictures, so that the decoding goes on
    without the client.
    """
    config = service.checkpoint(order.model).config
    if not config.vae.encodes:
        raise InvalidRequest(name, f"{name} must be left out: {order.model} has no image encoder")
    decoding = asyncio.create_task(service.decoders.decode(name, data, config.vae, order.client))
    leaving = [asyncio.create_task(gone(request.receive))] if idempotency_key(request) is None else []
    tasks: list[asyncio.Task[Any]] = [decoding, *leaving]
    left = None if order.deadline is None else max(0.0, order.deadline - time.monotonic())
    try:
        await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if decoding.done():
            return decoding.result()
        if any(task.done() for task in leaving):
            raise ClientGone("the client left before its picture was decoded")
        raise late(order.seconds)
    finally:
        await end(*tasks)


def top_rows(rows: int, grid: int) -> bytes:
    """A byte for each cell of the grid, row by row: 1 in the `rows` top rows, else 0.

    Raises InvalidRequest unless `rows` is from 1 to grid - 1.
    """
    if not 1 <= rows < grid:
        raise InvalidRequest("keep_rows", f"keep_rows must be an integer from 1 to {grid - 1}, got {rows}")
    return bytes([1]) * rows * grid + bytes((grid - rows) * grid)


def milliseconds(seconds: float) -> float:
    """`seconds` in milliseconds, rounded for people."""
    return round(seconds * 1000, 1)
