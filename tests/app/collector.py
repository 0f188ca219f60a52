"""A collector that takes OTLP over HTTP, as protobuf, and keeps what it is sent."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


class Collector:
    """Listens at `url`. A context manager.

    spans: as protobuf's Span. metrics: as its Metric, what each process told last, by its id and the metric's name.
    raw: all bodies.
    """

    def __init__(self) -> None:
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        self.spans: list[Any] = []
        self.metrics: dict[tuple[str, str], Any] = {}
        self.resources: list[dict[str, str]] = []
        self.raw: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Type"] == "application/x-protobuf"
                collector.raw.append(body)
                if self.path == "/v1/traces":
                    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                        collector.resources.append(attributes(group))
                        collector.spans += [span for scope in group.scope_spans for span in scope.spans]
                if self.path == "/v1/metrics":
                    for group in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                        process = attributes(group)["service.instance.id"]
                        found = [one for scope in group.scope_metrics for one in scope.metrics]
                        collector.metrics |= {(process, one.name): one for one in found}
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Collector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def attributes(group: Any) -> dict[str, str]:
    """What spans or metrics of one process say of it."""
    return {one.key: one.value.string_value for one in group.resource.attributes}
