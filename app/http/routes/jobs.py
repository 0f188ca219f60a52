"""Jobs: POST /v1/jobs accepts work that outlives its connection; GET, GET .../events and DELETE follow and end it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.http import body
from app.http.errors import IdempotencyConflict
from app.http.headers import IDEMPOTENCY, PARAMETERS, idempotency_key
from app.http.idempotency import fingerprint
from app.http.job_schemas import MAX_PICTURES, JobAnswer, JobList, JobRequest
from app.http.jobs import ID, Desk, base_of, key_of, owner
from app.http.leaving import done_first
from app.http.openai_schemas import OpenAIError
from app.http.orders import client_of, decode, top_rows
from app.http.schemas import form_schema
from app.http.service import Service, Shared
from app.http.streaming import HEADERS as STREAM
from app.jobs.faults import StoreFault, StoreFull
from app.jobs.rows import StoredJob
from app.jobs.webhooks import check_secret, check_url
from app.logs import prompt_fields
from app.wording import shorten
from model.errors import InvalidRequest, Overloaded, PromptTooLong

router = APIRouter(prefix="/v1/jobs")

LOOK = 0.5  # seconds between two looks at a job that another server may paint
MOST = 100  # jobs of a list
CURSOR = re.compile(
    rf"([0-9]{{1,12}}\.[0-9]{{1,12}})~({ID.pattern})"
)  # after this job, also if it is removed meanwhile
PICTURE_BYTES = 200_000  # that a picture's file hardly exceeds; a disk must have room for all of a new job
FILE = {"type": "string", "format": "binary", "description": "A PNG, JPEG or WebP to paint on from. See keep_rows."}
ERRORS = {
    400: "The body is not what its Content-Type says, or a field cannot be honoured. `param` names it.",
    404: "The client has no job of this id.",
    408: "The body did not arrive in time.",
    409: "Another request had this Idempotency-Key.",
    413: "The body has too many bytes.",
    415: "The route does not read this Content-Type, or there is a Content-Encoding.",
    503: "The server keeps no jobs, or is ending.",
    429: "So many pictures of the client's jobs wait that it may have no more.",
    507: "There is no room for the job's pictures.",
}
SCHEMA = JobRequest.model_json_schema()
FORM = form_schema(JobRequest, image=FILE)
for _name in ("prompts", "webhook"):  # a form has no lists and no objects
    del FORM["properties"][_name]
DOCUMENTED: dict[str, Any] = {
    "parameters": [one for one in PARAMETERS if one["name"] == IDEMPOTENCY],
    "requestBody": {
        "required": True,
        "content": {body.JSON: {"schema": SCHEMA}, body.MULTIPART: {"schema": FORM}},
    },
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": ERRORS[status], "model": OpenAIError} for status in statuses}


@router.post(
    "", summary="Accept a job", status_code=202, response_model=JobAnswer, openapi_extra=DOCUMENTED,
    responses={
        202: {"description": "The job is written down."}, **_errors(400, 408, 409, 413, 415, 429, 503, 507),
        404: {"description": "The server has no model of this id.", "model": OpenAIError},
    },
)  # fmt: skip
async def accept(request: Request, service: Shared) -> Response:
    """Accept a job of up to 1000 pictures. They are painted when no other request waits.

    Location is the job's address.
    """
    desk = await service.desks.open(service)
    sent = await body.read_body(request, JobRequest, service.settings, (body.JSON, body.MULTIPART), ("image",))
    fields = sent.fields
    texts, count = _wanted(fields)
    private = service.settings.private_webhooks
    if fields.webhook is not None:
        check_url(fields.webhook.url, private)
        check_secret(fields.webhook.secret)
    asked = desk.asked(fields, texts, count, base_of(request))
    await asyncio.to_thread(_check_texts, service, fields, texts)
    order = desk.check(asked)
    image = None
    if sent.files or fields.keep_rows is not None:
        files = sent.files.get("image", [])
        if fields.keep_rows is None or len(files) != 1:
            raise InvalidRequest("image", f"image must be one file with keep_rows, got {len(files) or 'none'}")
        top_rows(fields.keep_rows, service.checkpoint(fields.model).config.vae.grid)
        image = (await decode(service, request, order, "image", files[0])).rgb
    key = idempotency_key(request)
    asked["print"] = await asyncio.to_thread(_print, fields, sent.files) if key else None
    total = len(texts) * count
    named, client = key_of(request, key), client_of(request)
    if named is None or not await desk.calls.database(desk.store.keyed, named):  # a repeat needs no room
        await desk.calls.files(desk.store.folder.check_room, total * PICTURE_BYTES)
        await _check_queue(desk, service, client, total, order.model)
    own = request.app.state.keys.hook(owner(request))
    hook = own if fields.webhook is None else fields.webhook.model_dump()
    until = None if fields.time_limit is None else time.time() + fields.time_limit
    job = await (desk.calls.database if image is None else desk.calls.files)(
        desk.store.accept, asked, total, owner(request), order.model, image, hook, named, client, until
    )
    if job.asked["print"] != asked["print"]:
        raise IdempotencyConflict(f"{IDEMPOTENCY} must be of one request only, got one of another request")
    desk.runner.wake()
    request.state.log.update(prompt_fields(texts[0]), job=job.id, images=total, seed=asked["fields"]["seed"])
    headers = {"Location": f"{base_of(request)}v1/jobs/{job.id}"}
    return await _told(request, service, await _answer(request, desk, job), 202, headers)


async def _check_queue(desk: Desk, service: Service, client: str, total: int, model: str) -> None:
    """Raises StoreFull if the queue of jobs has no room for so many pictures, and Overloaded if one client's half has
    none. A client that has none waiting may have any job.
    """
    most = max(service.settings.keep_pictures, MAX_PICTURES)
    waiting, own = await desk.calls.database(desk.store.waiting, client)
    if own and own + total > most // 2:
        counts = f"{own} pictures wait to be painted, and it takes {most // 2}"
        message = f"your half of the queue of jobs has no room for {total} more: {counts}"
        raise Overloaded(message, service.pool.seconds_for(own + total - most // 2, model), per_client=True)
    if waiting + total > most:
        counts = f"{waiting} pictures wait to be painted, and it takes {most}"
        raise StoreFull(f"the queue of jobs has no room for {total} more: {counts}; try again when some are painted")


async def _answer(request: Request, desk: Desk, job: StoredJob) -> JobAnswer:
    """The job with its pictures."""
    return await desk.answer(job, base_of(request), await desk.calls.database(desk.store.pictures, job.id))


async def _told(
    request: Request, service: Service, told: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer. It may have megabytes, so a thread makes it, and it has its place in the memory for answers."""
    made = (await asyncio.to_thread(told.model_dump_json)).encode()
    await request.state.claim.take(len(made), request.state.began + service.settings.deadline)
    return Response(made, status, headers, media_type=body.JSON)


def _wanted(fields: JobRequest) -> tuple[list[str], int]:
    """The texts, and how many pictures of each. Raises InvalidRequest."""
    if (fields.text is None) == (fields.prompts is None):
        raise InvalidRequest("text", f"text or prompts must be given, got {'both' if fields.text else 'neither'}")
    if fields.count is not None and fields.num_images is not None:
        raise InvalidRequest("count", "count or num_images must be given, got both")
    texts = [fields.text] if fields.text is not None else list(fields.prompts or ())
    count = fields.count or fields.num_images or 1
    if len(texts) * count > MAX_PICTURES:
        what = f"{len(texts)} prompts times {count}"
        raise InvalidRequest("count", f"count must make at most {MAX_PICTURES} pictures in all, got {what}")
    return texts, count


def _check_texts(service: Service, fields: JobRequest, texts: list[str]) -> None:
    """Raises PromptTooLong for a text with too many tokens, naming it."""
    checkpoint = service.checkpoint(fields.model)
    truncate = service.settings.truncate if fields.truncate is None else fields.truncate
    for i, text in enumerate(texts):
        try:
            checkpoint.tokenize(text, truncate)
        except PromptTooLong as error:
            name = "text" if fields.prompts is None else f"prompts[{i}]"
            raise PromptTooLong(error.tokens, error.limit, name) from None


def _print(fields: JobRequest, files: Any) -> str:
    return hashlib.sha256(fingerprint("/v1/jobs", fields.model_dump_json(), files)).hexdigest()


@router.get("", summary="The client's jobs", response_model=JobList, responses=_errors(503))
async def jobs(
    request: Request,
    service: Shared,
    cursor: Annotated[str | None, Query(description="next_cursor of the answer before.")] = None,
    limit: Annotated[int, Query(ge=1, le=MOST, description="Jobs at most; fewer if their texts are long.")] = 20,
) -> Response:
    """List jobs, the newest first. An API key sees its own jobs only."""
    desk = await service.desks.open(service)
    at = CURSOR.fullmatch(cursor or "")
    if cursor and at is None:
        raise InvalidRequest("cursor", f"cursor must be the next_cursor of another answer, got {shorten(cursor)}")
    before = None if at is None else (float(at[1]), at[2])
    found, more = await desk.calls.database(desk.store.jobs, owner(request), limit, before)
    told = await desk.answers(found, base_of(request))
    following = f"{found[-1].created!r}~{found[-1].id}" if more else None
    return await _told(request, service, JobList(data=told, next_cursor=following))


@router.get("/{job_id}", summary="A job", response_model=JobAnswer, responses=_errors(404, 503))
async def job(job_id: str, request: Request, service: Shared) -> Any:
    """Tell the state of a job, how much of it is painted, and the addresses of its pictures so far."""
    desk = await service.desks.open(service)
    return await _told(request, service, await _answer(request, desk, await desk.find(request, job_id)))


@router.delete("/{job_id}", summary="Cancel a job", response_model=JobAnswer, responses=_errors(404, 503))
async def cancel(job_id: str, request: Request, service: Shared) -> Any:
    """End a job. Its pictures so far stay. Nothing changes if it has ended already."""
    desk = await service.desks.open(service)
    found = await desk.find(request, job_id)
    ended = await desk.runner.cancel(found) or await desk.calls.database(desk.store.job, job_id) or found
    return await _told(request, service, await _answer(request, desk, ended))


@router.get(
    "/{job_id}/events", summary="Follow a job", response_class=Response,
    responses={200: {"content": {"text/event-stream": {}}}, **_errors(404, 503)},
)  # fmt: skip
async def events(job_id: str, request: Request, service: Shared) -> Response:
    """Server-sent events: one for each finished picture, and one for the end.

    The header Last-Event-ID goes on after a break.
    """
    desk = await service.desks.open(service)
    found = await desk.find(request, job_id)
    last = request.headers.get("last-event-id", "0")
    after = int(last) if last.isascii() and last.isdigit() and len(last) < 7 else 0
    return JobEvents(desk, found, base_of(request), after, service.settings.keep_alive)


class JobEvents(Response):
    """The stream of a job's events. The id of a picture's event is its place in the order of painting."""

    def __init__(self, desk: Desk, job: StoredJob, base: str, after: int, keep_alive: float) -> None:
        super().__init__(headers=STREAM)
        del self.headers["content-length"]
        self._desk, self._job, self._base, self._after, self._keep_alive = desk, job, base, after, keep_alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002, ASGI's
        """Stream until the job has ended, the client leaves, or the server paints no more: it may ask another one."""
        working = asyncio.create_task(self._stream(send))
        if await done_first(working, receive):
            working.result()

    async def _stream(self, send: Send) -> None:
        async def tell(text: str, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        desk, job, shown, told_at = self._desk, self._job, "", 0.0
        while True:
            ending = desk.ending
            try:
                found = await desk.calls.database(desk.store.job, job.id)
                pictures = await desk.calls.database(desk.store.pictures, job.id, self._after)
                answer = None if found is None else await desk.answer(found, self._base, None)
            except StoreFault as error:  # the job waits too
                await tell(f": {error}\n\n", more=not ending)
                if ending:
                    return
                await asyncio.sleep(LOOK)
                continue
            for picture in pictures:
                self._after = picture.order
                values = {"type": "job.picture", **desk.picture(job, picture, self._base).model_dump()}
                await tell(f"id: {picture.order}\ndata: {json.dumps(values)}\n\n")
                told_at = time.monotonic()
            if found is None or answer is None or not found.open:
                break
            if ending:
                await tell(": the server is shutting down; Last-Event-ID goes on with this later\n\n", more=False)
                return
            names = ("state", "pictures_done", "pictures_total", "rows_done", "rows_total", "queue_position")
            progress = json.dumps({name: getattr(answer, name) for name in names})
            if progress != shown or time.monotonic() - told_at > self._keep_alive:
                await tell(f": progress {progress}\n\n")
                shown, told_at = progress, time.monotonic()
            await asyncio.sleep(0.05)  # what comes together is told together
            await desk.runner.changed(job.id, LOOK)
        if found is not None and answer is not None:
            ended = answer.model_dump(exclude={"pictures"})
            await tell(f"data: {json.dumps({'type': f'job.{found.state}', 'job': ended})}\n\n")
        await tell("data: [DONE]\n\n", more=False)
