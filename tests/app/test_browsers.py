"""Requests from pages of other origins, to other host names, and through proxies: which of them are refused."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from app.http.browsers import Browsers
from app.http.errors import ForeignHost
from app.http.keys import key_hash
from app.http.proxies import Proxies
from app.settings import Settings
from tests.app.live import Live

PAINT = "/v1/images/generations"
FRIEND = "https://friend.example"
NAME = "dalle.example.org"
EVIL = "https://evil.example"
Headers = dict[str, str]


@pytest.fixture(scope="module")
def named(quick_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that has a name, a friend whose pages may ask, and a trusted proxy on this machine."""
    log = tmp_path_factory.mktemp("named") / "log"
    given: dict[str, Any] = {
        "allowed_hosts": f"{NAME}, *.example.net",
        "cors_origins": f"{FRIEND}/, http://localhost:3000",
        "trusted_proxies": "127.0.0.1, 10.0.0.0/8",
    }
    with Live(quick_checkpoint, log, client_queue=10, **given) as server:
        yield server.ready()


def accepted(server: Live) -> float:
    return server.metrics()["dalle_requests_accepted_total"]


def refusal(answer: httpx.Response) -> str:
    """The one line of a 403."""
    assert answer.status_code == 403, answer.text
    if answer.request.url.path.startswith("/v1/"):
        error = answer.json()["error"]
        assert error["type"] == "permission_error"
        line = error["message"]
    else:
        line = answer.json()["Error"]
    assert "\n" not in line
    return str(line)


# --- pages of other origins

FOREIGN: list[tuple[Headers, tuple[str, ...]]] = [
    ({"Origin": EVIL}, ("Origin", EVIL)),
    ({"Origin": "null"}, ("Origin", "null")),
    ({"Origin": ""}, ("Origin",)),
    ({"Origin": "http://127.0.0.1"}, ("Origin", "http://127.0.0.1")),
    ({"Origin": "http://127.0.0.1:1"}, ("Origin", "http://127.0.0.1:1")),
    ({"Origin": "http://localhost:{port}"}, ("Origin", "localhost")),
    ({"Origin": "http://127.0.0.1:{port}.evil.example"}, ("Origin",)),
    ({"Origin": "http://evil.example/http://127.0.0.1:{port}"}, ("Origin",)),
    ({"Origin": "file://127.0.0.1:{port}"}, ("Origin",)),
    ({"Sec-Fetch-Site": "cross-site"}, ("Sec-Fetch-Site", "cross-site")),
    ({"Sec-Fetch-Site": "cross-site", "Origin": "null"}, ("Sec-Fetch-Site", "cross-site", "Origin null")),
    ({"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"}, ("same-site", "http://127.0.0.1:1")),
    ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"}, ("same-site", "http://localhost:3000")),
    ({"Sec-Fetch-Site": "walrus"}, ("walrus",)),
]
FORMS: list[dict[str, Any]] = [  # what a page may send without asking
    {"data": {"text": "a red apple"}},
    {"files": {"text": (None, "a red apple")}},
    {"content": '{"text": "a red apple"}', "headers": {"Content-Type": "text/plain"}},
    {"content": ""},
]


@pytest.mark.parametrize(("headers", "told"), FOREIGN)
def test_requests_of_a_foreign_page_are_refused_and_not_painted(
    live: Live, headers: Headers, told: tuple[str, ...]
) -> None:
    sent = {name: value.format(port=httpx.URL(live.url).port) for name, value in headers.items()}
    before = accepted(live)
    for path in ("/generate", PAINT, "/v1/images/edits", "/no-such"):
        line = refusal(live.client.post(path, json={"text": "a", "prompt": "a"}, headers=sent))
        assert all(words in line for words in (*told, "DALLE_CORS_ORIGINS"))
    for form in FORMS:
        refusal(live.post(**{**form, "headers": {**form.get("headers", {}), **sent}}))
    for method in ("PUT", "PATCH", "DELETE", "TRACE", "QUERY", "post"):
        refusal(live.client.request(method, "/generate", headers=sent))
    for method, path, status in (("GET", "/readyz", 200), ("HEAD", "/", 200), ("OPTIONS", "/generate", 405)):
        assert live.client.request(method, path, headers=sent).status_code == status
    assert accepted(live) == before


def test_a_refusal_repeats_of_a_long_value_only_the_start(live: Live) -> None:
    line = refusal(live.post(data={"text": "a"}, headers={"Origin": "https://" + "x" * 5000}))
    assert "https://xxx" in line
    assert len(line) < 250


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://127.0.0.1:{port}"},
        {"Origin": "HTTP://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Referer": "https://evil.example/"},
        {"Host": "localhost:80", "Origin": "http://localhost"},
    ],
)
def test_programs_and_our_own_pages_may_send_requests(live: Live, headers: Headers) -> None:
    sent = {name: value.format(port=httpx.URL(live.url).port) for name, value in headers.items()}
    assert live.post(data={"text": "a red apple"}, headers=sent).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": f"https://{NAME}"},
        {"Origin": f"http://{NAME}"},
        {"Origin": f"https://{NAME.upper()}:443"},
        {"Origin": f"https://{NAME}:8443", "Host": f"{NAME}:8443"},
        {"Origin": f"https://{NAME}", "Host": f"{NAME}:443"},
        {"Origin": f"https://{NAME}", "Host": "127.0.0.1", "Sec-Fetch-Site": "same-origin"},
        {"Origin": FRIEND},
        {"Origin": FRIEND, "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
    ],
)
def test_our_page_behind_a_proxy_and_a_named_origin_may_send_requests(named: Live, headers: Headers) -> None:
    answer = named.post(data={"text": "a red apple"}, headers={"Host": NAME, **headers})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": f"https://{NAME}:8443"},
        {"Origin": f"http://{NAME}:3000"},
        {"Origin": f"https://{NAME}", "Host": f"{NAME}:80"},
        {"Origin": f"https://evil.{NAME}"},
        {"Origin": FRIEND.replace("https", "http")},
        {"Origin": "null"},
    ],
)
def test_another_port_or_scheme_is_another_origin(named: Live, headers: Headers) -> None:
    refusal(named.post(data={"text": "a red apple"}, headers={"Host": NAME, **headers}))


def test_a_request_with_two_origins_passes_only_if_both_are_named(named: Live) -> None:
    def ask(*origins: str) -> httpx.Response:
        return named.post(data={"text": "a"}, headers=[("Origin", origin) for origin in origins])

    assert ask(FRIEND, FRIEND).status_code == 200
    refusal(ask(FRIEND, EVIL))
    refusal(ask(EVIL, FRIEND))


def test_a_page_of_a_named_origin_can_read_refusals_too(named: Live) -> None:
    for host, status in ((NAME, 422), ("evil.example", 403)):
        answer = named.post(json={}, headers={"Host": host, "Origin": FRIEND})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, FRIEND)
        assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()


def test_a_page_of_a_named_origin_can_use_every_route_and_read_every_header(named: Live) -> None:
    told = {"location", "etag", "content-range"}
    for path, operations in named.client.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            asking = {"Origin": FRIEND, "Access-Control-Request-Method": method.upper()}
            assert named.client.options(path, headers=asking).status_code == 200, f"{method} {path}"
            for answer in operation["responses"].values():
                told |= {name.lower() for name in answer.get("headers", ()) if name != "WWW-Authenticate"}
    exposed = named.client.get("/readyz", headers={"Origin": FRIEND}).headers["access-control-expose-headers"].lower()
    assert "x-prompt-fit" in told
    assert told <= set(exposed.split(", "))


def test_a_star_allows_any_page_and_null_allows_files(start: Callable[..., Live]) -> None:
    for setting, allowed, refused in (("*", (EVIL, "null"), ()), (f"null, {FRIEND}", ("null", FRIEND), (EVIL,))):
        server = start(cors_origins=setting).ready()
        for origin in allowed:
            headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
            answer = server.post(data={"text": "a"}, headers=headers)
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] in (origin, setting)
            asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Private-Network": "true"}
            before = server.client.options("/generate", headers=headers | asking)
            assert before.status_code == 200
            assert before.headers["access-control-allow-origin"] in (origin, setting)
            assert before.headers["access-control-allow-private-network"] == "true"
        for origin in refused:
            refusal(server.post(data={"text": "a"}, headers={"Origin": origin}))


# --- names

OWN = [
    "localhost", "LOCALHOST:8000", "localhost.", "a.localhost:3", "127.0.0.1", "127.9.9.9:80", "[::1]", "[::1]:8000",
    "192.0.2.1:8000", "0.0.0.0:8000", "",
]  # fmt: skip
OTHERS = [
    "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "evil-localhost",
    "127.0.0.1.nip.io", "localhost@evil.example", "[evil.example]", "[::1].evil.example", "localhost:80:80", ":80",
    "localhost,evil.example", "*", "*.localhost.evil", "x" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("host", OWN)
def test_on_a_loopback_address_names_of_this_machine_are_allowed(live: Live, named: Live, host: str) -> None:
    for server in (live, named):
        assert server.client.get("/readyz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", OTHERS)
def test_on_a_loopback_address_another_name_is_refused(live: Live, named: Live, host: str) -> None:
    before = accepted(live)
    for server in (live, named):
        for method, path in (("GET", "/"), ("GET", "/metrics"), ("GET", "/readyz"), ("POST", "/generate")):
            line = refusal(server.client.request(method, path, headers={"Host": host}))
            assert "DALLE_ALLOWED_HOSTS" in line
            assert host[:70] in line
        assert server.client.head("/", headers={"Host": host}).status_code == 403
        assert server.client.options("/", headers={"Host": host}).status_code == 403
    assert accepted(live) == before


def test_a_name_of_the_setting_is_allowed(named: Live) -> None:
    for host in (NAME, f"{NAME.upper()}.:8000", "a.example.net", "b.a.example.net:1"):
        assert named.client.get("/readyz", headers={"Host": host}).status_code == 200
    for host in (f"a.{NAME}", "example.net", "example.org", "evilexample.net"):
        refusal(named.client.get("/readyz", headers={"Host": host}))


def test_a_request_of_http_1_0_needs_no_host(live: Live) -> None:
    url = httpx.URL(live.url)

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
        said = await reader.read()
        writer.close()
        return said

    assert asyncio.run(ask()).split()[1] == b"200"


def test_any_name_is_allowed_by_a_star_or_if_a_key_is_needed(start: Callable[..., Live]) -> None:
    headers = {"Host": "evil.example", "Origin": EVIL, "Sec-Fetch-Site": "cross-site", "Authorization": "Bearer k"}
    anywhere, keyed = start(allowed_hosts="*").ready(), start(api_keys=key_hash("k")).ready()
    assert anywhere.client.get("/metrics", headers=headers).status_code == 200
    refusal(anywhere.post(data={"text": "a"}, headers=headers))
    assert keyed.post(data={"text": "a"}, headers=headers).status_code == 200
    del headers["Authorization"]
    assert keyed.post(data={"text": "a"}, headers=headers).status_code == 401


def asked_by(layer: Callable[..., Any], scope: dict[str, Any], **given: Any) -> Scope:
    """The scope that an application inside this layer gets."""
    seen: list[Scope] = []

    async def application(scope: Scope, _: Receive, __: Send) -> None:
        seen.append(scope)

    async def nothing(*_: Message) -> Message:
        raise AssertionError

    whole = {"type": "http", "method": "GET", "scheme": "http", "headers": [], "state": {}, **scope}
    asyncio.run(layer(application, **given)(whole, nothing, nothing))
    return seen[0]


@pytest.mark.parametrize("server", [("127.0.0.1", 8000), ("127.0.1.1", 80), ("::1", 8000), ("::ffff:127.0.0.1", 8000)])
def test_loopback_addresses_are_known_by_all_their_names(server: tuple[str, int]) -> None:
    given: dict[str, Any] = {"origins": (), "hosts": (), "own_names": ("here",)}
    scope = {"server": server, "headers": [(b"host", b"evil.example")]}
    with pytest.raises(ForeignHost):
        asked_by(Browsers, scope, **given)
    asked_by(Browsers, {**scope, "headers": [(b"host", b"HERE:8000")]}, **given)
    asked_by(Browsers, {**scope, "state": {"proxied": True}}, **given)
    with pytest.raises(ForeignHost):
        asked_by(Browsers, {**scope, "state": {"proxied": True}}, **{**given, "hosts": (NAME,)})


@pytest.mark.parametrize("server", [("192.0.2.1", 8000), ("2001:db8::1", 8000), ("/run/dalle.sock", None), None])
def test_on_other_addresses_names_are_checked_only_if_the_setting_has_some(server: tuple[str, int] | None) -> None:
    given: dict[str, Any] = {"origins": (), "hosts": (), "own_names": ()}
    scope = {"server": server, "headers": [(b"host", b"evil.example")]}
    asked_by(Browsers, scope, **given)
    with pytest.raises(ForeignHost):
        asked_by(Browsers, scope, **{**given, "hosts": (NAME,)})


# --- proxies


def clients(server: Live, name: str, forwarded: Headers) -> list[str]:
    """Whom the log takes for the client of a request with these headers."""
    assert server.client.get("/v1/models", headers={"X-Request-Id": name, **forwarded}).status_code == 200
    line = server.wait(lambda: re.findall(f".*id={name} .*", server.log), "no line")[0]
    return re.findall(r"client=(\S+)", line)


def test_without_the_setting_no_client_can_choose_its_address(live: Live) -> None:
    assert clients(live, "plain", {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}) == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("number", "forwarded", "client"),
    [
        (0, "203.0.113.7", "203.0.113.7"),
        (1, "198.51.100.1, 203.0.113.7", "203.0.113.7"),  # the first one is the client's own word
        (2, "198.51.100.1, 203.0.113.7, 10.1.2.3,127.0.0.1", "203.0.113.7"),  # a chain of trusted proxies
        (3, "203.0.113.7:4711", "203.0.113.7"),
        (4, "2001:db8:0::1", "2001:db8::1"),
        (5, "[2001:db8::1]:4711", "2001:db8::1"),
        (6, "10.1.2.3", "10.1.2.3"),
        (7, "unknown", "127.0.0.1"),
        (8, "", "127.0.0.1"),
        (9, "203.0.113.7, walrus client=1.2.3.4", "127.0.0.1"),
        (10, "x" * 5000, "127.0.0.1"),
        (11, "fe80::1%" + "x" * 5000, "127.0.0.1"),
        (12, "203.0.113.7\tclient=1.2.3.4", "127.0.0.1"),
        (13, "[::1", "127.0.0.1"),
    ],
)
def test_a_trusted_proxy_says_who_the_client_is(named: Live, number: int, forwarded: str, client: str) -> None:
    assert clients(named, f"proxied-{number}", {"X-Forwarded-For": forwarded}) == [client]


def test_a_clients_share_is_that_of_the_forwarded_address(named: Live, start: Callable[..., Live]) -> None:
    for server, status in ((named, 200), (start(client_queue=10).ready(), 429)):
        with server.stopped(), contextlib.ExitStack() as streams:

            def ask(client: str, n: int, server: Live = server, streams: contextlib.ExitStack = streams) -> int:
                body = {"prompt": "a red apple", "n": n, "stream": True}
                headers = {"X-Forwarded-For": f"198.51.100.{n}, {client}"}
                answer = server.client.stream("POST", PAINT, json=body, headers=headers)
                return streams.enter_context(answer).status_code

            assert ask("203.0.113.7", 10) == 200
            assert ask("203.0.113.7", 1) == 429
            assert ask("203.0.113.8", 9) == status


@pytest.mark.parametrize(
    ("peer", "proxied"),
    [("10.9.9.9", True), ("::ffff:10.9.9.9", True), ("11.0.0.1", False), ("::ffff:11.0.0.1", False), (None, False)],
)
def test_a_proxy_is_known_on_a_socket_for_both_kinds_of_addresses(peer: str | None, proxied: bool) -> None:
    trusted = Settings(trusted_proxies="10.0.0.0/8").proxies
    headers = [(b"x-forwarded-for", b"203.0.113.7"), (b"x-forwarded-proto", b"https")]
    scope = asked_by(Proxies, {"client": peer and (peer, 1), "headers": headers}, trusted=trusted)
    assert scope["state"]["proxied"] is proxied
    assert scope["scheme"] == ("https" if proxied else "http")
    assert scope["client"] == (("203.0.113.7", 0) if proxied else peer and (peer, 1))
