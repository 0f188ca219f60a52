"""Two replicas over a real Ray Serve on this machine: the same pictures, also if a replica is killed under them."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.app.live import Live, free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed"),
]
TWO = (
    "from app.ray import Replicas, serve_by_ray; from app.load_settings import load_settings; "
    "serve_by_ray(load_settings(), Replicas(least=2))"
)


@pytest.fixture(scope="module")
def server(quick_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server of two replicas."""
    port = free_port()
    home = tmp_path_factory.mktemp("ray")
    with Live(quick_checkpoint, home / "log", [], TWO, device="cpu", port=port, store=home / "store") as live:
        try:
            yield live.ready()
        finally:
            live.process.send_signal(signal.SIGTERM)
            assert live.process.wait(120) == 0, live.log


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
