"""POST /generate paints pictures of a text. It has the contract of the Ainize DALLE-server, with true statuses."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.http import body
from app.http.answers import PicturesAnswer
from app.http.headers import PARAMETERS
from app.http.idempotency import joined_headers
from app.http.orders import (
    decode,
    fit_headers,
    log_painting,
    make_order,
    milliseconds,
    model_headers,
    painting_on,
    revised_headers,
    submit,
    text_headers,
    top_rows,
)
from app.http.painting import Painting, Wanted, paint
from app.http.schemas import ErrorBody, GenerateRequest, Pictures, form_schema
from app.http.service import Service, Shared
from app.pool.job import Order, Reader
from model.errors import InvalidRequest

router = APIRouter()

HEADERS = {
    "X-Request-Id": "The request's id, which the server's log shows. A client may choose it.",
    "X-Model": "The id of the model that painted, percent-encoded.",
    "X-Seeds": "SEED:INDEX of every picture, separated by commas. Sent as `seed` and `index`, they paint it again.",
    "X-Scores": "With best_of: how well each picture fits the text. It is the cosine of the checkpoint's CLIP, or "
    "without a CLIP how many nats a token the text makes the picture likelier.",
    "X-Revised-Prompt": "The text that was painted, if it is not the one that was sent. UTF-8, percent-encoded.",
    "X-Revised-Prompts": "If a style has changed the text of a picture: the text of every picture, in order, as a JSON "
    "list of strings. UTF-8, percent-encoded.",
    "X-Styles": "The style of every picture, separated by commas, if the model has several.",
    "X-Prompt-Fit": "How well the painted text says what was sent, if a reviser read it: known, near or unknown.",
    "X-Prompt-Closest": "For an unknown text: the nearest thing that the model knows. UTF-8, percent-encoded.",
    "X-Missing-Style": "The style that was asked for, if it does not know what is painted. See X-Styles.",
    "X-Text-Truncated": "`N of M tokens`, if only the first N of the text's M tokens were read.",
    "Idempotent-Replayed": "`true` if the request joined an earlier one by its Idempotency-Key.",
    "Server-Timing": "Milliseconds in the queue, in painting, and in encoding after the last picture was painted.",
}
ERRORS = {
    400: "The body is not what its Content-Type says, or a header is wrong.",
    404: "The server has no model of this id.",
    408: "The body did not arrive in time.",
    409: "Another request had this Idempotency-Key.",
    413: "The body has too many bytes.",
    415: "The route does not read this Content-Type, or there is a Content-Encoding.",
    422: "A field is missing, unknown or out of range, or the text has too many tokens.",
    429: "This client has its share of the queue. Retry-After says when there should be room.",
    500: "The pictures could not be painted.",
    503: "The queue is full or too long for the deadline, or the server is ending or lost its worker. See Retry-After.",
    504: "The deadline passed before the pictures were done.",
    507: "There is no room for the pictures that response_format: url keeps.",
}
SCHEMA = GenerateRequest.model_json_schema()
SCHEMA["properties"]["keep_rows"] = {"type": "null", "description": "Only with a file, in a multipart form."}
FILE = {"type": "string", "format": "binary", "description": "A PNG, JPEG or WebP to paint on from. See keep_rows."}
WITH_FILE = form_schema(GenerateRequest, image=FILE)
WITH_FILE["dependentRequired"] = {"image": ["keep_rows"], "keep_rows": ["image"]}
FORM = form_schema(GenerateRequest)
del FORM["properties"]["keep_rows"]
DOCUMENTED: dict[str, Any] = {
    "parameters": PARAMETERS,
    "requestBody": {
        "required": True,
        "content": {
            body.JSON: {"schema": SCHEMA},
            body.MULTIPART: {"schema": WITH_FILE},
            body.URLENCODED: {"schema": FORM},
        },
    },
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The pictures, each a PNG file in base64.",
        "model": Pictures,
        "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in HEADERS.items()},
    },
    **{status: {"description": text, "model": ErrorBody} for status, text in ERRORS.items()},
}


@router.post("/generate", summary="Paint pictures", responses=RESPONSES, openapi_extra=DOCUMENTED)
async def generate(request: Request, service: Shared) -> Response:
    """Paint `num_images` pictures of what `text` says. The same request with the same seed gives the same bytes."""
    sent = await body.read_body(request, GenerateRequest, service.settings, files=("image",))
    asked = sent.fields

    async def order() -> Order:
        made = make_order(service, request, asked, asked.text, asked.num_images)
        if sent.files or asked.keep_rows is not None:
            made = await _paint_on(service, request, made, asked.keep_rows, sent.files.get("image", []))
        return made

    best = asked.num_images if asked.best_of else None
    wanted = Wanted(best=best, embed_prompt=bool(asked.embed_prompt))
    reader = await submit(service, request, sent, order)
    painting = await paint(service, reader, request.receive, wanted, request.state.claim)
    log_painting(request, painting)
    if asked.response_format == "url":
        desk = await service.desks.open(service)
        return JSONResponse(await desk.addresses(request, painting, "png"), headers=_headers(reader, painting))
    texts = [b'["', *[b'","'] * (len(painting.pictures) - 1), b'"]']
    return PicturesAnswer(texts, painting.pictures, _headers(reader, painting))


async def _paint_on(service: Service, request: Request, order: Order, rows: int | None, files: list[bytes]) -> Order:
    if rows is None:
        raise InvalidRequest(
            "keep_rows", "keep_rows is missing; with a file it must be the number of the image's rows to keep"
        )
    keep = top_rows(rows, service.checkpoint(order.model).config.vae.grid)
    if len(files) != 1:
        raise InvalidRequest("image", f"image must be one file with keep_rows, got {len(files) or 'none'}")
    with service.pool.hold(order):
        return painting_on(order, (await decode(service, request, order, "image", files[0])).rgb, keep)


def _headers(reader: Reader, painting: Painting) -> dict[str, str]:
    asked = reader.job.request
    timing = {"queue": painting.queued, "paint": painting.painted, "encode": painting.encoded}
    headers = {
        "X-Seeds": ",".join(f"{asked.params.seed}:{picture.index}" for picture in painting.pictures),
        "Server-Timing": ", ".join(f"{name};dur={milliseconds(seconds)}" for name, seconds in timing.items()),
    }
    if asked.score:
        headers["X-Scores"] = ",".join(f"{picture.score:.6f}" for picture in painting.pictures)
    return (
        headers
        | model_headers(reader)
        | text_headers(painting.tokens, painting.read)
        | revised_headers(painting)
        | fit_headers(painting.judged)
        | joined_headers(reader)
    )
