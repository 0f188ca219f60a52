"""Health, readiness and metrics. These routes only read memory, so they answer while every slot is busy."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from app.http.errors import Answer, render
from app.http.metrics import CONTENT_TYPE
from app.http.painting import Service
from app.http.schemas import ErrorBody

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
async def livez(request: Request) -> Response:
    """503 only if workers keep crashing, so that a restart may help. A server that loads, is full or drains is live."""
    service: Service = request.app.state.service
    if cause := service.pool.fatal:
        return render(Answer(503, "worker_failed", cause))
    return PlainTextResponse("live")


@router.get(
    "/readyz", summary="Should the server be sent requests?", response_class=PlainTextResponse,
    responses={200: _plain("ready"), 503: _no("It is loading, shutting down, or has no worker that makes steps.")},
)  # fmt: skip
async def readyz(request: Request) -> Response:
    """200 while a worker is warm, its weights are checked and it makes steps, and no shutdown has begun."""
    service: Service = request.app.state.service
    if why := service.pool.not_ready():
        return render(Answer(503, "not_ready", why))
    return PlainTextResponse("ready")


@router.get(
    "/metrics", summary="Prometheus metrics", response_class=PlainTextResponse,
    responses={200: _plain("dalle_requests_in_flight 0.0")},
)  # fmt: skip
async def metrics(request: Request) -> Response:
    """Counters, gauges and histograms. All labels come from closed sets."""
    service: Service = request.app.state.service
    return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})
