"""OpenTelemetry: a real server sends real OTLP to a collector, and nothing of a prompt is in it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.app.collector import Collector
from tests.app.live import COMMAND, REPLICAS, Live

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "zebracorn"
JOB_TRACE = "11111111111111111111111111111111"


@pytest.fixture
def collector() -> Iterator[Collector]:
    pytest.importorskip("opentelemetry.sdk")
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with Collector() as found:
        yield found


def end(server: Live) -> None:
    """End the server, so that it sends what it has not sent yet."""
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0, server.log


def test_a_request_and_a_job_are_traced(start: Callable[..., Live], collector: Collector, tmp_path: Path) -> None:
    environ = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "painter-7"}
    server = start(environ=environ, store=tmp_path / "store").ready()
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "baggage": f"prompt={SECRET}"}
    asked = {"text": f"a {SECRET}", "num_images": 2}
    assert server.client.post(f"/generate?text={SECRET}", json=asked, headers=headers).status_code == 200
    assert server.client.post("/generate", json={"text": SECRET * 9, "temperature": SECRET}).status_code == 422
    accepted = server.client.post(
        "/v1/jobs", json={"text": SECRET, "count": 1}, headers={"traceparent": f"00-{JOB_TRACE}-{PARENT}-01"}
    )
    where = accepted.headers["location"]
    server.wait(lambda: server.client.get(where).json()["state"] == "completed", "the job has not ended")
    end(server)

    ours = [span for span in collector.spans if span.trace_id.hex() == TRACE]
    (request,) = [span for span in ours if span.parent_span_id.hex() == PARENT]
    assert request.name == "POST /generate"
    below = sorted((span for span in ours if span is not request), key=lambda span: span.start_time_unix_nano)
    assert {span.parent_span_id for span in below} == {request.span_id}
    names = [span.name for span in below]
    assert sorted(names) == ["decode", "decode", "encode", "encode", "paint", "paint", "prefill", "queue"]
    assert names[:2] == ["queue", "prefill"]
    for span in below:
        assert request.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano, span.name
        assert span.end_time_unix_nano <= request.end_time_unix_nano, span.name
    of_job = {span.name for span in collector.spans if span.trace_id.hex() == JOB_TRACE}
    assert of_job == {"POST /v1/jobs", "queue", "prefill", "decode", "paint", "encode"}
    assert not any(span.name.startswith("GET /readyz") for span in collector.spans)

    def told(name: str) -> list[Any]:
        """This metric of each process."""
        return [metric for (_, known), metric in collector.metrics.items() if known == name]

    assert len(told("dalle.pictures")) == (REPLICAS or 1)
    assert sum(metric.sum.data_points[0].as_int for metric in told("dalle.pictures")) == 3
    assert sum(metric.histogram.data_points[0].count for metric in told("dalle.queue.duration")) == 2
    assert told("http.server.duration") or told("http.server.request.duration")
    assert {found["service.name"] for found in collector.resources} == {"painter-7"}
    assert not any(SECRET.encode() in body for body in collector.raw)


def test_a_collector_that_is_away_holds_nobody(start: Callable[..., Live]) -> None:
    pytest.importorskip("opentelemetry.sdk")
    server = start(environ={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}).ready()
    assert len(server.pictures(text="a cat")) == 1
    end(server)


@pytest.mark.parametrize(
    ("variables", "command", "said"),
    [
        (
            {},
            "from app.http import telemetry; telemetry._installed = lambda: False; " + COMMAND,
            'OTEL_EXPORTER_OTLP_ENDPOINT is set, but nothing is sent: it needs .venv/bin/pip install -e ".[otel]"',
        ),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "from app.http import telemetry; telemetry._installed = lambda: True; " + COMMAND,
            "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf, got grpc; nothing is sent",
        ),
    ],
)
def test_what_cannot_be_sent_is_one_line(
    start: Callable[..., Live], variables: dict[str, str], command: str, said: str
) -> None:
    environ = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", **variables}
    server = start(environ=environ, command=command)
    assert server.client.get("/livez").status_code == 200
    assert server.log.count("OTEL_") == 1
    assert said in server.log
