"""The front and a replica, without Ray: what a client sees if replicas die, and if it leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.http.keys import Hook
from app.pool.job import Elsewhere
from app.replicas.front import Front, Message
from app.replicas.replica import Replica
from app.replicas.tally import Asked, Tally
from app.replicas.whole import Report, Whole
from app.settings import Settings
from tests.app.live import samples


class Lost(Exception):
    """A replica died."""


def start(kind: str = "application/json", status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind.encode())]}


def part(data: str, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data.encode(), "more_body": more}


class Puppets:
    """Replicas that say this, each until it dies; the last of several one does not."""

    def __init__(self, lives: Sequence[Sequence[Message]], told: Sequence[Report] = ()) -> None:
        self.asked: list[dict[str, Any]] = []
        self._lives = lives
        self.told = told

    async def call(self, scope: dict[str, Any], body: bytes, replica: str) -> AsyncIterator[Message]:
        self.asked.append({**scope, "body": body, "replica": replica})
        for message in self._lives[min(len(self.asked), len(self._lives)) - 1]:
            yield message
        if len(self.asked) < len(self._lives) or len(self._lives) == 1:
            raise Lost

    async def reports(self) -> Sequence[Report]:
        return self.told

    async def drain(self, seconds: float) -> None:
        raise NotImplementedError

    async def let_in(self, hangups: int, keys: Mapping[str, Hook | None]) -> None:
        raise NotImplementedError

    def lost(self, error: Exception) -> bool:
        return isinstance(error, Lost)


def ask(
    lives: Sequence[Sequence[Message]], method: str = "POST", path: str = "/generate", body: bytes = b"{}"
) -> tuple[httpx.Response, list[dict[str, Any]]]:
    """Ask a front before these puppets."""
    puppets = Puppets(lives)

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(Front(puppets, Settings(max_body=1024, max_upload=1024)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, content=body)

    return asyncio.run(run()), puppets.asked


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


class Held(Puppets):
    """A replica that answers when it is let go. drained, keys: what it was told."""

    def __init__(self, told: Sequence[Report] = ()) -> None:
        super().__init__([[start(), part("[]", more=False)]], told)
        self.began, self.go = asyncio.Event(), asyncio.Event()
        self.drained: list[float] = []
        self.keys: list[tuple[int, Mapping[str, Hook | None]]] = []

    async def call(self, scope: dict[str, Any], body: bytes, replica: str) -> AsyncIterator[Message]:  # noqa: ARG002
        self.began.set()
        await self.go.wait()
        for message in self._lives[0]:
            yield message

    async def drain(self, seconds: float) -> None:
        self.drained.append(seconds)
        self.go.set()

    async def let_in(self, hangups: int, keys: Mapping[str, Hook | None]) -> None:
        self.keys.append((hangups, keys))
        self.told = [replace(report, hangups=hangups) for report in self.told]
        self.go.set()


def test_the_drain_waits_for_what_was_accepted_and_takes_no_more() -> None:
    async def scene(seconds: float) -> list[float]:
        replicas = Held()
        front = Front(replicas, Settings())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url="http://test") as client:
            accepted = asyncio.create_task(client.post("/generate", json={"text": "a"}))
            await replicas.began.wait()
            draining = asyncio.create_task(front.drain(seconds))
            await asyncio.sleep(0)
            refused = await client.post("/generate", json={"text": "a"})
            assert (refused.status_code, "shutting down" in refused.text) == (503, True)
            assert (await client.get("/readyz")).status_code == 503
            if seconds:
                assert not draining.done()
                replicas.go.set()
            await draining
            assert accepted.done()
            assert (await accepted).status_code == 200
        return replicas.drained

    assert asyncio.run(scene(3600)) == []
    assert asyncio.run(scene(0)) == [0]  # what is left fails there


def test_a_replica_that_says_nothing_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.replicas.front.LATE_SECONDS", 0.0)

    async def scene() -> httpx.Response:
        front = Front(Held(), Settings())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url="http://test") as client:
            return await client.post("/generate", json={"text": "a"}, headers={"X-Request-Timeout": "0.1"})

    answer = asyncio.run(scene())
    assert (answer.status_code, answer.json()) == (504, {"Error": "the request was not done within its 0.1 s"})


def test_a_replica_that_was_starting_at_a_hangup_is_told_the_keys_too() -> None:
    async def scene() -> None:
        replicas, known = Held([Report("a", "", None)]), {"hash": None}
        front = Front(replicas, Settings())
        await front.let_in(known)
        replicas.told = [*replicas.told, Report("b", "", None)]
        replicas.go.clear()
        coming: asyncio.Queue[Message] = asyncio.Queue()
        coming.put_nowait({"type": "lifespan.startup"})
        told: list[Message] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            told.append(message)

        living = asyncio.create_task(front({"type": "lifespan"}, coming.get, send))
        await replicas.go.wait()
        coming.put_nowait({"type": "lifespan.shutdown"})
        await living
        assert replicas.keys == [(1, known), (1, known)]
        assert [message["type"] for message in told] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    asyncio.run(scene())


class Only:
    """One real replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def call(self, scope: dict[str, Any], body: bytes, replica: str) -> AsyncIterator[Message]:  # noqa: ARG002
        return self._replica.answer(scope, body)

    async def reports(self) -> Sequence[Report]:
        return [self._replica.report()]

    async def drain(self, seconds: float) -> None:
        await self._replica.drain(seconds)

    async def let_in(self, hangups: int, keys: Mapping[str, Hook | None]) -> None:
        await self._replica.let_in(hangups, keys)

    def lost(self, error: Exception) -> bool:  # noqa: ARG002
        return False


def metrics(done: int, running: int) -> str:
    """The metrics of a replica, in short."""
    return f"""# TYPE dalle_requests_accepted_total counter
dalle_requests_accepted_total {done + running}
# TYPE dalle_requests_ended_total counter
dalle_requests_ended_total{{outcome="completed"}} {done}
# TYPE dalle_requests_in_flight gauge
dalle_requests_in_flight {running}
# TYPE dalle_pictures_limit gauge
dalle_pictures_limit 128
# TYPE dalle_queue_seconds histogram
dalle_queue_seconds_bucket{{le="1.0"}} {done}
dalle_queue_seconds_bucket{{le="+Inf"}} {done}
dalle_queue_seconds_count {done}
dalle_queue_seconds_sum 2
"""


def test_metrics_are_those_of_all_replicas_and_never_go_back() -> None:
    told = [Report("a", metrics(5, 2), None), Report("b", metrics(7, 1), None)]

    async def report() -> Sequence[Report]:
        return told

    whole = Whole(report)

    def read() -> dict[str, float]:
        return samples((asyncio.run(whole.metrics()) or b"").decode())

    found = read()
    assert found == {
        "dalle_requests_accepted_total": 15, 'dalle_requests_ended_total{outcome="completed"}': 12,
        "dalle_requests_in_flight": 3, "dalle_pictures_limit": 128, 'dalle_queue_seconds_bucket{le="1.0"}': 12,
        'dalle_queue_seconds_bucket{le="+Inf"}': 12, "dalle_queue_seconds_count": 12, "dalle_queue_seconds_sum": 4,
    }  # fmt: skip
    told[:] = [Report("b", metrics(8, 3), None), Report("c", metrics(0, 0), None)]  # a died; b paints its requests
    found = read()
    assert found['dalle_requests_ended_total{outcome="completed"}'] == 13
    assert found["dalle_requests_accepted_total"] == 16
    assert found["dalle_requests_in_flight"] == 3
    assert read() == found


def test_the_replica_that_will_be_done_first_paints() -> None:
    told = [
        Report("slow", "", None, pace=1.0),
        Report("fast", "", None, frozenset({"", "large"}), pace=3.0),
        Report("away", "", "the model is being loaded"),
    ]

    async def report() -> Sequence[Report]:
        return told

    async def scene() -> None:
        whole = Whole(report)
        assert whole.choose("", 1, "", {}) == ""  # nobody is known
        await whole.reports()
        assert whole.pace == 4.0
        assert whole.choose("", 1, "", {}) == "fast"
        assert whole.choose("", 1, "", {"fast": 5}) == "slow"
        assert whole.choose("large", 1, "", {"fast": 5}) == "fast"  # the other one would have to load the model
        assert whole.choose("large", 1, "", {"fast": 99}) == "slow"
        keyed = {key: whole.choose("", 1, key, {}) for key in "abcdefgh"}
        assert set(keyed.values()) == {"slow", "fast", "away"}
        whole.lose("fast")
        assert whole.choose("", 1, "", {"slow": 99}) == "slow"
        for key, name in keyed.items():
            assert whole.choose("", 1, key, {"slow": 99}) == name or name == "fast"
        told.pop(0)
        told.pop(0)
        await whole.reports()
        assert whole.choose("", 1, "", {}) == "away"  # better than none

    asyncio.run(scene())


def test_probes_tell_of_the_whole() -> None:
    refused = [start("application/json", 503), part('{"Error": "no"}', more=False)]

    def probe(path: str, told: Sequence[Report]) -> int:
        async def run() -> int:
            front = Front(Puppets([[], refused], told), Settings())
            async with httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url="http://test") as client:
                return (await client.get(path)).status_code

        return asyncio.run(run())

    ready, away = Report("a", "", None), Report("b", "", "the model is being loaded")
    assert [probe("/readyz", told) for told in ((), (away,), (away, ready))] == [503, 503, 200]
    assert probe("/livez", ()) == 200


def test_the_bounds_of_the_queue_are_those_of_the_whole() -> None:
    async def scene() -> None:
        tally = Tally(Settings(queue=20, client_queue=12))
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "//generate/", "headers": headers, "client": ("1.2.3.4", 5)}
        ten = await tally.read(scope, b'{"text": "a", "num_images": 10, "model": "large"}')
        assert ten == Asked("large", 10)
        assert (await tally.read(scope, b'{"text": "a", "best_of": 4}')).pictures == 4
        assert (await tally.read(scope, b"no json")).pictures == 0
        assert (await tally.read({**scope, "path": "/v1/jobs"}, b'{"text": "a"}')).pictures == 0
        client = await tally.client(scope)
        assert client == "1.2.3.4"
        with tally.hold(ten, client) as first, tally.hold(ten, client) as second, tally.hold(ten, "other") as third:
            assert (first.own, second.own, third.own) == (0, 10, 0)
            assert third.models == {"large": 10}  # the second one found no room in its client's share
            with tally.hold(ten, "third") as full:
                assert sum(full.models.values()) == 20
        with tally.hold(ten, client) as last:
            assert (last.own, last.models) == (0, {})

    asyncio.run(scene())


def test_a_replica_is_the_application(quick_checkpoint: Path, tmp_path: Path) -> None:
    async def scene() -> None:
        settings = Settings(
            weights=(str(quick_checkpoint),), threads=1, slots=4, client_queue=20, store=tmp_path, device="cpu"
        )
        replica = Replica(settings, "a")
        await replica.start()
        try:
            front = Front(Only(replica), settings)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url="http://localhost") as client:
                one = await client.post("/generate", json={"text": "a cat", "seed": 3})
                two = await client.post("/generate", json={"text": "a cat"})
                assert (one.status_code, two.status_code) == (200, 200)
                assert one.json() != two.json()
                stream = await client.post("/v1/images/generations", json={"prompt": "a cat", "stream": True})
                assert stream.text.endswith("data: [DONE]\n\n")
                assert samples((await client.get("/metrics")).text)["dalle_requests_accepted_total"] == 3
                assert (await client.get("/readyz")).text == "ready"
            scope = {"type": "http", "method": "POST", "path": "/generate", "query_string": b""}
            scope |= {"headers": [(b"content-type", b"application/json")], "client": ("127.0.0.1", 1)}
            full, share = Elsewhere({"": settings.queue}, 0, pace=0.5), Elsewhere({}, 20, pace=2.0)
            for elsewhere, status, seconds in ((full, 503, 2 * settings.queue / 0.5), (share, 429, 2 * 20 / 2.0)):
                answer = replica.answer({**scope, "state": {"elsewhere": elsewhere}}, b'{"text": "a cat"}')
                (refused,) = [one async for one in answer if "status" in one]
                assert refused["status"] == status
                assert float(dict(refused["headers"])[b"retry-after"]) == seconds
            spent = replica.answer({**scope, "state": {"spent": settings.deadline}}, b'{"text": "a cat"}')
            assert [one["status"] async for one in spent if "status" in one] == [504]
            scope = {"type": "http", "method": "POST", "path": "/v1/images/generations", "query_string": b""}
            scope |= {"headers": [(b"content-type", b"application/json")], "client": ("127.0.0.1", 1)}
            body = json.dumps({"prompt": "a cat", "n": 10, "stream": True}).encode()
            messages = replica.answer(scope, body)
            assert (await anext(messages))["status"] == 200
            await messages.aclose()  # type: ignore[attr-defined]
            told = samples(replica.report().metrics)
            assert told["dalle_requests_in_flight"] == 0
            assert told['dalle_requests_ended_total{outcome="cancelled"}'] == 1
            replica.check_health()
            await front.let_in({})
            assert replica.report().hangups == 1
        finally:
            await replica.stop()

    asyncio.run(scene())
