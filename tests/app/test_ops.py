"""Health, metrics, documents, headers and logs of a running server, and what its HTTP process never loads."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware

from app.http.browsers import Browsers
from app.http.keys import Guard
from app.http.main import create_app
from app.http.middleware import Frontier
from app.http.paths import Paths
from app.http.proxies import Proxies
from app.pool.worker_pool import WorkerPool
from app.settings import Settings
from tests.app.live import REPLICAS, Live, ledger


@pytest.mark.parametrize(("path", "text"), [("/healthz", "Health"), ("/livez", "live"), ("/readyz", "ready")])
def test_probes_answer_in_a_word_and_to_head(live: Live, path: str, text: str) -> None:
    answer = live.client.get(path)
    assert (answer.status_code, answer.text) == (200, text)
    head = live.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(text))


def test_metrics_hold_the_ledger_and_count_what_was_done(live: Live) -> None:
    live.wait(lambda: live.in_flight() == live.metrics()["dalle_slots_busy"] == 0, "others are painted for")
    before = live.metrics()
    live.pictures(text="a red apple", num_images=3)
    live.generate(text="")
    live.client.get("/secret-path")
    live.client.delete("/v1/jobs/job_unknown")
    after = live.metrics()

    def grew(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    assert ledger(after)["completed"] - ledger(before)["completed"] == 1
    assert grew("dalle_pictures_total") == 3
    assert grew('dalle_http_answers_total{method="POST",route="/generate",status="422"}') == 1
    assert grew('dalle_http_answers_total{method="GET",route="other",status="404"}') == 1
    assert grew('dalle_http_answers_total{method="DELETE",route="/v1/jobs/{job_id}",status="404"}') == 1
    assert grew('dalle_errors_total{code="invalid_request"}') == 1
    assert grew("dalle_queue_seconds_count") == grew("dalle_paint_seconds_count") == 1
    assert after["dalle_pictures_in_flight"] == after["dalle_requests_queued"] == 0
    assert after['dalle_server_info{model="quick",version="0.1.0"}'] == 1
    assert not any("secret" in name for name in after)


def test_the_http_process_never_loads_torch(live: Live) -> None:
    live.pictures(text="a red apple")
    worker = live.wait(live.workers, "no worker")[0]
    loaded = {pid: Path(f"/proc/{pid}/maps").read_text() for pid in (live.process.pid, worker)}
    assert "libtorch" in loaded[worker]
    assert "libtorch" not in loaded[live.process.pid]


def test_every_answer_carries_the_security_headers_and_no_permission_for_other_sites(live: Live) -> None:
    for path in ("/", "/docs", "/demo/demo.js", "/healthz", "/no-such", "/openapi.json"):
        headers = live.client.get(path, headers={"Origin": "https://example.org"}).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers
        assert REPLICAS or "server" not in headers  # Ray's proxy adds it
        assert len(headers["x-request-id"]) == (36 if REPLICAS else 32)


def test_pages_ask_nothing_of_other_machines_and_hold_no_inline_code(live: Live) -> None:
    pages = [live.client.get(path).text for path in ("/", "/docs")]
    linked = {name for page in pages for name in re.findall(r'(?:src|href)="(demo/[^"]+)"', page)}
    assert linked >= {"demo/demo.js", "demo/demo.css", "demo/docs.js"}
    for name in linked:
        answer = live.client.get(f"/{name}")
        assert answer.status_code == 200
        pages.append(answer.text)
    for text in pages:
        text = text.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        assert "http://" not in text
        assert "https://" not in text
        assert not re.search(r"\son\w+=|style=|<script>|<style>", text)


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("path", "route", "sent", "status"),
    [
        ("/v1/jobs", "", {"json": {"text": "a cat", "model": "other"}}, 404),
        ("/v1/jobs", "", {"content": b" " * (1 << 21), "headers": JSON}, 413),
        ("/v1/jobs", "", {"content": b"a cat", "headers": {"Content-Type": "text/plain"}}, 415),
        ("/things?model=other", "/things", {}, 404),
        ("/gallery?model=other", "/gallery", {}, 404),
        ("/gallery.webp?model=other", "/gallery.webp", {}, 404),
        ("/pictures/other.png", "/pictures/{name}", {}, 404),
    ],
)
def test_the_openapi_document_has_every_status(
    live: Live, path: str, route: str, sent: dict[str, Any], status: int
) -> None:
    method = "post" if sent else "get"
    assert live.client.request(method, path, **sent).status_code == status
    assert str(status) in live.client.get("/openapi.json").json()["paths"][route or path][method]["responses"]


def test_the_openapi_document_says_what_is_true(live: Live) -> None:
    api = live.client.get("/openapi.json").json()
    assert "ValidationError" not in str(api)  # FastAPI's own form, in which nothing is answered
    assert "400" in api["paths"]["/v1/jobs"]["get"]["responses"]
    assert "422" in api["paths"]["/things"]["get"]["responses"]
    assert set(api["paths"]["/pictures/{name}"]["get"]["responses"]) == {
        "200", "206", "304", "403", "404", "416", "503",
    }  # fmt: skip
    assert set(api["paths"]) >= {"/generate", "/healthz", "/livez", "/readyz", "/metrics"}
    generate = api["paths"]["/generate"]["post"]
    assert set(generate["responses"]) == {
        "200", "400", "403", "404", "408", "409", "413", "415", "422", "429", "500", "503", "504", "507",
    }  # fmt: skip
    assert set(generate["requestBody"]["content"]) == {
        "application/json", "multipart/form-data", "application/x-www-form-urlencoded",
    }  # fmt: skip
    assert {one["name"] for one in generate["parameters"]} == {"X-Request-Timeout", "Idempotency-Key"}
    schema: dict[str, Any] = generate["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["text"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["num_images"]["maximum"] == 10
    assert schema["properties"]["keep_rows"]["type"] == "null"
    assert generate["parameters"][0]["schema"] == {"type": "number", "exclusiveMinimum": 0, "maximum": 600.0}
    for path in ("/generate", "/v1/images/edits"):
        for kind, content in api["paths"][path]["post"]["requestBody"]["content"].items():
            fields = content["schema"]["properties"]
            assert ("null" in json.dumps(fields)) == (kind == "application/json")
            assert ("image" in fields) == ("keep_rows" in fields) == (kind == "multipart/form-data") or "json" in kind
    assert live.generate(**schema["examples"][0]).status_code == 200
    refs = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(api)))
    assert refs <= set(api["components"]["schemas"])
    body = live.generate(text="").json()
    assert set(body) == set(api["components"]["schemas"]["ErrorBody"]["properties"])


def test_the_log_has_a_line_a_request_and_no_prompt(live: Live) -> None:
    live.post(json={"text": "a turquoise walrus"}, headers={"X-Request-Id": "walrus-1"})
    live.post(json={"text": "a turquoise walrus", "no_such_field": "turquoise"}, headers={"X-Request-Id": "walrus-2"})
    live.client.get("/a%0Ab?text=turquoise")
    live.wait(lambda: "/a\\nb" in live.log, "no escaped path")
    (painted,) = [line for line in live.log.splitlines() if "id=walrus-1" in line]
    for field in ("status=200", "characters=18", "images=1", "seed=", "queue_ms=", "paint_ms=", "prompt_hash="):
        assert field in painted
    (refused,) = [line for line in live.log.splitlines() if "id=walrus-2" in line]
    assert "status=422" in refused
    assert "error=invalid_request" in refused
    assert "turquoise" not in live.log


def test_no_middleware_hides_the_clients_leaving_from_a_route(quick_checkpoint: Path) -> None:
    for keys, check in (("0" * 64, Guard), ("", Browsers)):
        settings = Settings(weights=quick_checkpoint, api_keys=keys, cors_origins="https://example.org")
        app = create_app(settings, WorkerPool(settings))
        layers: list[Any] = [layer.cls for layer in app.user_middleware]
        assert layers == [Proxies, Paths, Frontier, check]
        assert not any(issubclass(layer, BaseHTTPMiddleware) for layer in [*layers, CORSMiddleware])


def test_descriptors_and_threads_do_not_grow_with_the_requests(live: Live) -> None:
    def held() -> tuple[int, int]:
        process = Path(f"/proc/{live.process.pid}")
        return len(os.listdir(process / "fd")), len(os.listdir(process / "task"))

    def settled() -> bool:
        """Whether ten requests leave as many as there were. A pool may start another thread once, if all are busy."""
        before = held()
        for _ in range(10):
            live.generate(text="")
            live.pictures(text="a")
        return all(after <= count for after, count in zip(held(), before, strict=True))

    live.wait(settled, "they grow and grow")
