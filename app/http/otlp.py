"""Sends traces and metrics with OpenTelemetry's own packages. Only `telemetry` imports this module.

A request's span comes from opentelemetry-instrumentation-fastapi. Below it are ours, with the times that a job has:

    queue     from the acceptance until a worker begins
    prefill   the worker reads the text
    decode    the tokens of a picture are drawn
    paint     the VAE makes pixels of them
    encode    the pixels become a file
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future

from fastapi import FastAPI
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

import model
from app.http.telemetry import Telemetry
from app.pool.job import Job, Outcome
from app.pool.stats import PoolStats
from app.pool.worker_pool import WorkerPool

PROBES = "/healthz$,/livez$,/readyz$,/metrics$"  # no traces of these
LAST_SECONDS = 2.0  # at the end, for what is not sent yet
TRACEPARENT = TraceContextTextMapPropagator()  # not baggage: what clients put there is nothing of ours
GAUGES: Mapping[str, tuple[str, Callable[[PoolStats], float]]] = {
    "dalle.requests.in_flight": ("Requests that are accepted and have not ended.", lambda stats: stats.in_flight),
    "dalle.pictures.in_flight": ("Pictures accepted and not painted yet.", lambda stats: stats.pictures_in_flight),
    "dalle.slots.busy": ("Slots that a picture has.", lambda stats: stats.slots_busy),
    "dalle.slots": ("Slots of all workers that are ready.", lambda stats: stats.slots),
    "dalle.workers.ready": ("Worker processes that can paint.", lambda stats: stats.workers_ready),
}
COUNTERS: Mapping[str, tuple[str, Callable[[PoolStats], float]]] = {
    "dalle.pictures": ("Pictures painted.", lambda stats: stats.pictures),
    "dalle.image_tokens": ("Image tokens drawn.", lambda stats: stats.tokens),
}


class Otlp(Telemetry):
    """Sends traces and metrics where the environment says."""

    def __init__(self, pool: WorkerPool) -> None:
        own = Resource({"service.name": "dalle-server", "service.version": model.__version__})
        resource = Resource.create().merge(own).merge(OTELResourceDetector().detect())
        # Without events there are no messages of exceptions, which could hold anything.
        limits = SpanLimits(max_events=0)
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False, span_limits=limits)
        self._traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        reader = PeriodicExportingMetricReader(OTLPMetricExporter())
        self._pool = pool
        self._loop: asyncio.AbstractEventLoop | None = None
        self._metrics = MeterProvider([reader], resource, shutdown_on_exit=False)
        self._tracer = self._traces.get_tracer("dalle", model.__version__)
        meter = self._metrics.get_meter("dalle", model.__version__)
        for name, (meaning, read) in GAUGES.items():
            meter.create_observable_gauge(name, [self._reading(read)], description=meaning)
        for name, (meaning, read) in COUNTERS.items():
            meter.create_observable_counter(name, [self._reading(read)], description=meaning)
        self._queue = meter.create_histogram("dalle.queue.duration", "s", "From acceptance until a worker begins.")
        self._paint = meter.create_histogram("dalle.paint.duration", "s", "From then until the last picture.")

    def instrument(self, app: FastAPI) -> None:
        FastAPIInstrumentor.instrument_app(
            app,
            server_request_hook=_without_query,
            tracer_provider=self._traces,
            meter_provider=self._metrics,
            excluded_urls=PROBES,
            exclude_spans=["receive", "send"],
        )

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()

    def here(self) -> str:
        carrier: dict[str, str] = {}
        TRACEPARENT.inject(carrier)
        return carrier.get("traceparent", "")

    def ended(self, job: Job) -> None:
        first = min((times.started for times in job.times.values()), default=None)
        began = first or job.started or job.ended or time.monotonic()
        self._queue.record(began - job.accepted)
        if job.started is not None and job.outcome is Outcome.COMPLETED and job.ended is not None:
            self._paint.record(job.ended - job.started)
        about: dict[str, str | int] = {"dalle.model": job.order.model, "dalle.pictures": job.request.num_images}
        error = None if job.outcome is Outcome.COMPLETED else str(job.outcome)
        self._span(job, "queue", job.accepted, began, about, error if job.started is None else None)
        for started, read in sorted({(times.started, times.read) for times in job.times.values()}):
            self._span(job, "prefill", started, read, {"dalle.tokens": job.read})
        for index, times in sorted(job.times.items()):
            self._span(job, "decode", times.read, times.drawn, {"dalle.index": index})
            self._span(job, "paint", times.drawn, times.painted, {"dalle.index": index})
        if error is not None and job.started is not None and job.ended is not None:
            self._span(job, error, job.started, job.ended, about, error)

    def encoded(self, job: Job, index: int, began: float) -> None:
        self._span(job, "encode", began, time.monotonic(), {"dalle.index": index})

    def _span(
        self, job: Job, name: str, began: float, ended: float, about: Mapping[str, str | int], error: str | None = None
    ) -> None:
        """A span below the request of the job. began, ended: monotonic seconds. error: what went wrong, in one word."""
        parent = TRACEPARENT.extract({"traceparent": job.order.trace})
        since = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(name, parent, attributes=about, start_time=since + int(began * 1e9))
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(since + int(max(began, ended) * 1e9))

    def _reading(self, read: Callable[[PoolStats], float]) -> Callable[[CallbackOptions], Iterator[Observation]]:
        """A function that reads a figure of the pool. The thread of the metrics calls it."""

        def observe(_: CallbackOptions) -> Iterator[Observation]:
            found: Future[float] = Future()
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(lambda: found.set_result(read(self._pool.stats())))
                with contextlib.suppress(TimeoutError):  # the event loop is ending
                    yield Observation(found.result(LAST_SECONDS))

        return observe

    async def close(self) -> None:
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def shut_down() -> None:
            self._metrics.shutdown(LAST_SECONDS * 1000)
            self._traces.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop has ended before
                loop.call_soon_threadsafe(done.set)

        # A thread that nobody waits for at the end of the process: a collector that is away must not hold it.
        threading.Thread(target=shut_down, daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SECONDS):
                await done.wait()


def _without_query(span: Span, scope: Scope) -> None:
    """Leave a request's query out of its span: it may hold a text, or the signature of a link."""
    path = str(scope.get("path", ""))
    for name in list(getattr(span, "attributes", None) or {}):
        if name in ("http.url", "http.target", "url.full", "url.query"):
            span.set_attribute(name, "" if name == "url.query" else path)
