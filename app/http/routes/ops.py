"""Health, readiness and metrics. These routes only read memory, so they answer while every slot is busy."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from app.http.errors import Answer, render
from app.http.metrics import CONTENT_TYPE
from app.http.schemas import ErrorBody
from app.http.service import Shared

router = APIRouter()


def _plain(example: str) -> dict[str, Any]:
    return {"description": "Yes.", "content": {"text/plain": {"schema": {"type": "string"}, "example": example}}}


def _no(why: str) -> dict[str, Any]:
    return {"description": why, "model": ErrorBody}


@router.get(
    "/healthz", summary="Does the server answer?", response_class=PlainTextResponse,
    responses={200: _plain("Health")},
)  # fmt: skip
async def healthz() -> str:
    """Always `Health`, as in the contract of the Ainize DALLE-server."""
    return "Health"


@router.get(
    "/livez", summary="Should the server be left running?", response_class=PlainTextResponse,
    responses={200: _plain("live"), 503: _no("It has given up and is ending.")},
)  # fmt: skip
async def livez(service: Shared) -> Response:
    """503 only when a restart would help: workers keep crashing. Loading, a full queue and draining are fine."""
    if cause := service.pool.fatal:
        return render(Answer(503, "worker_failed", cause))
    return PlainTextResponse("live")


@router.get(
    "/readyz", summary="Should the server be sent requests?", response_class=PlainTextResponse,
    responses={200: _plain("ready"), 503: _no("It is loading, shutting down, or has no worker that makes steps.")},
)  # fmt: skip
async def readyz(service: Shared) -> Response:
    """200 while a worker's step loop goes round, its weights compared and its model warm, and no shutdown has begun."""
    if why := service.pool.not_ready():
        return render(Answer(503, "not_ready", why))
    return PlainTextResponse("ready")


@router.get(
    "/metrics", summary="Prometheus metrics", response_class=PlainTextResponse,
    responses={200: _plain("dalle_requests_in_flight 0.0")},
)  # fmt: skip
async def metrics(service: Shared) -> Response:
    """Counters, gauges and histograms; all labels come from closed sets."""
    return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})
