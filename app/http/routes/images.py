"""The OpenAI Images API: POST /v1/images/generations, edits and variations, GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.http import body
from app.http.answers import PicturesAnswer, around_pictures
from app.http.headers import PARAMETERS
from app.http.idempotency import joined_headers
from app.http.openai_schemas import (
    EditsRequest,
    Image,
    ImagesRequest,
    ImagesResponse,
    Model,
    ModelList,
    ModelSampling,
    ModelStyle,
    OpenAIError,
    Usage,
    VariationsRequest,
)
from app.http.orders import (
    decode,
    fit_headers,
    fit_keys,
    log_painting,
    make_order,
    model_headers,
    painting_on,
    submit,
    text_headers,
    top_rows,
)
from app.http.painting import Wanted, paint
from app.http.schemas import form_schema
from app.http.service import Service, Shared
from app.http.streaming import PictureStream
from app.pictures.encode import Finish
from app.pool.job import Order
from model.errors import InvalidRequest, PromptTooLong, UnknownPrompt
from model.inference.requests import GenerationRequest

router = APIRouter(prefix="/v1")
Asked = TypeVar("Asked", bound=ImagesRequest)
MAX_SIDE = 1024  # pixels a side to which a picture can be enlarged
ADDRESSED = ("dall-e-2", "dall-e-3")  # for these OpenAI's API leaves the files out, unless it is asked for them

ERRORS = {
    400: "The body is not what its Content-Type says, or a field or header cannot be honoured. `param` names it.",
    404: "The server has no model of this id.",
    408: "The body did not arrive in time.",
    409: "Another request had this Idempotency-Key.",
    413: "The body has too many bytes.",
    415: "The route does not read this Content-Type, or there is a Content-Encoding.",
    429: "This client has its share of the queue. Retry-After says when there should be room.",
    500: "The pictures could not be painted.",
    503: "The queue is full or too long for the deadline, or the server is ending or lost its worker. See Retry-After.",
    504: "The deadline passed before the pictures were done.",
    507: "There is no room for the pictures that response_format: url keeps.",
}
EVENTS = {
    "schema": {"type": "string"},
    "example": 'data: {"type":"image_generation.completed","b64_json":"...","index":0,"seed":1}\n\ndata: [DONE]\n\n',
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The pictures. With `stream` they are events, each sent when its picture is done.",
        "model": ImagesResponse,
        "content": {"text/event-stream": EVENTS},
    },
    **{status: {"description": text, "model": OpenAIError} for status, text in ERRORS.items()},
}
FILE = {"type": "string", "format": "binary"}
EDITS_FORM = form_schema(
    EditsRequest,
    image={**FILE, "description": "A PNG, JPEG or WebP. Its middle square is taken."},
    mask={
        **FILE,
        "description": "A picture of the same size. Cells in which it has a wholly transparent pixel are painted anew.",
    },
)
EDITS_FORM["required"] = ["image", *EDITS_FORM["required"]]

VARIATIONS_FORM = form_schema(
    VariationsRequest, image={**FILE, "description": "A PNG, JPEG or WebP. Its middle square is taken."}
)
VARIATIONS_FORM["required"] = ["image"]


def _documented(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"parameters": PARAMETERS, "requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


@router.post(
    "/images/generations", summary="Paint pictures (OpenAI)", responses=RESPONSES,
    openapi_extra=_documented(body.JSON, ImagesRequest.model_json_schema()),
)  # fmt: skip
async def generations(request: Request, service: Shared) -> Response:
    """The OpenAI Images API. What cannot be honoured is refused by name; `seed` and the other fields of /generate that
    steer the painting are taken too."""
    sent = await body.read_body(request, ImagesRequest, service.settings, kinds=(body.JSON,))

    async def order() -> Order:
        return _order(service, request, sent.fields)

    return await _paint(service, request, sent, "image_generation", order)


@router.post(
    "/images/edits", summary="Paint parts of a picture anew (OpenAI)", responses=RESPONSES,
    openapi_extra=_documented(body.MULTIPART, EDITS_FORM),
)  # fmt: skip
async def edits(request: Request, service: Shared) -> Response:
    """Cells of the picture in which the mask, or without one the picture itself, has a wholly transparent pixel are
    painted anew; the others are kept. `keep_rows` instead of a mask keeps so many rows at the top."""
    files = ("image", "mask")
    sent = await body.read_body(request, EditsRequest, service.settings, kinds=(body.MULTIPART,), files=files)
    images = sent.files.get("image", [])

    async def order() -> Order:
        made = _order(service, request, sent.fields)
        return await _paint_on(service, request, made, sent.fields.keep_rows, images, sent.files.get("mask", []))

    return await _paint(service, request, sent, "image_edit", order)


@router.post(
    "/images/variations", summary="Paint variations of a picture (OpenAI)", responses=RESPONSES,
    openapi_extra=_documented(body.MULTIPART, VARIATIONS_FORM),
)  # fmt: skip
async def variations(request: Request, service: Shared) -> Response:
    """The picture's first rows are kept, and the rest is painted anew. `strength` says how much."""
    sent = await body.read_body(request, VariationsRequest, service.settings, (body.MULTIPART,), ("image",))
    asked = sent.fields

    async def order() -> Order:
        made = _order(service, request, asked)
        if not asked.prompt:  # there is nothing to reword
            made = dataclasses.replace(made, request=dataclasses.replace(made.request, revise=False))
        grid = service.checkpoint(asked.model).config.vae.grid
        anew = round((asked.strength or 0.5) * grid)
        rows = min(max(1, grid - anew), grid - 1)
        return await _paint_on(service, request, made, rows, sent.files.get("image", []), [])

    return await _paint(service, request, sent, "image_edit", order)


@router.get(
    "/models", summary="The models that are served (OpenAI)", response_model=ModelList,
    response_model_exclude_none=True,
)  # fmt: skip
async def models(service: Shared) -> ModelList:
    """Each with its own facts, whether it is in memory or not."""
    served = service.pool.models
    return ModelList(data=[_served(service, name) for name in (*served.served, *served.aliases)])


@router.get(
    "/models/{model:path}", summary="One model (OpenAI)", response_model=Model, response_model_exclude_none=True,
    responses={404: {"description": ERRORS[404], "model": OpenAIError}},
)  # fmt: skip
async def model(service: Shared, model: str) -> Model:
    """The model of this id."""
    return _served(service, model)


def _served(service: Service, name: str) -> Model:
    checkpoint, root = service.checkpoint(name), service.pool.models.aliases.get(name)
    config, styles = checkpoint.config, checkpoint.styles
    told = [
        ModelStyle(name=style.name, things=None if things is None else len(things))
        for style, things in zip(styles.styles, styles.things, strict=True)
    ]
    sampling = ModelSampling(**dataclasses.asdict(config.sampling))
    return Model(id=name, created=config.created, root=root, styles=told or None, sampling=sampling)


def check(asked: ImagesRequest, service: Service) -> None:
    """Raise InvalidRequest for fields beyond the checkpoint's limits, and for fields that do not go together."""
    config = service.checkpoint(asked.model).config
    _side(asked.size, config.vae.image_size, service.settings.lenient)
    if asked.output_compression not in (None, 100) and asked.output_format in (None, "png"):
        what = f"output_compression must be 100 or left out with the output_format png, got {asked.output_compression}"
        raise InvalidRequest("output_compression", what)
    if asked.response_format == "url" and asked.stream:
        raise InvalidRequest("response_format", "response_format must be b64_json in a stream, got url")
    every, partials = asked.every_rows, asked.partial_images
    for name, value in (("partial_images", partials), ("every_rows", every)):
        if value and not asked.stream:
            raise InvalidRequest(name, f"{name} must be left out without stream: true, got {value}")
    if every and partials:
        raise InvalidRequest(
            "every_rows", f"every_rows must be left out with partial_images, got {every} and {partials}"
        )
    if every and every >= config.vae.grid:
        raise InvalidRequest(
            "every_rows", f"every_rows must be an integer from 1 to {config.vae.grid - 1}, got {every}"
        )
    if asked.best_of and asked.stream:
        raise InvalidRequest("best_of", f"best_of must be left out of a stream, got {asked.best_of}")


def _side(size: str | None, native: int, lenient: bool = False) -> int:
    """The pixels a side of a size such as "512x512". lenient: the nearest square within it, or that can be painted."""
    if size in (None, "auto"):
        return native
    width, height = map(int, str(size).split("x"))
    largest = max(native, MAX_SIDE)
    if lenient:
        return min(max(min(width, height), native), largest)
    if width != height or not native <= width <= largest:
        raise InvalidRequest(
            "size", f"size must be auto or a square from {native}x{native} to {largest}x{largest}, got {size}"
        )
    return width


def partial_rows(asked: ImagesRequest, grid: int) -> tuple[int, ...]:
    """The rows of `grid` after which unfinished pictures are wanted: after equal shares, or after every so many."""
    if asked.every_rows:
        return tuple(range(asked.every_rows, grid, asked.every_rows))
    shares = (asked.partial_images or 0) + 1
    return tuple(sorted({grid * share // shares for share in range(1, shares)} - {0}))


def _order(service: Service, request: Request, asked: ImagesRequest) -> Order:
    check(asked, service)
    rows = partial_rows(asked, service.checkpoint(asked.model).config.vae.grid)
    return make_order(service, request, asked, asked.prompt, asked.n or 1, rows)


async def _paint_on(
    service: Service,
    request: Request,
    order: Order,
    rows: int | None,
    images: list[bytes],
    masks: list[bytes],
) -> Order:
    """The order with the picture that was sent, and what of it is kept. Raises what `decode` raises."""
    for name, files, least in (("image", images, 1), ("mask", masks, 0)):
        if not least <= len(files) <= 1:
            raise InvalidRequest(name, f"{name} must be one file, got {len(files) or 'none'}")
    keep = None if rows is None else top_rows(rows, service.checkpoint(order.model).config.vae.grid)
    if keep and masks:
        raise InvalidRequest("keep_rows", f"keep_rows must be left out with a mask, got {rows}")
    with service.pool.hold(order):
        image = await decode(service, request, order, "image", images[0])
        if keep:
            return painting_on(order, image.rgb, keep)
        name, mask = ("mask", await decode(service, request, order, "mask", masks[0])) if masks else ("image", image)
    if (mask.width, mask.height) != (image.width, image.height):
        found = f"{image.width} x {image.height} pixels like the image, got {mask.width} x {mask.height}"
        raise InvalidRequest("mask", f"mask must have {found}")
    if not any(mask.empty or b""):
        what = "must have a wholly transparent pixel where the picture is painted anew, got none"
        if masks:
            raise InvalidRequest("mask", f"mask {what}")
        if not service.settings.lenient:
            ways = "a mask, or keep_rows, the number of its top rows to keep, or wholly transparent pixels"
            raise InvalidRequest("image", f"image must be sent with {ways} where it is painted anew, got none of them")
        grid = service.checkpoint(order.model).config.vae.grid
        return painting_on(order, image.rgb, top_rows(grid // 2, grid))
    return painting_on(order, image.rgb, bytes(1 - empty for empty in mask.empty or b""))


async def _paint(
    service: Service,
    request: Request,
    sent: body.Body[Asked],
    kind: str,
    order: Callable[[], Coroutine[Any, Any, Order]],
) -> Response:
    asked = sent.fields
    config = service.checkpoint(asked.model).config
    side, count = _side(asked.size, config.vae.image_size, service.settings.lenient), asked.n or 1
    quality = 100 if asked.output_compression is None else asked.output_compression
    wanted = Wanted(
        finish=Finish(asked.output_format or "png", quality, side),
        best=count if asked.best_of else None,
        embed_prompt=bool(asked.embed_prompt),
    )
    try:
        reader = await submit(service, request, sent, order)
    except PromptTooLong as error:
        raise PromptTooLong(error.tokens, error.limit, "prompt") from None
    if asked.stream:
        request.state.log["tokens"] = reader.job.tokens
        return PictureStream(service, reader, wanted, kind, request.state.log, request.state.claim)
    try:
        painting = await paint(service, reader, request.receive, wanted, request.state.claim)
    except UnknownPrompt as error:
        raise error.named("prompt") from None
    made = reader.job.request
    urls: list[str] = []
    both = service.settings.lenient and asked.response_format is None and asked.model in ADDRESSED
    if both or asked.response_format == "url":
        desk = await service.desks.open(service)
        urls = await desk.addresses(request, painting, wanted.finish.format)
    files = both or not urls
    log_painting(request, painting)
    answer = ImagesResponse(
        created=int(reader.job.ended_at or time.time()),  # a repeated answer says the same
        data=[
            Image(
                b64_json="" if files else None,
                url=urls[place] if urls else None,
                seed=made.params.seed,
                index=picture.index,
                score=picture.score,
                revised_prompt=picture.told.revised,
                style=picture.told.style,
            )
            for place, picture in enumerate(painting.pictures)
        ],
        output_format=wanted.finish.format,
        size=f"{side}x{side}",
        usage=usage(made, painting.read, config.vae.grid, painting.written),
        **fit_keys(painting.judged),
    )  # fmt: skip
    headers = (
        model_headers(reader)
        | text_headers(painting.tokens, painting.read)
        | fit_headers(painting.judged)
        | joined_headers(reader)
    )
    if not files:
        return JSONResponse(answer.model_dump(exclude_none=True), headers=headers)
    texts = around_pictures(answer.model_dump_json(exclude_none=True))
    return PicturesAnswer(texts, painting.pictures, headers)


def usage(made: GenerationRequest, text: int, grid: int, written: int) -> Usage:
    """Tokens of the whole request: read and written once; and drawn, also for pictures that were not the best."""
    kept = sum(made.keep or b"")
    return Usage.of(text, kept, made.num_images * (grid**2 - kept), written)
