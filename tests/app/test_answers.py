"""Answers that are read slowly or not at all, over raw sockets; and the form that answers have on the wire."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message

from app.http.album import File
from app.http.answers import PIECE, RAW, PicturesAnswer, around_pictures
from app.http.budget import Budget, Claim
from app.http.painting import Picture, Told
from model.inference.events import Painted
from tests.app.live import Live, ledger, one_process

PAINT = "/v1/images/generations"
BIG = {"prompt": "a red apple", "n": 10, "size": "1024x1024", "guidance": 1, "seed": 2}  # an answer of 19 MB
HELD, LIMIT = "dalle_answer_bytes", "dalle_answer_bytes_limit"
TOO_SLOW = 'dalle_errors_total{code="reader_too_slow"}'
UNBOUNDED = one_process("the proxy holds what a client does not read, and nobody cuts it")


@pytest.fixture(scope="module")
def hasty(quick_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that gives its readers a second for a MiB."""
    with Live(quick_checkpoint, tmp_path_factory.mktemp("hasty") / "log", send_timeout=1) as server:
        yield server.ready()


@pytest.fixture(scope="module")
def narrow(quick_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that never cuts a slow client and has little room: 4 MiB for a client. A large picture takes 3.3 MB."""
    log = tmp_path_factory.mktemp("narrow") / "log"
    with Live(quick_checkpoint, log, send_timeout=3600, answer_bytes=8 << 20) as server:
        yield server.ready()


@pytest.fixture
def key() -> dict[str, str]:
    return {"Idempotency-Key": uuid.uuid4().hex}


def post(body: dict[str, Any], headers: dict[str, str], version: str = "1.1", path: str = PAINT) -> bytes:
    """A request in bytes."""
    content = json.dumps(body).encode()
    given = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(content)), **headers}
    lines = [f"POST {path} HTTP/{version}", *(f"{name}: {value}" for name, value in given.items()), "", ""]
    return "\r\n".join(lines).encode() + content


def connect(server: Live, request: bytes, address: str = "127.0.0.1") -> socket.socket:
    """A client with hardly any memory that has sent `request` and reads nothing yet."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(120)
    client.bind((address, 0))
    url = httpx.URL(server.url)
    client.connect((url.host, url.port or 0))
    client.sendall(request)
    return client


def read_all(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    received = bytearray()
    while part := client.recv(1 << 16):
        received += part
    return bytes(received)


def at_rest(server: Live) -> None:
    server.wait(lambda: server.metrics()[HELD] == 0, "bytes of answers are still counted")
    server.wait(lambda: server.in_flight() == 0, "a request that nobody reads goes on")


MANY = 400  # of a pipeline; more than the sockets hold back
UNREAD: dict[str, Callable[[dict[str, str]], bytes]] = {
    "json": lambda _: post(BIG, {}),
    "generate": lambda _: post({"text": "a", "num_images": 10}, {}, path="/generate") * 20,
    "replay": lambda key: post(BIG, key),
    "stream": lambda _: post({**BIG, "stream": True}, {}),
    "close": lambda _: post(BIG, {"Connection": "close"}),
    "http-1.0": lambda _: post(BIG, {}, "1.0"),
    "document": lambda _: b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * MANY,
    "metrics": lambda _: b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * MANY,
    "file": lambda _: b"GET /demo/demo.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * MANY,
    "errors": lambda _: b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50 * MANY,
}


@UNBOUNDED
@pytest.mark.parametrize("kind", [*UNREAD])
def test_a_client_that_reads_nothing_is_cut_and_holds_no_memory(hasty: Live, key: dict[str, str], kind: str) -> None:
    if kind == "replay":
        with contextlib.suppress(httpx.RemoteProtocolError):  # it is cut too if this process stands still for a while
            assert hasty.client.post(PAINT, json=BIG, headers=key).status_code == 200
        at_rest(hasty)
    before = hasty.metrics()[TOO_SLOW]
    request = UNREAD[kind](key)
    with connect(hasty, b"") as client:
        client.setblocking(False)
        sent = 0

        def cut() -> bool:
            nonlocal sent
            try:
                sent += client.send(request[sent : sent + (1 << 16)]) if sent < len(request) else 0
            except BlockingIOError:  # the server reads no more requests while answers wait
                pass
            except ConnectionError:
                sent = len(request)
            return hasty.metrics()[TOO_SLOW] > before

        hasty.wait(cut, "it is not cut")
    hasty.wait(lambda: "status=499" in hasty.log and "error=reader_too_slow" in hasty.log, "no line of it")
    at_rest(hasty)
    assert "fault of ours" not in hasty.log
    assert "without completing response" not in hasty.log


@UNBOUNDED
def test_a_client_that_reads_too_slowly_is_cut_too(hasty: Live) -> None:
    before = hasty.metrics()[TOO_SLOW]
    with connect(hasty, post(BIG, {})) as client:

        def cut() -> bool:
            with contextlib.suppress(ConnectionError):
                client.recv(512)  # with each look at the metrics: a few kB a second
            return hasty.metrics()[TOO_SLOW] > before

        hasty.wait(cut, "it is not cut")
    at_rest(hasty)


def test_a_slow_but_steady_reader_gets_its_whole_answer(live: Live, key: dict[str, str]) -> None:
    expected = live.client.post(PAINT, json=BIG, headers=key).content
    with connect(live, post(BIG, key | {"Connection": "close"})) as client:
        received = bytearray()
        while part := client.recv(1 << 17):
            received += part
            time.sleep(0.002)
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert b"idempotent-replayed: true" in head.lower()
    assert b"content-length: %d" % len(expected) in head.lower()
    assert body == expected
    at_rest(live)


@UNBOUNDED
def test_readers_of_replays_share_the_files_and_disturb_nobody(narrow: Live, key: dict[str, str]) -> None:
    first = narrow.client.post(PAINT, json=BIG, headers=key)
    assert first.status_code == 200
    accepted = ledger(narrow.metrics())["accepted"]
    clients = [connect(narrow, post(BIG, key), f"127.0.0.{number}") for number in range(2, 5)]
    try:
        narrow.wait(lambda: narrow.metrics()[HELD] >= 2e6, "they hold nothing")
        assert narrow.client.get("/healthz").text == "Health"
        assert narrow.client.post("/generate", json={"text": "a"}).status_code == 200
        assert narrow.metrics()[HELD] < narrow.metrics()[LIMIT] == 8 << 20
        assert ledger(narrow.metrics())["accepted"] == accepted + 1
    finally:
        for client in clients:
            client.close()
    at_rest(narrow)
    again = narrow.client.post(PAINT, json=BIG, headers=key)
    assert again.content == first.content


@UNBOUNDED
def test_a_client_beyond_its_share_is_refused_and_others_are_not(narrow: Live, key: dict[str, str]) -> None:
    small, other_key = {**BIG, "n": 1, "stream": True}, {"Idempotency-Key": uuid.uuid4().hex}
    for body, headers in ((BIG, key), (small, other_key)):  # painted, so that the time below is for room only
        assert narrow.client.post(PAINT, json=body, headers=headers).status_code == 200
    with connect(narrow, post(BIG, key)):  # from the address of narrow.client
        narrow.wait(lambda: narrow.metrics()[HELD] > 1e6, "it holds nothing")
        refused = narrow.client.post(PAINT, json=BIG, headers=key | {"X-Request-Timeout": "1"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "client_over_share")
        assert int(refused.headers["retry-after"]) > 0
        stream = narrow.client.post(PAINT, json=small, headers=other_key | {"X-Request-Timeout": "1"})
        assert '"code":"client_over_share"' in stream.text
        with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2"), base_url=narrow.url) as other:
            answer = other.post(PAINT, json=BIG, headers=key, timeout=120)
            assert answer.status_code == 200
    at_rest(narrow)


@UNBOUNDED
def test_without_room_the_next_answer_is_refused_and_can_be_repeated(narrow: Live, key: dict[str, str]) -> None:
    one = {**BIG, "n": 1, "seed": 5}
    with connect(narrow, post(BIG, {}), "127.0.0.2"):  # its ten files are more than the budget, which it gets alone
        narrow.wait(lambda: narrow.metrics()[HELD] > 8 << 20, "it holds nothing")
        narrow.wait(lambda: narrow.in_flight() == 0, "it is not painted")
        accepted = ledger(narrow.metrics())
        refused = narrow.client.post(PAINT, json=one, headers=key | {"X-Request-Timeout": "3"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) > 0
        assert ledger(narrow.metrics())["completed"] == accepted["completed"] + 1
    at_rest(narrow)
    answer = narrow.client.post(PAINT, json=one, headers=key)
    assert answer.headers["idempotent-replayed"] == "true"
    assert ledger(narrow.metrics())["completed"] == accepted["completed"] + 1
    assert answer.json()["data"] == narrow.client.post(PAINT, json=one).json()["data"]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_pictures_on_the_wire_are_of_the_length_that_was_told(live: Live, version: str) -> None:
    body = {"text": "a red apple", "num_images": 3, "seed": 4}
    expected = live.post(json=body)
    request = post(body, {} if version == "1.0" else {"Connection": "close"}, version, "/generate")
    with connect(live, request) as client:
        head, _, content = read_all(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert content == expected.content
    assert int(expected.headers["content-length"]) == len(content)
    assert b"content-length: %d" % len(content) in head.lower()


def test_a_connection_is_kept_after_pictures_and_a_pipeline_is_answered_in_order(live: Live) -> None:
    body = {"text": "a red apple", "num_images": 2, "seed": 4}
    last = b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with connect(live, post(body, {}, path="/generate") * 2 + last) as client:
        received = read_all(client)
    expected = live.post(json=body).content
    assert received.count(expected) == 2
    assert received.count(b"HTTP/1.1 200 ") == 3
    assert received.endswith(b"\r\n\r\n"), "HEAD has no body"


# --- without a server


def test_no_text_of_a_client_is_taken_for_an_empty_picture() -> None:
    text = 'x"b64_json":""\0'
    data = [{"b64_json": "", "revised_prompt": text}, {"b64_json": ""}]
    parts = around_pictures(json.dumps({"data": data}, separators=(",", ":")))
    assert len(parts) == 3
    filled = json.loads(b"AAAA".join(parts))
    assert filled == {"data": [{"b64_json": "AAAA", "revised_prompt": text}, {"b64_json": "AAAA"}]}
    assert around_pictures("{}") == [b"{}"]


@pytest.mark.parametrize("size", [0, 1, 2, 3, RAW - 1, RAW, RAW + 1, 3_000_000])
def test_an_answer_is_made_in_pieces_and_lets_every_file_go_once_it_is_sent(size: int) -> None:
    data, budget = bytes(range(256)) * (size // 256) + bytes(size % 256), Budget(1 << 30, 1.0)

    async def never() -> File:
        raise AssertionError("it is held")

    async def play() -> list[Message]:
        claim, sent, held = Claim(budget, str), [], []
        await claim.take(2 * size, None)
        pictures = [Picture(Painted("", i, b"", b"", 0.1), Told(""), size, never, claim, File(data)) for i in range(2)]
        answer = PicturesAnswer([b'["', b'","', b'"]'], pictures, {})

        async def send(message: Message) -> None:
            sent.append(message)
            held.append(budget.used)

        await answer({}, None, send)  # type: ignore[arg-type]
        assert held[0] == 2 * size
        assert budget.used == 0
        return sent

    start, *messages = asyncio.run(play())
    whole = b"".join(message["body"] for message in messages)
    assert json.loads(whole) == [base64.b64encode(data).decode()] * 2
    assert dict(start["headers"])[b"content-length"] == str(len(whole)).encode()
    assert max(len(message["body"]) for message in messages) <= PIECE
    assert [message["more_body"] for message in messages] == [True] * (len(messages) - 1) + [False]
