"""Strict HTTP/1.1 over a raw socket: a request that a proxy may read in another way is refused."""

from __future__ import annotations

import json

import h11
import pytest

from app.http.framing import MAX_HEAD, StrictConnection
from app.http.middleware import HEADERS
from tests.app.live import Live, one_process
from tests.app.raw import Answered, talk

pytestmark = one_process("the proxy reads HTTP, in its own way")

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"2\r\n{}\r\n0\r\n\r\n"
NEXT = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"  # a second request on the connection

# What is not taken for a request, the status it is answered with, and a part of the words.
REFUSED = {
    "a length and chunks": (POST + b"Content-Length: 6\r\n" + CHUNKED + b"\r\n0\r\n\r\n", 400, "not have both"),
    "chunks and a length": (POST + CHUNKED + b"Content-Length: 6\r\n\r\n0\r\n\r\n", 400, "not have both"),
    "two lengths": (POST + b"Content-Length: 2\r\nContent-Length: 6\r\n\r\n{}", 400, "the request must be HTTP/1.1"),
    "a list of lengths": (POST + b"Content-Length: 2, 6\r\n\r\n{}", 400, "the request must be HTTP/1.1"),
    "a length with a sign": (POST + b"Content-Length: +2\r\n\r\n{}", 400, "the request must be HTTP/1.1"),
    "a length below 0": (POST + b"Content-Length: -2\r\n\r\n{}", 400, "the request must be HTTP/1.1"),
    "a length in two parts": (POST + b"Content-Length: 2 2\r\n\r\n{}", 400, "the request must be HTTP/1.1"),
    "a length in hexadecimals": (POST + b"Content-Length: 0x2\r\n\r\n{}", 400, "the request must be HTTP/1.1"),
    "no length": (POST + b"Content-Length:\r\n\r\n{}", 400, "the request must be HTTP/1.1"),
    "an endless length": (POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n{}", 400, "the request must be HTTP/1.1"),
    "gzip": (POST + b"Transfer-Encoding: gzip\r\n\r\n{}", 501, "must be chunked"),
    "gzip and chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS, 501, "must be chunked"),
    "chunked and chunked": (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + CHUNKS, 501, "must be chunked"),
    "chunked twice": (POST + CHUNKED + CHUNKED + b"\r\n" + CHUNKS, 501, "must be chunked"),
    "identity": (POST + b"Transfer-Encoding: identity\r\n\r\n{}", 501, "must be chunked"),
    "nearly chunked": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + CHUNKS, 400, "the request must be HTTP/1.1"),
    "chunks of HTTP/1.0": (POST.replace(b"/1.1", b"/1.0") + CHUNKED + b"\r\n" + CHUNKS, 400, "HTTP/1.0"),
    "a chunk of no number": (POST + CHUNKED + b"\r\nx\r\n", 400, "the request must be HTTP/1.1"),
    "a chunk in hexadecimals": (POST + CHUNKED + b"\r\n0x2\r\n{}\r\n0\r\n\r\n", 400, "the request must be HTTP/1.1"),
    "a chunk below 0": (POST + CHUNKED + b"\r\n-2\r\n{}\r\n0\r\n\r\n", 400, "the request must be HTTP/1.1"),
    "a chunk that is longer": (POST + CHUNKED + b"\r\n2\r\n{}x0\r\n\r\n", 400, "the request must be HTTP/1.1"),
    "chunks with bare LF": (POST + CHUNKED + b"\r\n2\n{}\n0\n\n\r\n", 400, "the request must be HTTP/1.1"),
    "LF in a chunk's extension": (
        POST + CHUNKED + b"\r\n2;a\nb\r\n{}\r\n0\r\n\r\n",
        400,
        "the request must be HTTP/1.1",
    ),
    "a space before the colon": (
        POST + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKS,
        400,
        "the request must be HTTP/1.1",
    ),
    "a space in a name": (GET + b"X y: z\r\n\r\n", 400, "the request must be HTTP/1.1"),
    "no name": (GET + b": z\r\n\r\n", 400, "the request must be HTTP/1.1"),
    "no colon": (GET + b"hello\r\n\r\n", 400, "the request must be HTTP/1.1"),
    "a fold before all headers": (
        b"GET /healthz HTTP/1.1\r\n Host: localhost\r\n\r\n",
        400,
        "the request must be HTTP/1.1",
    ),
    "CR in a value": (GET + b"X: a\rb\r\n\r\n", 400, "the request must be HTTP/1.1"),
    "NUL in a value": (GET + b"X: a\0b\r\n\r\n", 400, "the request must be HTTP/1.1"),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400, "the request must be HTTP/1.1"),
    "no host in a later version": (b"GET /healthz HTTP/1.2\r\n\r\n", 400, "header Host"),
    "two hosts": (GET + b"Host: y\r\n\r\n", 400, "the request must be HTTP/1.1"),
    "one host twice": (GET + b"Host: localhost\r\n\r\n", 400, "the request must be HTTP/1.1"),
    "HTTP/0.9 as it was": (b"GET /healthz\r\n\r\n", 400, "the request must be HTTP/1.1"),
    "HTTP/0.9 by name": (b"GET /healthz HTTP/0.9\r\nHost: localhost\r\n\r\n", 505, "must be HTTP/1.1"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "must be HTTP/1.1"),
    "a version in small letters": (
        b"GET /healthz http/1.1\r\nHost: localhost\r\n\r\n",
        400,
        "the request must be HTTP/1.1",
    ),
    "two spaces": (b"GET  /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "the request must be HTTP/1.1"),
    "a space in the target": (
        b"GET /heal thz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        400,
        "the request must be HTTP/1.1",
    ),
    "a method that is no word": (
        b"G@T /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        400,
        "the request must be HTTP/1.1",
    ),
    "a target that is no path": (b"GET healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "begins with /"),
    "a star that is no OPTIONS": (b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "begins with /"),
    "a target of another scheme": (b"GET ftp://x/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "begins with /"),
    "a target without a host": (b"GET http:///healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "begins with /"),
    "a target with a password": (b"GET http://a:b@x/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "begins with /"),
    "CONNECT": (b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", 501, "CONNECT"),
    "many headers": (GET + b"a:b\r\n" * 300 + b"\r\n", 431, "200 lines"),
    "a long header": (GET + b"X: " + b"x" * MAX_HEAD + b"\r\n\r\n", 431, "at most 16384 bytes"),
    "a long target": (b"GET /" + b"x" * MAX_HEAD + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431, "at most 16384 bytes"),
}

# What is a request: its status, after which the next one on the connection is answered, too.
TAKEN = {
    "one length twice": (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 422),
    "chunks": (POST + CHUNKED + b"\r\n" + CHUNKS, 422),
    "chunks in capitals": (POST + CHUNKED.upper() + b"\r\n" + CHUNKS, 422),
    "chunks with extensions": (POST + CHUNKED + b"\r\n2;a=b\r\n{}\r\n0;c\r\n\r\n", 422),
    "chunks and a trailer": (POST + CHUNKED + b"\r\n2\r\n{}\r\n0\r\nContent-Length: 99\r\n\r\n", 422),
    "a folded header": (GET + b"X: a\r\n b\r\n\r\n", 200),
    "lines that end with LF": (GET.replace(b"\r", b"") + b"\n", 200),
    "an empty host": (b"GET /healthz HTTP/1.1\r\nHost:\r\n\r\n", 200),
    "a body that nobody reads": (GET + b"Content-Length: 5\r\n\r\nhello", 200),
    "chunks that nobody reads": (GET + CHUNKED + b"\r\n" + CHUNKS, 200),
    "a target with its host": (b"GET http://127.0.0.1:8000/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    "a target with a query": (b"GET HTTPS://localhost/healthz?a=b HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    "a target that is a host": (b"GET http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    "a host and a query": (b"GET http://localhost?a=/b HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    "another protocol, if you have it": (GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 200),
    "OPTIONS of nothing": (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "an unknown method": (b"FROB /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
}


def check_last(answer: Answered, status: int) -> None:
    """An answer in our form, after which the connection is closed."""
    assert answer.status == status
    assert answer.headers["connection"] == "close"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
    assert "date" in answer.headers
    for name, value in HEADERS:
        assert answer.headers[name.decode()] == value.decode()


@pytest.mark.parametrize("what", REFUSED)
def test_a_refusal_ends_the_connection_and_no_further_data_is_read(live: Live, what: str) -> None:
    data, status, says = REFUSED[what]
    (answer,) = talk(live, data + NEXT)
    check_last(answer, status)
    (message,) = json.loads(answer.body).values()
    assert says in message


@pytest.mark.parametrize("what", TAKEN)
def test_odd_but_valid_requests_are_answered_and_so_is_the_next_one(live: Live, what: str) -> None:
    data, status = TAKEN[what]
    first, last = talk(live, data + NEXT)
    assert first.status == status
    assert status == 200 or json.loads(first.body)["Error"]
    assert last.body == b"live"


def test_requests_sent_together_are_answered_in_their_order(live: Live) -> None:
    sent = (
        GET
        + b"\r\n"
        + POST
        + b"Content-Length: 2\r\n\r\n{}"
        + b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"
        + NEXT
    )
    assert [answer.status for answer in talk(live, sent)] == [200, 422, 404, 200]
    *good, bad = talk(live, GET + b"\r\n" + GET + b"\r\n" + b"hello\r\n\r\n")
    assert [answer.body for answer in good] == [b"Health"] * 2
    check_last(bad, 400)


def test_the_host_of_the_target_counts_and_not_the_header() -> None:
    connection = StrictConnection()
    connection.receive_data(b"GET http://target:1/a?b HTTP/1.1\r\nX-First: 1\r\nHost: header\r\n\r\n")
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    assert request.target == b"/a?b"
    assert list(request.headers) == [(b"host", b"target:1"), (b"x-first", b"1")]


def test_under_v1_it_is_refused_in_that_dialect(live: Live) -> None:
    both = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n" + CHUNKED
    (answer,) = talk(live, both + b"\r\n0\r\n\r\n" + NEXT)
    check_last(answer, 400)
    error = json.loads(answer.body)["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "bad_request")


def test_http_1_0_is_answered_once(live: Live) -> None:
    (answer,) = talk(live, b"GET /healthz HTTP/1.0\r\n\r\n" + NEXT)
    assert answer.body == b"Health"


def test_refusals_are_counted_and_the_log_does_not_grow_with_them(live: Live) -> None:
    def refusals() -> float:
        return live.metrics()['dalle_errors_total{code="bad_request"}']

    before = refusals()
    for _ in range(100):
        talk(live, b"hello\r\n\r\n")
    assert refusals() - before == 100
    assert live.log.count("Invalid HTTP request") < 50
    assert "Traceback" not in live.log
