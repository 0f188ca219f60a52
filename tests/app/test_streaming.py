"""Server-sent events as they are on the wire: order, progress, keep-alive, slow readers and clients that leave."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from PIL import Image

from tests.app.live import Live, ended_since, ledger, one_process
from tests.app.quick import SIZE

GRID = 8
PATH = "/v1/images/generations"
COMMENT = ": progress "
BIG = {"size": "1024x1024", "every_rows": 1}  # a picture is more than the sockets hold back


class Told(NamedTuple):
    """One block of a stream."""

    kind: str  # progress, partial_image, completed, error, done
    value: dict[str, Any]


def blocks(answer: httpx.Response) -> Iterator[Told]:
    for line in answer.iter_lines():
        if line.startswith(COMMENT):
            yield Told("progress", json.loads(line.removeprefix(COMMENT)))
        elif line == "data: [DONE]":
            yield Told("done", {})
        elif line:
            assert line.startswith("data: "), line
            value = json.loads(line.removeprefix("data: "))
            yield Told("error", value["error"]) if "error" in value else Told(value["type"].partition(".")[2], value)


@contextlib.contextmanager
def streaming(server: Live, headers: dict[str, str] | None = None, **fields: Any) -> Iterator[Iterator[Told]]:
    body = {"prompt": "a red apple", "stream": True, **fields}
    with server.client.stream("POST", PATH, json=body, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        yield blocks(answer)


@pytest.fixture(scope="module")
def strict(quick_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that says something twice a second, and gives a reader one second."""
    log = tmp_path_factory.mktemp("strict") / "log"
    with Live(quick_checkpoint, log, keep_alive=0.5, send_timeout=1) as server:
        yield server.ready()


def test_rows_appear_one_after_another(live: Live) -> None:
    pictures = live.pictures(text="a red apple", num_images=2, seed=3, index=5)
    with streaming(live, n=2, seed=3, index=5, every_rows=3) as told:
        first, *rest, last = told
    assert first.kind == "progress"
    assert first.value.keys() == {"queue_position", "rows_done", "rows", "seconds_left"}
    assert first.value["rows"] == GRID
    assert first.value["seconds_left"] > 0 or first.value["rows_done"] == [GRID, GRID]
    assert last.kind == "done"
    events = [block.value for block in rest if block.kind != "progress"]
    done = {event["index"]: event["b64_json"] for event in events if event["type"].endswith("completed")}
    assert [done[5], done[6]] == pictures
    for event in events:
        assert (event["size"], event["quality"], event["background"]) == (f"{SIZE}x{SIZE}", "auto", "opaque")
        assert (event["seed"], event["rows"], event["queue_position"]) == (3, GRID, 0)
        if event["type"].endswith("partial_image"):
            assert event["rows_done"] == 3 * (event["partial_image_index"] + 1)
            picture = Image.open(io.BytesIO(base64.b64decode(event["b64_json"])))
            below = picture.crop((0, SIZE * event["rows_done"] // GRID, SIZE, SIZE))
            assert below.getcolors() == [(below.width * below.height, (237, 237, 237))]
    assert sum(event["usage"]["total_tokens"] for event in events if "usage" in event) == 2 * GRID**2 + 3
    assert events[-1]["seconds_left"] == 0


def test_unfinished_pictures_come_when_there_is_time_to_paint_them(live: Live) -> None:
    def some() -> bool:
        with ThreadPoolExecutor(1) as threads:
            asking = threads.submit(
                live.client.post,
                "/v1/images/generations",
                json={"prompt": "a", "n": 10, "stream": True, "every_rows": 1},
            )
            while not asking.done():
                live.let_frames_come()
            return "partial_image" in asking.result().text

    assert live.wait(some, "no unfinished picture comes")


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_unfinished_pictures_have_the_format_and_size_that_was_asked_for(live: Live, kind: str) -> None:
    with streaming(live, output_format=kind, size="128x128", partial_images=3) as told:
        events = [block.value for block in told if block.kind in ("partial_image", "completed")]
    assert events
    for event in events:
        picture = Image.open(io.BytesIO(base64.b64decode(event["b64_json"])))
        assert (picture.format, picture.size) == (kind.upper(), (128, 128))
        assert (event["output_format"], event["size"]) == (kind, "128x128")


@one_process("another replica may begin it at once")
def test_a_waiting_request_is_told_its_place_and_comments_break_the_silence(strict: Live) -> None:
    with strict.stopped(), streaming(strict, n=7) as first:
        assert next(first).value["queue_position"] == 0
        with streaming(strict, n=2) as second:
            comments = [next(second) for _ in range(3)]
            assert {block.kind for block in comments} == {"progress"}
            assert [block.value["queue_position"] for block in comments] == [7, 7, 7]
            assert comments[0].value["rows_done"] == [0, 0]
            assert comments[0].value["seconds_left"] > 0
    strict.wait(lambda: strict.in_flight() == 0, "jobs of clients that left go on")
    ledger(strict.metrics())


def test_a_failure_in_mid_stream_is_an_event_and_the_last_one(strict: Live) -> None:
    name = 'dalle_errors_total{code="deadline_exceeded"}'
    count = strict.metrics()[name]
    with strict.stopped(), streaming(strict, {"X-Request-Timeout": "2"}) as told:
        *before, last = told
    assert {block.kind for block in before} == {"progress"}
    assert last.kind == "error"
    assert last.value == {
        "message": "the request was not done within its 2 s",
        "type": "server_error",
        "param": None,
        "code": "deadline_exceeded",
    }
    assert strict.metrics()[name] == count + 1


def test_a_text_that_was_cut_is_told_of(live: Live) -> None:
    body = {"prompt": "🦆" * 100, "truncate": True}
    for stream in (True, False):
        with live.client.stream("POST", PATH, json={**body, "stream": stream}) as answer:
            assert answer.headers["x-text-truncated"] == "256 of 401 tokens"
            assert "content-length" not in answer.headers or not stream


def deaf(server: Live, body: dict[str, Any]) -> socket.socket:
    """A client that sends its request and reads nothing."""
    content = json.dumps({"prompt": "a red apple", "stream": True, **body}).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((httpx.URL(server.url).host, httpx.URL(server.url).port or 0))
    client.sendall(head.encode() + content)
    return client


def sockets(server: Live) -> int:
    """Open ones of the server's process."""
    links = []
    for link in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it was closed meanwhile
            links.append(str(link.readlink()))
    return sum(link.startswith("socket:") for link in links)


@one_process("the proxy holds what a client does not read, and nobody cuts it")
def test_a_reader_that_stops_is_cut_off_and_nothing_is_kept_for_it(strict: Live) -> None:
    name = 'dalle_errors_total{code="reader_too_slow"}'
    before, open_before = strict.metrics()[name], sockets(strict)
    with deaf(strict, {**BIG, "n": 10}):
        strict.wait(lambda: strict.metrics()[name] > before, "it is not cut off")
        strict.wait(lambda: sockets(strict) <= open_before, "its connection is still open")
        assert strict.in_flight() == 0
    assert "without completing response" not in strict.log


def test_a_slow_reader_misses_frames_and_gets_every_picture(live: Live) -> None:
    completed = ledger(live.metrics())["completed"]
    with deaf(live, BIG) as client:
        live.wait(lambda: ledger(live.metrics())["completed"] == completed + 1, "the pictures are not painted")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        received = b""
        while b"data: [DONE]" not in received[-100:]:
            received += client.recv(1 << 20)
    assert received.count(b'"type":"image_generation.completed"') == 1
    assert received.count(b'"type":"image_generation.partial_image"') < GRID - 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("running", [True, False])
def test_a_client_that_leaves_frees_its_slots_and_disturbs_nobody(live: Live, stream: bool, running: bool) -> None:
    body = {"text": "a blue circle", "num_images": 2, "seed": 9}
    expected = live.pictures(**body)
    leaver = {"stream": True, "n": 10, "every_rows": 1} if stream else {"stream": False, "best_of": 16}

    def in_mid_picture() -> bool:
        """Whether the client left in time: a worker that inched on for too long may have painted it all."""
        before = ledger(live.metrics())
        with ThreadPoolExecutor(1) as threads:
            with live.stopped():
                with deaf(live, leaver):
                    live.wait(lambda: live.in_flight() == 1, "the job is not accepted")
                    neighbour = threads.submit(live.pictures, **body)
                    live.wait(lambda: live.in_flight() == 2, "the neighbour is not accepted")
                    if running:
                        live.inch()  # some steps together
                live.wait(lambda: live.in_flight() <= 1, "the job goes on")
            assert neighbour.result() == expected
        ended = ended_since(live, before)
        assert ended["cancelled"] + ended["completed"] == ended["accepted"] == 2
        return ended["cancelled"] == 1

    live.wait(in_mid_picture, "the client that left was painted for")
