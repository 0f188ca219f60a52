"""Clients that connect and then send nothing, or too slowly, or come in numbers; and descriptors that run short."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.http.connections import MAX_CONNECTIONS, MIN_CONNECTIONS, connection_limit
from tests.app.live import COMMAND, Live
from tests.app.raw import SECONDS, Answered, answers, closed, connect, read_to_end, read_until, talk
from tests.app.test_protocol import GET, NEXT, check_last

Start = Callable[..., Live]
NEVER = f"""
from app import server
from app.http import body, protocol
protocol.HEAD_SECONDS = body.BODY_SECONDS = server.KEEP_ALIVE = 1e6
{COMMAND}"""
DESCRIPTORS = 256
FEW = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS},) * 2)\n{NEVER}"
LIMIT = connection_limit(DESCRIPTORS, workers=1)
# While the file `short` is there the server has no descriptor left; it says so by the folder `is_short`.
SHORT = """
import os
from app import server
tick, held = server.Server.on_tick, []
async def on_tick(self, counter):
    if os.path.exists({short!r}) and not held:
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            os.mkdir({is_short!r})
    if not os.path.exists({short!r}):
        while held:
            os.close(held.pop())
    return await tick(self, counter)
server.Server.on_tick = on_tick
"""


@pytest.fixture
def sockets() -> Iterator[contextlib.ExitStack]:
    """What is entered here is closed after the test."""
    with contextlib.ExitStack() as stack:
        yield stack


def wait_closed(server: Live, connection: socket.socket) -> None:
    server.wait(lambda: closed(connection), "a connection was not closed")


def busy(server: Live, stack: contextlib.ExitStack) -> socket.socket:
    """A connection in the middle of a request: the server waits for the body."""
    one = stack.enter_context(connect(server))
    kind = b"Content-Type: application/json\r\nContent-Length: 20\r\n"
    one.sendall(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n" + kind + b"\r\n")
    assert read_until(one, b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
    return one


def health(server: Live) -> Answered:
    (answer,) = talk(server, GET + b"Connection: close\r\n\r\n")
    return answer


def test_a_connection_that_waits_too_long_is_closed(start: Start, sockets: contextlib.ExitStack) -> None:
    short = "from app import server; from app.http import protocol; protocol.HEAD_SECONDS = server.KEEP_ALIVE = 2\n"
    server = start(command=short + COMMAND)
    later = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n"
    sent = {
        "nothing": b"",
        "half a head": GET,
        "half a line": b"GET /hea",
        "a request": GET + b"\r\n",
        "a request and half a head": GET + b"\r\n" + GET,
        "half a body that nobody reads": later + b"hel",
    }
    assert server.url
    server.process.send_signal(signal.SIGSTOP)  # it sees all connections and their bytes at once
    opened = {what: sockets.enter_context(connect(server)) for what in sent}
    for what, data in sent.items():
        opened[what].sendall(data)
    server.process.send_signal(signal.SIGCONT)
    late = sockets.enter_context(connect(server))
    late.sendall(later)
    read_until(late, b"}")
    late.sendall(b"hello")
    trickling = sockets.enter_context(connect(server))
    trickling.sendall(GET + b"X: ")
    until = time.monotonic() + SECONDS
    trickling.settimeout(0.05)
    told = b""
    while not told and time.monotonic() < until:
        with contextlib.suppress(ConnectionError):  # it is closed already, and the answer is there
            trickling.sendall(b"x")
        with contextlib.suppress(TimeoutError):
            told = trickling.recv(1 << 16)
    assert told, "every byte gives it more time"
    trickling.settimeout(SECONDS)
    check_last(answers(told + read_to_end(trickling))[-1], 408)

    wait_closed(server, late)
    found = {what: answers(read_to_end(one)) for what, one in opened.items()}
    assert {what: [answer.status for answer in said] for what, said in found.items()} == {
        "nothing": [],
        "half a head": [408],
        "half a line": [408],
        "a request": [200],
        "a request and half a head": [200, 408],
        "half a body that nobody reads": [404],
    }
    check_last(found["half a head"][0], 408)
    assert json.loads(found["half a head"][0].body) == {"Error": "the request's head did not arrive within 2 s"}
    assert "Traceback" not in server.log


def test_a_connection_with_an_unread_answer_is_closed(start: Start, sockets: contextlib.ExitStack) -> None:
    server = start(command=f"from app import server; server.KEEP_ALIVE = 1\n{COMMAND}", send_timeout=1).ready()
    body = json.dumps({"prompt": "a red apple", "n": 10, "size": "1024x1024"}).encode()
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n".encode()
    polls = []
    for last in (b"", b"Connection: close\r\n"):
        one = sockets.enter_context(socket.socket())
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.settimeout(SECONDS)
        host, port = server.url.removeprefix("http://").split(":")
        one.connect((host, int(port)))
        one.sendall(head + b"Content-Type: application/json\r\n" + last + b"\r\n" + body)
        polls.append(select.poll())
        polls[-1].register(one, 0)
    for poll in polls:
        server.wait(lambda poll=poll: poll.poll(0), "the connection is kept for a client that does not read")
    assert server.metrics()["dalle_pictures_total"] == 20


def test_the_longest_silent_connection_gives_way_and_a_worker_is_replaced_meanwhile(
    start: Start, sockets: contextlib.ExitStack
) -> None:
    server = start(command=FEW).ready()
    working = busy(server, sockets)
    silent = [sockets.enter_context(connect(server)) for _ in range(LIMIT + 30)]
    for one in silent[:30]:
        wait_closed(server, one)
    assert health(server).body == b"Health"
    (worker,) = server.workers()
    os.kill(worker, signal.SIGKILL)
    server.wait(lambda: server.workers() not in ([], [worker]), "the worker was not replaced")
    server.ready()
    assert len(server.pictures(text="a red apple")) == 1
    assert not closed(silent[-1])
    working.setblocking(True)
    working.sendall(b'{"text": "a cat"}'.ljust(20))
    assert working.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    assert server.log.count("gave way") < 30
    assert "cannot be accepted" not in server.log


def test_if_all_connections_have_requests_a_new_one_gets_503(start: Start, sockets: contextlib.ExitStack) -> None:
    server = start(command=FEW).ready()
    server.client.close()
    working = [busy(server, sockets) for _ in range(LIMIT)]
    for _ in range(100):
        answer = health(server)
        check_last(answer, 503)
        assert int(answer.headers["retry-after"]) > 0
        assert json.loads(answer.body) == {"Error": "too many connections are open"}
    for _ in range(DESCRIPTORS):  # who do not read the refusal, nor leave, take no descriptors for long
        sockets.enter_context(connect(server))
    check_last(health(server), 503)
    working.pop().close()
    server.wait(lambda: health(server).status == 200, "nobody is let in again")
    assert server.log.count("a connection was refused") < 50
    assert "cannot be accepted" not in server.log


def test_the_server_survives_a_shortage_of_descriptors(
    start: Start, tmp_path: Path, sockets: contextlib.ExitStack
) -> None:
    short, is_short = tmp_path / "short", tmp_path / "is-short"
    breaks = SHORT.format(short=str(short), is_short=str(is_short))
    server = start(command=f"from app import logs; logs.SELDOM = 0.5\n{breaks}{FEW}").ready()
    server.client.close()
    idle = sockets.enter_context(connect(server))
    idle.sendall(GET + b"\r\n")
    read_until(idle, b"Health")
    began = time.monotonic()
    short.touch()
    server.wait(is_short.exists, "the descriptors are not used up")
    # There is no descriptor for a new connection, but for what waits for nothing.
    other = busy(server, sockets)
    assert closed(idle)
    pending = sockets.enter_context(connect(server))
    pending.sendall(NEXT)
    tried = server.log.count("cannot be accepted")
    server.wait(lambda: server.log.count("cannot be accepted") > tried + 1, "nothing was tried")
    short.unlink()
    assert [answer.body for answer in answers(read_to_end(pending))] == [b"live"]
    assert health(server).status == 200
    assert not closed(other)
    seconds = time.monotonic() - began
    assert server.log.count("cannot be accepted: Too many open files") <= 2 + seconds / 0.5
    assert "Traceback" not in server.log


def test_sigterm_does_not_wait_for_silent_connections(start: Start, sockets: contextlib.ExitStack) -> None:
    server = start(command=NEVER, drain=3000).ready()
    for index in range(300):
        one = sockets.enter_context(connect(server))
        one.sendall([b"", GET, GET + b"\r\n"][index % 3])
    assert health(server).status == 200
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(SECONDS) == 0
    assert "timeout graceful shutdown exceeded" not in server.log


def test_the_limit_of_connections_leaves_descriptors_for_all_else() -> None:
    assert connection_limit(1024, workers=1) == 440
    assert connection_limit(1024, workers=8) < 440
    assert connection_limit(1 << 20, workers=1) == MAX_CONNECTIONS
    assert connection_limit(64, workers=1) == MIN_CONNECTIONS
