"""API keys on every route that is not open, permissions for pages of other origins, and the headers of every answer."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from typer.testing import CliRunner

from app import cli
from app.http.keys import OPEN, is_open, key_hash, make_key, read_keys
from app.http.main import create_app
from app.http.middleware import HEADERS
from app.pool.worker_pool import WorkerPool
from app.settings import Settings, SettingsError
from tests.app.live import REPLICAS, Live, one_process, samples

KEYS = (make_key(), make_key())
ORIGINS = ("https://example.org", "http://localhost:3000")
PROMPT = {"prompt": "a red apple"}
PAINT = "/v1/images/generations"
LENGTHY = "x" * (1 << 21)  # of a body that is too large


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def guarded(quick_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that wants one of KEYS, gives each a share of 10 pictures, and lets pages of ORIGINS ask."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "keys").write_text(f"# a friend's\n\n{key_hash(KEYS[1])}  # until June\n")
    given: dict[str, Any] = {
        "api_keys": key_hash(KEYS[0]),
        "api_keys_file": folder / "keys",
        "cors_origins": ",".join(ORIGINS),
    }
    with Live(quick_checkpoint, folder / "log", client_queue=10, **given) as server:
        yield server.ready()


def application(checkpoint: Path, **settings: Any) -> FastAPI:
    made = Settings(weights=checkpoint, **settings)
    return create_app(made, WorkerPool(made))


@pytest.fixture(scope="module")
def routes(quick_checkpoint: Path) -> list[tuple[str, str]]:
    """Method and path of every route of the application, those in routers and mounts too."""

    def walk(found: Iterable[Any]) -> Iterator[tuple[str, str]]:
        for route in found:
            if router := getattr(route, "original_router", None):
                yield from walk(router.routes)
                continue
            path = re.sub(r"\{.*?\}", "x", route.path)
            if getattr(route, "app", None) and not getattr(route, "methods", None):
                path += "/demo.js"  # of a mounted folder
            for method in getattr(route, "methods", None) or {"GET"}:
                yield method, path

    return sorted(walk(application(quick_checkpoint, api_keys=key_hash("k")).routes))


def test_the_walk_finds_the_routes(routes: list[tuple[str, str]]) -> None:
    assert {path for _, path in routes} == OPEN | {
        "/demo/demo.js", "/metrics", "/gallery", "/gallery.webp", "/things", "/generate", PAINT, "/v1/images/edits",
        "/v1/models", "/v1/models/x", "/v1/images/variations", "/v1/jobs", "/v1/jobs/x", "/v1/jobs/x/events",
        "/pictures/x",
    }  # fmt: skip


def test_every_route_that_is_not_open_answers_401_without_a_key(guarded: Live, routes: list[tuple[str, str]]) -> None:
    tried = [
        *routes,
        ("GET", "/no-such"),
        ("DELETE", "/generate"),
        ("OPTIONS", PAINT),
        ("GET", "/demo"),
        ("GET", "/v1"),
    ]
    closed = 0
    for method, path in tried:
        for headers in ({}, bearer("wrong")):
            answer = guarded.client.request(method, path, headers=headers)
            assert (answer.status_code == 401) == (not is_open(path)), (method, path)
            if answer.status_code == 401:
                closed += 1
                check_refusal(answer, method, path, given=bool(headers))
        for key in KEYS:
            assert guarded.client.request(method, path, headers=bearer(key)).status_code != 401
    assert closed >= 2 * 11


def check_refusal(answer: httpx.Response, method: str, path: str, given: bool) -> None:
    realm = 'Bearer realm="dalle-server"'
    assert answer.headers["www-authenticate"] == (realm + ', error="invalid_token"' if given else realm)
    if method == "HEAD":
        assert answer.content == b""
    elif path.startswith("/v1/"):
        error = answer.json()["error"]
        code = "invalid_api_key" if given else "missing_api_key"
        assert (error["type"], error["code"], error["param"]) == ("authentication_error", code, None)
    else:
        assert list(answer.json()) == ["Error"]


NO_KEYS: list[list[str | bytes]] = [
    [""],
    ["Bearer"],
    [f"Basic {KEYS[0]}"],
    [KEYS[0]],
    [f"Bearer {KEYS[0]}x"],
    [f"Bearer {KEYS[0][:-1]}"],
    [f"Bearer {key_hash(KEYS[0])}"],
    [f"Bearer {KEYS[0]}"] * 2,
    ["Bearer ключ".encode()],
    [f"Bearer {'x' * 10_000}"],
]


@pytest.mark.parametrize("values", NO_KEYS)
def test_an_unknown_key_is_refused(guarded: Live, values: list[str | bytes]) -> None:
    headers = [("Authorization", value if isinstance(value, bytes) else value.encode()) for value in values]
    answer = guarded.client.get("/v1/models", headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 401
    assert KEYS[0] not in answer.text


def test_the_scheme_may_be_written_in_any_case_and_the_body_is_not_read_without_a_key(guarded: Live) -> None:
    assert guarded.client.get("/v1/models", headers={"Authorization": f"bearer  {KEYS[1]}"}).status_code == 200
    assert guarded.client.post("/generate", content=LENGTHY).status_code == 401


@pytest.mark.parametrize("path", ["/demo/../metrics", "/demo/%2e%2e/metrics", "//metrics", "/demo/..%2fmetrics"])
def test_a_closed_path_cannot_be_reached_through_an_open_one(guarded: Live, path: str) -> None:
    raw = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    assert talk(guarded, raw).split()[1] in (b"401", b"404")


def talk(server: Live, data: bytes) -> bytes:
    """What the server says to these bytes before it closes the connection."""
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port or 0), timeout=30) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_a_key_has_its_share_whatever_address_it_comes_from(guarded: Live) -> None:
    with guarded.stopped(), contextlib.ExitStack() as streams:

        def ask(key: str, n: int) -> httpx.Response:
            body = {**PROMPT, "n": n, "stream": True}
            return streams.enter_context(guarded.client.stream("POST", PAINT, json=body, headers=bearer(key)))

        assert ask(KEYS[0], 10).status_code == 200
        refused = ask(KEYS[0], 1)
        assert refused.status_code == 429
        assert "your share of the queue is full" in refused.read().decode()
        assert ask(KEYS[1], 10).status_code == 200
    asked = bearer(KEYS[0])
    guarded.wait(
        lambda: samples(guarded.client.get("/metrics", headers=asked).text)["dalle_requests_in_flight"] == 0,
        "the shares are not given back",
    )


def test_two_clients_may_choose_the_same_idempotency_key(guarded: Live) -> None:
    for number, key in enumerate(KEYS):
        for again in (None, "true"):
            body, headers = {**PROMPT, "seed": number}, {"Idempotency-Key": "mine", **bearer(key)}
            answer = guarded.client.post(PAINT, json=body, headers=headers)
            assert (answer.status_code, answer.headers.get("idempotent-replayed")) == (200, again)


def test_the_log_never_holds_a_key_and_tells_it_by_the_start_of_its_hash(guarded: Live) -> None:
    for key in (*KEYS, "walrus"):
        guarded.client.get("/v1/models", headers=bearer(key) | {"X-Request-Id": f"log-{key[:9]}"})
    (line,) = guarded.wait(lambda: re.findall(f".*id=log-{KEYS[1][:9]}.*", guarded.log), "no line")
    assert f"key={key_hash(KEYS[1])[:8]}" in line
    guarded.wait(lambda: "id=log-walrus" in guarded.log, "no line")
    for secret in (*KEYS, *map(key_hash, KEYS), "Bearer walrus", key_hash("walrus")[:8]):
        assert secret not in guarded.log


def test_the_document_describes_the_scheme_where_keys_are_needed(guarded: Live, live: Live) -> None:
    closed, free = (server.client.get("/openapi.json").json() for server in (guarded, live))
    assert closed["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, methods in closed["paths"].items():
        for operation in methods.values():
            assert operation["security"] == ([] if is_open(path) else [{"key": []}])
            assert ("401" in operation["responses"]) == (not is_open(path))
    assert "securitySchemes" not in free["components"]
    assert "401" not in free["paths"]["/generate"]["post"]["responses"]
    assert "403" in free["paths"]["/generate"]["post"]["responses"]
    assert "403" not in closed["paths"]["/generate"]["post"]["responses"]


def test_the_command_makes_a_key_and_the_hash_that_lets_it_in() -> None:
    lines = [CliRunner().invoke(cli.app, ["key"]).output.split() for _ in range(2)]
    (_, key, _, digest), (_, other, _, _) = lines
    assert len(key) > 40
    assert key != other
    assert read_keys(Settings(api_keys=digest)).keys() == {key_hash(key)}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "the API keys cannot be read: No such file or directory"),
        ("", "must hold the hash of an API key, got none: nobody would be let in"),
        ("# nothing\n", "must hold the hash of an API key"),
        (f"{key_hash('a')}\nsesame\n", "line 2 must be the hash of an API key, 64 digits from 0 to f"),
    ],
)
def test_a_wrong_file_of_keys_stops_the_start_and_is_not_quoted(
    quick_checkpoint: Path, tmp_path: Path, content: str | None, says: str
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError) as caught:
        application(quick_checkpoint, api_keys_file=file)
    assert str(caught.value).startswith(str(file))
    assert says in str(caught.value)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_of_keys_may_be_written_on_windows(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "keys"
    file.write_bytes(f"# keys\r\n{key_hash('a').upper()}\r\n  {key_hash('b')}  # b\r\n".encode(encoding))
    settings = Settings(api_keys_file=file, api_keys=key_hash("c").upper())
    assert read_keys(settings).keys() == {key_hash(key) for key in "abc"}


SECRET = "whsec_" + "A" * 32


def test_a_key_may_have_a_webhook(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    line = f"{key_hash('a')}  https://example.org/Told {SECRET}  # their jobs"
    file.write_text(f"{line}\n{key_hash('b')}\n")
    found = read_keys(Settings(api_keys_file=file))
    assert found == {key_hash("a"): {"url": "https://example.org/Told", "secret": SECRET}, key_hash("b"): None}
    for wrong, says in (
        (line.replace("https", "http"), "webhook.url must be an address with https"),
        (line.replace("example.org", "10.0.0.1"), "webhook.url must lead to a public address"),
        (line.replace(SECRET, "whsec_short"), "webhook.secret must be whsec_ and"),
        (line.replace(SECRET, ""), "line 1 must be the hash of an API key"),
    ):
        file.write_text(wrong)
        with pytest.raises(SettingsError, match=says) as caught:
            read_keys(Settings(api_keys_file=file))
        assert SECRET not in str(caught.value)


# --- pages of other origins


def asked(server: Live, origin: str, path: str = PAINT) -> httpx.Response:
    """What a browser asks before a page of `origin` may ask."""
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
        "Access-Control-Request-Private-Network": "true",
    }
    return server.client.options(path, headers=headers)


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("path", [PAINT, "/generate", "/healthz"])
def test_a_page_of_a_named_origin_may_send_requests(guarded: Live, origin: str, path: str) -> None:
    before = asked(guarded, origin, path)
    assert before.status_code == 200
    assert before.headers["access-control-allow-origin"] == origin
    assert "POST" in before.headers["access-control-allow-methods"].split(", ")
    assert before.headers["access-control-allow-headers"].split(",") == [
        "authorization",
        "content-type",
        "idempotency-key",
    ]
    assert "Origin" in before.headers["vary"].split(", ")
    assert before.headers["access-control-allow-private-network"] == "true"
    assert "access-control-allow-credentials" not in before.headers
    for headers in ({}, bearer(KEYS[0])):
        answer = guarded.client.post(path, json={}, headers={"Origin": origin, **headers})
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in answer.headers


def test_every_header_of_our_own_is_exposed_to_the_page(guarded: Live) -> None:
    text = {"text": "🦆" * 100, "truncate": True, "best_of": 2}
    answer = guarded.client.post("/generate", json=text, headers={"Origin": ORIGINS[0], **bearer(KEYS[0])})
    assert answer.status_code == 200
    exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
    ours = {name for name in answer.headers if name.startswith("x-") and name != "x-content-type-options"}
    assert {"x-seeds", "x-scores", "x-text-truncated", "x-request-id"} <= ours
    assert ours - {"x-frame-options"} <= set(exposed)
    assert {"server-timing", "retry-after", "idempotent-replayed"} <= set(exposed)


@pytest.mark.parametrize(
    "origin", ["https://example.org.evil.net", "http://example.org", "https://EXAMPLE.org", "null"]
)
def test_a_page_of_another_origin_gets_no_such_header(guarded: Live, origin: str) -> None:
    before = asked(guarded, origin)
    assert before.status_code == 400
    answers = [guarded.client.get(path, headers={"Origin": origin}) for path in ("/healthz", "/v1/models")]
    assert [answer.status_code for answer in answers] == [200, 401]
    for headers in (before.headers, *(answer.headers for answer in answers)):
        assert "access-control-allow-origin" not in headers
        assert "access-control-allow-credentials" not in headers
        assert "Origin" in headers["vary"].split(", ")


def test_without_named_origins_no_page_may_send_requests(live: Live) -> None:
    before = asked(live, ORIGINS[0])
    assert before.status_code == 405
    assert not [name for name in before.headers if name.startswith("access-control-") or name == "vary"]


@pytest.mark.parametrize(
    "value", ["example.org", "https://example.org/path", "https://a.org https://b.org", "https://*.a.org", "a.org,*"]
)
def test_a_wrong_list_of_origins_stops_the_start(value: str) -> None:
    with pytest.raises(ValueError, match="cors_origins|CORS"):
        Settings(cors_origins=value)


# --- every answer


def test_every_answer_has_the_security_headers_and_an_id(guarded: Live, routes: list[tuple[str, str]]) -> None:
    key = bearer(KEYS[0])
    answers = [asked(guarded, ORIGINS[0])]
    for method, path in [*routes, ("GET", "/no-such"), ("PUT", "/generate"), ("TRACE", "/"), ("GET", "/%00")]:
        answers += [guarded.client.request(method, path, headers=headers) for headers in ({}, key)]
    answers.append(
        guarded.client.post("/generate", content=LENGTHY, headers=key | {"Content-Type": "application/json"})
    )
    answers.append(guarded.client.post("/generate", json={"text": "a"}, headers=key))
    answers.append(guarded.client.post(PAINT, json={**PROMPT, "stream": True}, headers=key))
    answers.append(guarded.client.get("/", headers={"If-None-Match": guarded.client.get("/").headers["etag"]}))
    seen = {answer.status_code for answer in answers}
    assert seen >= {200, 401, 404, 405, 413, 415}
    for answer in answers:
        for name, value in HEADERS:
            assert answer.headers.get_list(name.decode()) == [value.decode()], (answer.request.url, name)
        assert answer.headers["cache-control"] in ("no-store", "no-cache")
        assert answer.headers["x-request-id"]
        assert REPLICAS or "server" not in answer.headers  # Ray's proxy adds it


@one_process("the proxy refuses what is not HTTP")
@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",  # TLS
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nwalrus\r\n",
    ],
)
def test_bytes_that_are_not_http_get_our_headers_too(guarded: Live, data: bytes) -> None:
    head, _, body = talk(guarded, data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    for name, value in HEADERS:
        assert name + b": " + value in head
    assert json.loads(body) == {"Error": "the request must be HTTP/1.1, got something that cannot be read"}
    assert guarded.client.get("/healthz").status_code == 200
    assert "Traceback" not in guarded.log
