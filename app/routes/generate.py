"""POST /generate: a text in, pictures out. The contract of the Ainize DALLE-server, with true statuses."""

from __future__ import annotations

import base64
import secrets
from typing import Any

from fastapi import APIRouter, Request, Response

from app import body
from app.job import Order
from app.logs import prompt_fields
from app.painting import Painting, Service, paint
from app.schemas import ErrorBody, GenerateRequest, Pictures, Sampling
from model.config import SamplingDefaults
from model.inference.sequence import SamplingParams

router = APIRouter()
SEED_BITS = 32  # of a seed that we choose: short enough to be copied, and exact in JavaScript

HEADERS = {
    "X-Request-Id": "The request's id, also in the server's log. A client may choose it.",
    "X-Seeds": "For every picture SEED:INDEX, separated by commas. These, as `seed` and `index`, paint it again.",
    "X-Text-Truncated": "`N of M tokens`, if only the first N of the text's M tokens were read.",
    "Server-Timing": "Milliseconds in the queue, in painting, and in encoding what was painted last.",
}
ERRORS = {
    400: "The body is not what its Content-Type says: not JSON, not UTF-8, a broken form.",
    408: "The body did not arrive in time.",
    413: "The body has too many bytes.",
    415: "The Content-Type is none of the three.",
    422: "A field is missing, unknown or out of range, or the text has too many tokens.",
    429: "This client has its share of the queue; Retry-After says when there should be room.",
    500: "The pictures could not be painted.",
    503: "The queue is full (with Retry-After), the server is shutting down, or its worker failed.",
    504: "The deadline passed before the pictures were done.",
}
SCHEMA = GenerateRequest.model_json_schema()
DOCUMENTED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {kind: {"schema": SCHEMA} for kind in (body.JSON, body.MULTIPART, body.URLENCODED)},
    }
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
async def generate(request: Request) -> Response:
    """Paint `num_images` pictures of what `text` says. The same request with the same seed gives the same bytes."""
    service: Service = request.app.state.service
    asked = await body.read_body(request, GenerateRequest, service.settings.max_body)
    params = sampling_params(asked, service.pool.checkpoint.config.sampling)
    order = Order(
        text=asked.text,
        num_images=asked.num_images,
        params=params,
        first_index=asked.index,
        truncate=service.settings.truncate if asked.truncate is None else asked.truncate,
        seconds=service.settings.deadline,
        client=request.client.host if request.client else "",
    )
    request.state.log.update(prompt_fields(order.text), images=order.num_images, seed=params.seed, index=asked.index)
    painting = await paint(service, order, request.receive)
    request.state.log.update(
        tokens=painting.tokens, queue_ms=_ms(painting.queued), paint_ms=_ms(painting.painted),
        encode_ms=_ms(painting.encoded),
    )  # fmt: skip
    content = b'["' + b'","'.join(map(base64.b64encode, painting.pngs)) + b'"]'
    return Response(content, headers=_headers(order, painting), media_type="application/json")


def sampling_params(asked: Sampling, defaults: SamplingDefaults) -> SamplingParams:
    """What was asked for, the model's defaults where nothing was, and a random seed where none was."""
    return SamplingParams(
        seed=secrets.randbits(SEED_BITS) if asked.seed is None else asked.seed,
        temperature=defaults.temperature if asked.temperature is None else asked.temperature,
        top_k=defaults.top_k if asked.top_k is None else asked.top_k,
        top_p=defaults.top_p if asked.top_p is None else asked.top_p,
        guidance=defaults.guidance if asked.guidance is None else asked.guidance,
    )


def _headers(order: Order, painting: Painting) -> dict[str, str]:
    indices = range(order.first_index, order.first_index + order.num_images)
    headers = {
        "X-Seeds": ",".join(f"{order.params.seed}:{index}" for index in indices),
        "Server-Timing": (
            f"queue;dur={_ms(painting.queued)}, paint;dur={_ms(painting.painted)}, encode;dur={_ms(painting.encoded)}"
        ),
    }
    if painting.read < painting.tokens:
        headers["X-Text-Truncated"] = f"{painting.read} of {painting.tokens} tokens"
    return headers


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
