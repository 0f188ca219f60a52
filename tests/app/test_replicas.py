"""The front and a replica, without Ray: what a client sees if replicas die, and if it leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from app.replicas.front import Front, Message
from app.replicas.replica import Replica
from app.settings import Settings


class Lost(Exception):
    """A replica died."""


def start(kind: str = "application/json", status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind.encode())]}


def part(data: str, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data.encode(), "more_body": more}


def ask(
    lives: Sequence[Sequence[Message]], method: str = "POST", path: str = "/generate", body: bytes = b"{}"
) -> tuple[httpx.Response, list[dict[str, Any]]]:
    """Ask a front whose replicas say this, each until it dies; the last of several one does not."""
    asked: list[dict[str, Any]] = []

    async def call(scope: dict[str, Any], body: bytes) -> AsyncIterator[Message]:
        asked.append({**scope, "body": body})
        for message in lives[min(len(asked), len(lives)) - 1]:
            yield message
        if len(asked) < len(lives) or len(lives) == 1:
            raise Lost

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(Front(call, lambda error: isinstance(error, Lost), 1000))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, content=body)

    return asyncio.run(run()), asked


def test_an_answer_comes_whole_from_one_replica() -> None:
    answer, asked = ask([[], [start(), part('["a')], [start(), part('["b'), part('"]', more=False)]])
    assert (answer.status_code, answer.json()) == (200, ["b"])
    assert len(asked) == 3
    assert len({one["state"]["seed"] for one in asked}) == 1


def test_a_stream_goes_on_and_tells_nothing_twice() -> None:
    def event(kind: str, index: int, row: int | None = None, made: int = 0) -> str:
        values = {"type": kind, "index": index, "created_at": made}
        return f"data: {json.dumps(values if row is None else {**values, 'partial_image_index': row})}\n\n"

    first = [event("partial", 0, 0), event("partial", 0, 1), event("completed", 0)]
    second = [event("partial", 0, 0, 9), event("completed", 0, None, 9), event("partial", 1, 0, 9), "data: [DONE]\n\n"]
    cut = first[2][:20]
    answer, _ = ask(
        [
            [start("text/event-stream; charset=utf-8"), *map(part, first[:2]), part(first[2] + cut)],
            [start("text/event-stream"), part("".join(second)[:70]), part("".join(second)[70:]), part("", more=False)],
        ]
    )
    assert answer.text == "".join(first) + second[2] + second[3]


def test_replicas_that_die_again_and_again_are_a_503() -> None:
    answer, asked = ask([[start()]], path="/v1/images/generations")
    assert (answer.status_code, len(asked)) == (503, 5)
    assert answer.json()["error"]["code"] == "worker_failed"
    assert int(answer.headers["retry-after"]) > 0


def test_a_job_has_one_key_and_a_body_its_bound() -> None:
    whole = [start(status=202), part("{}", more=False)]
    _, asked = ask([[], whole], path="/v1/jobs", body=b"x" * 5000)
    keys = [value for one in asked for name, value in one["headers"] if name == b"idempotency-key"]
    assert len(keys) == 2
    assert keys[0] == keys[1]
    assert 1000 < len(asked[0]["body"]) <= 5000


def test_a_replica_is_the_application(quick_checkpoint: Path, tmp_path: Path) -> None:
    async def scene() -> None:
        settings = Settings(weights=(str(quick_checkpoint),), threads=1, slots=4, store=tmp_path, device="cpu")
        replica = Replica(settings)
        await replica.start()
        try:
            front = Front(replica.answer, lambda _: False, settings.max_body)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url="http://localhost") as client:
                one = await client.post("/generate", json={"text": "a cat", "seed": 3})
                two = await client.post("/generate", json={"text": "a cat"})
                assert (one.status_code, two.status_code) == (200, 200)
                assert one.json() != two.json()
                stream = await client.post("/v1/images/generations", json={"prompt": "a cat", "stream": True})
                assert stream.text.endswith("data: [DONE]\n\n")
            scope = {"type": "http", "method": "POST", "path": "/v1/images/generations", "query_string": b""}
            scope |= {"headers": [(b"content-type", b"application/json")], "client": ("127.0.0.1", 1)}
            body = json.dumps({"prompt": "a cat", "n": 10, "stream": True}).encode()
            messages = replica.answer(scope, body)
            assert (await anext(messages))["status"] == 200
            await messages.aclose()  # type: ignore[attr-defined]
            stats = replica.pool.stats()
            assert (stats.in_flight, stats.cancelled) == (0, 1)
            replica.check_health()
        finally:
            await replica.stop()

    asyncio.run(scene())
