"""Prometheus metrics. Every label comes from a closed set, so a client cannot make new series.

All figures of the pool are read at one moment, so that this sum holds in every answer:
dalle_requests_accepted_total = completed + failed + cancelled + expired (dalle_requests_ended_total) + in flight.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import model
from app.http.budget import Budget
from app.http.errors import CODES
from app.pool.worker_pool import WorkerPool

METHODS = frozenset({"DELETE", "GET", "HEAD", "POST"})
SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The metrics of the routes, the middleware and the pool."""

    def __init__(self, pool: WorkerPool, budget: Budget) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a "_created" series for each counter
        self._registry = CollectorRegistry()
        self._registry.register(_PoolCollector(pool))
        self._answers = Counter(
            "dalle_http_answers", "Answers by route, method and status.", ["route", "method", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "dalle_http_seconds", "Seconds from a request's head to the end of its answer, by route.", ["route"],
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self._errors = Counter(
            "dalle_errors", "Requests refused or failed, by the code of the error.", ["code"], registry=self._registry
        )
        for code in CODES:
            self._errors.labels(code)
        Gauge(
            "dalle_answer_bytes", "Bytes of answers in memory: picture files, and what clients have not read yet.",
            registry=self._registry,
        ).set_function(lambda: budget.used)  # fmt: skip
        Gauge(
            "dalle_answer_bytes_limit", "Bytes of picture files from which on answers wait.", registry=self._registry
        ).set(budget.total)
        self.joined = Counter(
            "dalle_requests_joined", "Requests that joined an earlier one by their Idempotency-Key.",
            registry=self._registry,
        )  # fmt: skip
        self.queue_seconds = Histogram(
            "dalle_queue_seconds", "Seconds from acceptance until a worker begins to paint the request.",
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self.paint_seconds = Histogram(
            "dalle_paint_seconds", "Seconds from the beginning of painting until the last picture is painted.",
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self.first_picture_seconds = Histogram(
            "dalle_first_picture_seconds", "Seconds from acceptance until a stream sends its first picture.",
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self.encode_seconds = Histogram(
            "dalle_encode_seconds", "Seconds to make the file of one picture.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0), registry=self._registry,
        )  # fmt: skip

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answer. route: the template of a route, or "other"."""
        self._answers.labels(route, method if method in METHODS else "other", str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def error(self, code: str) -> None:
        """Count an error by its code, one of app.http.errors.CODES."""
        self._errors.labels(code if code in CODES else "internal_error").inc()

    def text(self) -> bytes:
        """The answer to a scrape. Its type is CONTENT_TYPE."""
        return generate_latest(self._registry)


class _PoolCollector(Collector):
    """Reads the pool once a scrape, so that its figures belong together."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    def describe(self) -> Iterator[Metric]:
        return iter(())  # so that registration collects nothing

    def collect(self) -> Iterator[Metric]:
        stats = self._pool.stats()
        info = GaugeMetricFamily(
            "dalle_server_info", "Always 1. Its labels tell what is served.", labels=["version", "model"]
        )
        loaded = GaugeMetricFamily("dalle_model_loaded", "1 while the model is in memory.", labels=["model"])
        for name, is_loaded in stats.models_loaded.items():
            info.add_metric([model.__version__, name], 1)
            loaded.add_metric([name], is_loaded)
        yield info
        yield loaded
        ended = CounterMetricFamily(
            "dalle_requests_ended", "Requests that ended, by their outcome.", labels=["outcome"]
        )
        for outcome in ("completed", "failed", "cancelled", "expired"):
            ended.add_metric([outcome], getattr(stats, outcome))
        yield ended
        for name, text, value in (
            ("dalle_requests_accepted", "Requests accepted.", stats.accepted),
            ("dalle_pictures", "Pictures painted.", stats.pictures),
            ("dalle_image_tokens", "Image tokens drawn.", stats.tokens),
        ):
            yield CounterMetricFamily(name, text, value=value)
        deaths = CounterMetricFamily(
            "dalle_worker_deaths",
            "Workers that died. hang: made no step for too long. killed: from outside. start: could not start.",
            labels=["cause"],
        )
        for cause, count in stats.worker_deaths.items():
            deaths.add_metric([cause], count)
        yield deaths
        for name, text, level in (
            ("dalle_requests_in_flight", "Requests that are accepted and have not ended.", stats.in_flight),
            ("dalle_requests_queued", "Accepted requests that no worker has yet.", stats.queued_requests),
            ("dalle_pictures_in_flight", "Pictures that are accepted and not painted yet.", stats.pictures_in_flight),
            ("dalle_pictures_limit", "Pictures in flight from which on requests are refused.", stats.queue_limit),
            ("dalle_slots", "Slots of all workers that are ready.", stats.slots),
            ("dalle_slots_busy", "Slots that a picture has.", stats.slots_busy),
            (
                "dalle_tokens_per_second",
                "Image tokens that are drawn in a second of painting.",
                stats.tokens_per_second,
            ),
            ("dalle_workers", "Worker processes that should run.", stats.workers),
            ("dalle_workers_ready", "Worker processes that can paint.", stats.workers_ready),
            ("dalle_draining", "1 while the server is shutting down.", float(stats.draining)),
        ):
            yield GaugeMetricFamily(name, text, value=level)
        if stats.heartbeat_age is not None:
            yield GaugeMetricFamily(
                "dalle_heartbeat_age_seconds",
                "Seconds since the last step of the worker that has been silent longest.",
                value=stats.heartbeat_age,
            )
