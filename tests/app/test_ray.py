"""Replicas over a real Ray Serve on this machine. They are killed, more are started, and others end.

`REPLICAS=2 pytest tests/app` runs the other tests over Ray.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.app.asking_jobs import painted, pictures
from tests.app.live import Live, free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed"),
]
KILLS = 4
COUNT = 120  # pictures of a job
SETTING = "import app.ray as r; from app.load_settings import load_settings; r.CALM_SECONDS = 5.0; "
TWO = SETTING + "r.serve_by_ray(load_settings(), r.Replicas(least=2, most=2))"
ONE_OR_TWO = SETTING + "r.serve_by_ray(load_settings(), r.Replicas(least=1, most=2))"


@contextmanager
def serving(weights: Path, home: Path, command: str, **settings: object) -> Iterator[Live]:
    """A server over Ray; it must end with status 0."""
    given: dict[str, Any] = {"device": "cpu", "port": free_port(), "store": home / "store", **settings}
    with Live(weights, home / "log", [], command, **given) as live:
        try:
            yield live.ready()
        finally:
            live.process.send_signal(signal.SIGTERM)
            assert live.process.wait(120) == 0, live.log


@pytest.fixture(scope="module")
def server(quick_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server of two replicas."""
    with serving(quick_checkpoint, tmp_path_factory.mktemp("ray"), TWO) as live:
        yield live


def processes() -> Iterator[tuple[int, int, bytes]]:
    """(id, parent's id, command line) of every process."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            yield int(process.name), int(parent), (process / "cmdline").read_bytes()


def replicas(server: Live) -> dict[int, list[int]]:
    """The worker processes of each replica of this server, by the replica's id."""
    parents = {pid: parent for pid, parent, _ in processes()}

    def ours(pid: int) -> bool:
        while pid > 1 and pid != server.process.pid:
            pid = parents.get(pid, 0)
        return pid > 1

    found = [pid for pid, _, line in processes() if line.startswith(b"ray::ServeReplica:default:Replica") and ours(pid)]
    return {
        pid: [child for child, parent, line in processes() if parent == pid and b"spawn_main" in line] for pid in found
    }


def test_a_replica_that_is_killed_loses_no_request(server: Live) -> None:
    def ask(seed: int) -> Any:
        answer = server.generate(text="a cat", num_images=2, seed=seed)
        assert answer.status_code == 200, answer.text
        return answer.json()

    wanted = [ask(seed) for seed in range(8)]
    (victim, workers), *_ = server.wait(lambda: len(replicas(server)) == 2 and [*replicas(server).items()], "not two")
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)  # so that its requests stay in the middle of their pictures
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(ask, seed) for seed in range(8)]
        server.wait(lambda: sum(one.done() for one in asked) >= 1, "the other replica does not paint")
        assert not all(one.done() for one in asked), "the replica that is stopped has got nothing"
        os.kill(victim, signal.SIGKILL)
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        assert [one.result() for one in asked] == wanted
    server.wait(lambda: len(replicas(server)) == 2, "the replica is not replaced")


def test_while_all_replicas_are_away_probes_say_so_and_requests_wait(server: Live) -> None:
    wanted = generated(server, 5)
    for victim in server.wait(lambda: len(replicas(server)) == 2 and [*replicas(server)], "not two"):
        os.kill(victim, signal.SIGKILL)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(generated, server, 5)
        server.wait(lambda: server.client.get("/readyz").status_code == 503, "ready without a replica")
        assert server.client.get("/livez").text == "live"
        assert asked.result() == wanted
    server.ready().wait(lambda: len(replicas(server)) == 2, "not two")


def test_serve_run_builds_the_application_before_it_starts_ray(quick_checkpoint: Path) -> None:
    build = "import app.ray, ray; print(app.ray.app({'least': 1, 'most': 2})); ray.shutdown()"
    environ = {**os.environ, "DALLE_WEIGHTS": str(quick_checkpoint)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", build], env=environ, check=True, timeout=120)


def generated(server: Live, seed: int) -> list[str]:
    return server.pictures(text="a cat", num_images=6, seed=seed)


def streamed(server: Live, seed: int) -> list[str]:
    """The same pictures as `generated`, each told once."""
    body = {"prompt": "a cat", "n": 6, "seed": seed, "stream": True, "partial_images": 2}
    with server.client.stream("POST", "/v1/images/generations", json=body) as answer:
        told = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert told.pop() == "[DONE]"
    done = [event for event in map(json.loads, told) if event["type"] == "image_generation.completed"]
    return [event["b64_json"] for event in sorted(done, key=lambda event: int(event["index"]))]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_replicas_that_are_killed_at_random_moments_lose_no_picture_and_paint_none_twice(
    quick_checkpoint: Path, tmp_path: Path, database: str, request: pytest.FixtureRequest
) -> None:
    chance, seeds = random.Random(database), range(4)
    shared = {} if database == "sqlite" else {"store_database": request.getfixturevalue("postgres_database")}
    with serving(quick_checkpoint, tmp_path, TWO, **shared) as server, ThreadPoolExecutor(2 * len(seeds)) as threads:
        wanted = [generated(server, seed) for seed in seeds]
        where = (
            server.client.post("/v1/jobs", json={"text": "a cat", "count": COUNT, "seed": 7})
            .headers["location"]
            .split("/v1/")[1]
        )
        for _ in range(KILLS):
            server.wait(lambda: len(replicas(server)) == 2, "not two replicas")
            asked = [threads.submit(ask, server, seed) for seed in seeds for ask in (generated, streamed)]
            before = server.client.get(f"/v1/{where}").json()["pictures_done"]
            painted(server, where, min(COUNT, before + chance.randint(0, COUNT // KILLS)))
            os.kill(chance.choice([*replicas(server)]), signal.SIGKILL)
            assert [one.result() for one in asked] == [same for same in wanted for _ in range(2)]
        painted(server, where, COUNT)
        files = pictures(server, server.client.get(f"/v1/{where}").json())
        assert len(list((tmp_path / "store" / "pictures").rglob("*.png"))) == COUNT
        for first in range(0, COUNT, 10):
            same = server.pictures(text="a cat", num_images=10, seed=7, index=first, embed_prompt=True)
            assert [base64.b64decode(one) for one in same] == files[first : first + 10]
        with server.client.stream("GET", f"/v1/{where}/events") as answer:
            ids = [line for line in answer.iter_lines() if line.startswith("id: ")]
        assert ids == [f"id: {number + 1}" for number in range(COUNT)]


def test_replicas_come_with_requests_and_go_without(quick_checkpoint: Path, tmp_path: Path) -> None:
    with serving(quick_checkpoint, tmp_path, ONE_OR_TWO) as server, ThreadPoolExecutor(8) as threads:
        assert len(replicas(server)) == 1
        wanted, busy = generated(server, 1), True

        def client() -> None:
            while busy:
                assert generated(server, 1) == wanted

        asking = [threads.submit(client) for _ in range(8)]
        server.wait(lambda: len(replicas(server)) == 2, "no second replica", 240)
        server.wait(lambda: server.metrics()["dalle_workers_ready"] == 2, "the second replica paints nothing")
        busy = False
        for one in asking:
            one.result()
        painted = server.metrics()["dalle_pictures_total"]
        server.wait(lambda: len(replicas(server)) == 1, "the second replica stays", 240)
        server.wait(lambda: server.metrics()["dalle_workers_ready"] == 1, "its figures stay")
        assert server.metrics()["dalle_pictures_total"] == painted
        assert generated(server, 1) == wanted


def test_streams_and_jobs_go_through_the_proxy(server: Live) -> None:
    body = {"prompt": "a cat", "n": 2, "stream": True, "partial_images": 1}
    with server.client.stream("POST", "/v1/images/generations", json=body) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data:")]
    assert sum("image_generation.completed" in line for line in lines) == 2
    assert lines[-1] == "data: [DONE]"
    where = server.client.post("/v1/jobs", json={"text": "a dog", "count": 3}).headers["location"]
    job = server.wait(lambda: (job := server.client.get(where).json())["state"] == "completed" and job, "not painted")
    assert server.client.get(job["pictures"][0]["url"]).content.startswith(b"\x89PNG")
    assert server.generate(text="a cat", num_images=99).status_code == 422


def test_a_client_that_leaves_gives_its_slots_back(server: Live) -> None:
    workers = [pid for found in replicas(server).values() for pid in found]
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        body = {"prompt": "a cat", "stream": True}
        with server.client.stream("POST", "/v1/images/generations", json=body) as answer:
            next(answer.iter_lines())
        cancelled = 'dalle_requests_ended_total{outcome="cancelled"}'  # each look asks one of the replicas
        server.wait(lambda: server.metrics()[cancelled] == 1, "nothing is cancelled")
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")
def test_the_manifest_is_what_ray_serve_reads() -> None:
    import yaml  # type: ignore[import-untyped]
    from ray.serve.schema import ServeDeploySchema

    from app.ray import Replicas

    manifest = Path(__file__).parents[2] / "deploy" / "rayservice.yaml"
    (service,) = yaml.safe_load_all(manifest.read_text())
    found = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    assert found.applications[0].import_path == "app.ray:app"
    Replicas(**found.applications[0].args)
