"""Idempotency-Key over a real socket: which requests join a job, which results are kept, and the bounds of memory."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import socket
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from PIL import Image

from app.http.errors import IdempotencyConflict
from app.http.idempotency import Idempotency, fingerprint
from app.pool.job import Job, Outcome
from model.errors import DalleError, Overloaded, RequestCancelled
from model.inference.events import Painted
from tests.app.live import Live, ledger, one_process
from tests.app.puppets import order_of
from tests.app.quick import SIZE

NO_HEADER = pytest.param("\x7f", marks=one_process("the proxy refuses what is not HTTP"))
NAME = "Idempotency-Key"
PAINT, EDIT = "/v1/images/generations", "/v1/images/edits"
AGAIN = "idempotent-replayed"


@pytest.fixture
def key() -> dict[str, str]:
    """A header that no other test sends."""
    return {NAME: uuid.uuid4().hex}


def accepted(server: Live) -> float:
    return ledger(server.metrics())["accepted"]


@contextlib.contextmanager
def new_jobs(server: Live, count: int) -> Iterator[None]:
    """So many jobs are accepted while this lasts, and none is left."""
    before = accepted(server)
    yield
    server.wait(lambda: server.in_flight() == 0, "a job goes on")
    assert accepted(server) - before == count


def test_the_same_request_gets_the_same_pictures_and_paints_nothing(live: Live, key: dict[str, str]) -> None:
    body = {"text": "a red apple", "num_images": 2}  # the seed is chosen by the server
    with new_jobs(live, 1):
        first, second, third = (live.post(json=body, headers=key) for _ in range(3))
    assert first.status_code == 200
    assert first.content == second.content == third.content
    assert first.headers["x-seeds"] == second.headers["x-seeds"]
    assert AGAIN not in first.headers
    assert second.headers[AGAIN] == third.headers[AGAIN] == "true"
    form = {"text": "a red apple", "num_images": "2"}
    assert live.post(data=form, headers=key).content == first.content, "the same fields, sent otherwise"
    assert live.post(json=body, headers={NAME: "another"}).headers["x-seeds"] != first.headers["x-seeds"]
    assert live.metrics()["dalle_requests_joined_total"] >= 3


def test_a_repeated_answer_says_when_its_pictures_were_made(live: Live, key: dict[str, str]) -> None:
    first, second = (live.client.post(PAINT, json={"prompt": "a"}, headers=key) for _ in range(2))
    live.wait(lambda: time.time() >= first.json()["created"] + 1, "the clock stands still")
    third = live.client.post(PAINT, json={"prompt": "a"}, headers=key)
    assert first.content == second.content == third.content


def test_forms_are_compared_by_their_fields_and_files_not_by_their_bytes(live: Live, key: dict[str, str]) -> None:
    def ask(colour: str, seed: str = "1") -> httpx.Response:
        png = io.BytesIO()
        Image.new("RGB", (SIZE, SIZE), colour).save(png, "PNG")
        fields = {"prompt": "a", "keep_rows": "4", "seed": seed}
        return live.client.post(EDIT, data=fields, files={"image": png.getvalue()}, headers=key)

    with new_jobs(live, 1):
        first, second = ask("red"), ask("red")
        assert first.request.headers["content-type"] != second.request.headers["content-type"]  # the boundary
        assert ask("blue").status_code == ask("red", "2").status_code == 409
    assert first.json()["data"] == second.json()["data"]
    assert AGAIN in second.headers


def test_another_request_under_the_key_is_a_conflict(live: Live, key: dict[str, str]) -> None:
    assert live.post(json={"text": "a"}, headers=key).status_code == 200
    with new_jobs(live, 0):
        refused = live.post(json={"text": "b"}, headers=key)
        other = live.client.post(PAINT, json={"prompt": "a"}, headers=key)
    said = f"{NAME} must be new: another request had it in the last 10 minutes"
    assert (refused.status_code, refused.json()) == (409, {"Error": said})
    error = {"message": said, "type": "invalid_request_error", "param": None, "code": "idempotency_conflict"}
    assert (other.status_code, other.json()) == (409, {"error": error})
    assert other.headers["x-should-retry"] == "false"


def at_once(server: Live, count: int, ask: Callable[[], httpx.Response]) -> list[Future[httpx.Response]]:
    """So many requests sent from threads; comes back when the server has one job for them, and time for the others."""
    threads = ThreadPoolExecutor(count)
    futures = [threads.submit(ask) for _ in range(count)]
    threads.shutdown(wait=False)
    server.wait(lambda: server.in_flight() == 1, "no job")
    return futures


def joined(server: Live) -> float:
    return server.metrics()["dalle_requests_joined_total"]


def test_requests_that_come_while_it_runs_join_it(live: Live, key: dict[str, str]) -> None:
    body, before = {"text": "a", "num_images": 3}, joined(live)
    with new_jobs(live, 1), live.stopped():
        futures = at_once(live, 4, lambda: live.post(json=body, headers=key))
        live.wait(lambda: joined(live) == before + 3, "not all have joined")
        assert live.post(json={"text": "b"}, headers=key).status_code == 409
    answers = [future.result() for future in futures]
    assert len({answer.content for answer in answers}) == 1
    assert sum(AGAIN in answer.headers for answer in answers) == 3


def asking(server: Live, path: str, body: dict[str, Any], key: dict[str, str]) -> socket.socket:
    """A client that has sent its request and reads nothing."""
    content = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(content)}"]
    lines += ["Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in key.items()]
    url = httpx.URL(server.url)
    client = socket.create_connection((url.host, url.port or 0), timeout=30)
    client.sendall("\r\n".join([*lines, "", ""]).encode() + content)
    return client


@pytest.mark.parametrize("stream", [True, False])
def test_a_job_is_cancelled_only_when_its_last_client_leaves(live: Live, key: dict[str, str], stream: bool) -> None:
    body = {"prompt": "a", "n": 2, "stream": stream}
    before = ledger(live.metrics())["cancelled"]
    with new_jobs(live, 1), live.stopped():
        names = [uuid.uuid4().hex for _ in range(2)]
        first = asking(live, PAINT, body, key | {"X-Request-Id": names[0]})
        live.wait(lambda: live.in_flight() == 1, "no job")
        count = joined(live)
        (future,) = at_once(live, 1, lambda: live.client.post(PAINT, json=body, headers=key))
        second = asking(live, PAINT, body, key | {"X-Request-Id": names[1]})
        live.wait(lambda: joined(live) == count + 2, "they have not joined")
        for client in (first, second):
            client.close()
        for name in names:
            live.wait(lambda name=name: re.search(f"id={name} .*error=client_gone", live.log), "nobody saw it leave")
        assert live.in_flight() == 1
    answer = future.result()
    assert answer.status_code == 200
    assert ledger(live.metrics())["cancelled"] == before

    key = {NAME: uuid.uuid4().hex}
    with new_jobs(live, 2):
        with live.stopped():
            clients = [asking(live, PAINT, body, key)]
            live.wait(lambda: live.in_flight() == 1, "no job")
            count = joined(live)
            clients.append(asking(live, PAINT, body, key))
            live.wait(lambda: joined(live) == count + 1, "it has not joined")
            for client in clients:
                client.close()
            live.wait(lambda: ledger(live.metrics())["cancelled"] == before + 1, "the job goes on")
        again = live.client.post(PAINT, json=body, headers=key)
        assert again.status_code == 200
        assert AGAIN not in again.headers


def test_a_refused_or_failed_request_may_be_tried_again(live: Live, key: dict[str, str]) -> None:
    assert live.post(json={"text": "a", "top_k": 17}, headers=key).status_code == 422
    with live.stopped():
        late = live.post(json={"text": "a"}, headers=key | {"X-Request-Timeout": "0.3"})
        assert late.status_code == 504
    with new_jobs(live, 1):
        for again in (False, True):
            answer = live.post(json={"text": "a"}, headers=key)
            assert answer.status_code == 200
            assert (AGAIN in answer.headers) == again


def test_a_request_that_joins_has_its_own_deadline(live: Live, key: dict[str, str]) -> None:
    with new_jobs(live, 1), live.stopped():
        (future,) = at_once(live, 1, lambda: live.post(json={"text": "a"}, headers=key))
        late = live.post(json={"text": "a"}, headers=key | {"X-Request-Timeout": "0.3"})
        assert late.status_code == 504
        assert late.json()["Error"] == "the request was not done within its 0.3 s"
        assert live.in_flight() == 1
    assert future.result().status_code == 200


def events(text: str) -> list[dict[str, Any]]:
    """Of a whole stream, without their times."""
    *blocks, done = (line for line in text.splitlines() if line.startswith("data: "))
    assert done == "data: [DONE]"
    found = [json.loads(block.removeprefix("data: ")) for block in blocks]
    return [{name: value for name, value in event.items() if name != "created_at"} for event in found]


def test_a_stream_is_joined_and_told_again(live: Live, key: dict[str, str]) -> None:
    body = {"prompt": "a red apple", "n": 3, "stream": True, "every_rows": 1}

    def ask() -> httpx.Response:
        return live.client.post(PAINT, json=body, headers=key)

    before = joined(live)
    with new_jobs(live, 1):
        with live.stopped():
            futures = at_once(live, 3, ask)
            live.wait(lambda: joined(live) == before + 2, "not all have joined")
        live_streams = [events(future.result().text) for future in futures]
        replay = ask()
    assert replay.headers[AGAIN] == "true"
    assert replay.headers["content-type"].startswith("text/event-stream")
    finished = events(replay.text)
    assert [event["type"] for event in finished] == ["image_generation.completed"] * 3
    pictures = {event["index"]: event["b64_json"] for event in finished}
    for stream in live_streams:
        shown = [event for event in stream if event["type"].endswith("partial_image")]
        assert {event["index"]: event["b64_json"] for event in stream if event not in shown} == pictures
        assert {event["index"] for event in shown} <= {0, 1, 2}
    assert sum(event["usage"]["output_tokens"] for event in finished) == 3 * 64  # cells


@pytest.mark.parametrize("value", ["", "has space", "x" * 256, "schlüssel", NO_HEADER])
@pytest.mark.parametrize("path", ["/generate", PAINT, EDIT])
def test_a_wrong_key_is_refused_with_the_limits_of_keys(live: Live, path: str, value: str) -> None:
    body: dict[str, Any] = {"json": {"text": "a"} if path == "/generate" else {"prompt": "a"}}
    if path == EDIT:
        body = {"data": {"prompt": "a"}, "files": {"image": b"not read"}}
    answer = live.client.post(path, **body, headers={NAME.encode(): value.encode()})
    assert answer.status_code == 400
    said = answer.json()["Error"] if path == "/generate" else answer.json()["error"]["message"]
    assert said.startswith(f"{NAME} must be 1 to 255 visible ASCII characters without spaces, got ")
    if len(value) > 255:
        assert said.endswith("got 256 characters")


def test_a_key_of_255_characters_is_one_and_two_keys_are_none(live: Live) -> None:
    assert live.post(json={"text": "a"}, headers={NAME: "~" * 255}).status_code == 200
    kind = ("Content-Type", "application/json")
    twice = live.post(content=b'{"text": "a"}', headers=[kind, (NAME, "a"), (NAME, "a")])
    assert twice.status_code == 400
    assert "must be given once, got 2" in twice.json()["Error"]


# --- the bounds, without a server

PICTURE = 1000  # bytes


class Desk:
    """Takes requests and finishes them at once, with a picture of PICTURE bytes."""

    def __init__(self) -> None:
        self.made = 0

    async def submit(self) -> Job:
        self.made += 1
        job = Job(order_of("", shared=True), 0)
        job.post(Painted(job.id, 0, bytes(PICTURE), b"", 0.1), 0)
        job.end(Outcome.COMPLETED)
        return job


def scene(play: Callable[[Desk], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(play(Desk()))


def test_beyond_its_bounds_the_oldest_result_is_forgotten() -> None:
    async def play(desk: Desk) -> None:
        for kept in (Idempotency(3 * PICTURE + 1), Idempotency(1 << 30, results=3)):
            jobs = [await kept.job(("", str(name)), b"", desk.submit) for name in range(5)]
            assert kept.kept_bytes == 3 * PICTURE
            for name in (2, 3, 4):
                assert await kept.job(("", str(name)), b"", desk.submit) is jobs[name]
            assert await kept.job(("", "0"), b"another request", desk.submit) not in jobs
            assert kept.kept_bytes == 3 * PICTURE

    scene(play)


def test_a_result_larger_than_the_bound_is_not_kept_and_displaces_nothing() -> None:
    async def play(desk: Desk) -> None:
        kept = Idempotency(PICTURE - 1)
        first = await kept.job(("", "a"), b"", desk.submit)
        assert await kept.job(("", "a"), b"", desk.submit) is not first
        assert kept.kept_bytes == 0

    scene(play)


def test_a_result_is_kept_for_its_time_only() -> None:
    async def play(desk: Desk) -> None:
        kept = Idempotency(1 << 30, seconds=0.01)
        await kept.job(("", "a"), b"", desk.submit)
        while kept.kept_bytes:
            await asyncio.sleep(0.001)
        await kept.job(("", "a"), b"another request", desk.submit)
        assert desk.made == 2

    scene(play)


def test_the_same_key_of_two_clients_is_two_keys() -> None:
    async def play(desk: Desk) -> None:
        kept = Idempotency(1 << 30)
        first = await kept.job(("one", "a"), b"one", desk.submit)
        second = await kept.job(("two", "a"), b"two", desk.submit)
        assert first is not second
        with pytest.raises(IdempotencyConflict):
            await kept.job(("one", "a"), b"two", desk.submit)

    scene(play)


def test_all_who_wait_for_a_submission_get_its_error_and_the_next_one_tries_again() -> None:
    async def play(desk: Desk) -> None:
        kept = Idempotency(1 << 30)
        gate = asyncio.Event()

        async def full() -> Job:
            await gate.wait()
            raise Overloaded("full", 1.0)

        waiting = [asyncio.create_task(kept.job(("", "a"), b"", full)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # the one that it was begun for
        gate.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in found] == [asyncio.CancelledError, Overloaded, Overloaded]
        await kept.job(("", "a"), b"another request", desk.submit)

    scene(play)


def test_a_request_that_joins_a_cancelled_job_gets_a_new_one() -> None:
    async def play(desk: Desk) -> None:
        kept = Idempotency(1 << 30)

        async def cancelled_at_first() -> Job:
            if desk.made:
                return await desk.submit()
            desk.made = 1
            job = Job(order_of("", shared=True), 0)
            job.end(Outcome.CANCELLED, RequestCancelled())
            return job

        first, second = await asyncio.gather(*(kept.job(("", "a"), b"", cancelled_at_first) for _ in range(2)))
        assert first is second
        assert first.outcome is Outcome.COMPLETED
        assert desk.made == 2

    scene(play)


def test_a_failed_job_is_told_to_all_who_joined_it_and_forgotten() -> None:
    async def play(desk: Desk) -> None:
        kept = Idempotency(1 << 30)

        async def running() -> Job:
            return Job(order_of("", shared=True), 0)

        job = await kept.job(("", "a"), b"", running)
        readers = [job.join(), (await kept.job(("", "a"), b"", running)).join()]
        assert [reader.joined for reader in readers] == [False, True]
        job.end(Outcome.FAILED, DalleError("no"))
        for reader in readers:
            with pytest.raises(DalleError, match="no"):
                await anext(reader)
        assert await kept.job(("", "a"), b"", desk.submit) is not job

    scene(play)


def test_no_two_requests_that_differ_look_the_same() -> None:
    asked: list[tuple[str, str, dict[str, list[bytes]]]] = [
        ("/a", "{}", {}), ("/b", "{}", {}), ("/a", "{ }", {}), ("/a{", "}", {}), ("/a", "{}", {"x": [b"y"]}),
        ("/a", "{}", {"x": [b"y", b"z"]}), ("/a", "{}", {"x": [b"yz"]}), ("/a", "{}", {"x": [b""], "y": [b""]}),
        ("/a", "{}", {"xy": [b"", b""]}), ("/a", "{}", {"x": [b"z", b"y"]}),
    ]  # fmt: skip
    assert len({fingerprint(*one) for one in asked}) == len(asked)
    assert fingerprint("/a", "{}", {"x": [b"1"], "y": [b"2"]}) == fingerprint("/a", "{}", {"y": [b"2"], "x": [b"1"]})
