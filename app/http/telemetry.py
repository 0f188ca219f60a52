"""Traces and metrics by OpenTelemetry, sent as OTLP where the variable OTEL_EXPORTER_OTLP_ENDPOINT is set.

The other variables of OpenTelemetry's specification count too: OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER and so on. The
extra named otel has the packages. Spans and metrics hold names of models, numbers and times, and nothing of a prompt.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from typing import TYPE_CHECKING

from app.pool.job import Job

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.pool.worker_pool import WorkerPool

ENDPOINTS = tuple(f"OTEL_EXPORTER_OTLP_{kind}ENDPOINT" for kind in ("", "TRACES_", "METRICS_"))
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
NEEDED = "opentelemetry.instrumentation.fastapi"
log = logging.getLogger("dalle.telemetry")


class Telemetry:
    """Sends nothing. `app.http.otlp` has the class that does."""

    def instrument(self, app: FastAPI) -> None:
        """Trace the requests of an application."""

    def start(self) -> None:
        """Called once, on the event loop that the server runs on."""

    def here(self) -> str:
        """The span of the request that is handled now, as a traceparent. "" if there is none."""
        return ""

    def ended(self, job: Job) -> None:
        """A job has ended: tell where its time went."""

    def encoded(self, job: Job, index: int, began: float) -> None:
        """The file of a picture was made, from `began` (monotonic seconds) until now."""

    async def close(self) -> None:
        """Send what is left."""


def telemetry(pool: WorkerPool) -> Telemetry:
    """What the environment asks for. If it cannot be had, a line of the log says why, and nothing is sent."""
    named = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    if named is None or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return Telemetry()
    if not _installed():
        log.warning('%s is set, but nothing is sent: it needs .venv/bin/pip install -e ".[otel]"', named)
        return Telemetry()
    protocol = os.environ.get(PROTOCOL, "http/protobuf")
    if protocol != "http/protobuf":
        log.warning("%s must be http/protobuf, got %s; nothing is sent", PROTOCOL, protocol[:40])
        return Telemetry()
    from app.http.otlp import Otlp

    return Otlp(pool)


def _installed() -> bool:
    try:
        return importlib.util.find_spec(NEEDED) is not None
    except ModuleNotFoundError:
        return False
