"""A server's life: clients that leave, workers that die, full queues, deadlines, SIGTERM, kill -9, and bad starts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.checkpoints import sums
from tests.app.live import COMMAND, REPLICAS, Live, ended_since, ledger, one_process

Start = Callable[..., Live]
CAUSES = {"crash": 0, "hang": 1, "killed": 1, "start": 0}
LONG: dict[str, Any] = {"text": "a red apple", "num_images": 10, "seed": 1}
# Every worker stands still from its first moment.
STOP_AT_BIRTH = f"""
import os, signal
from app.pool import early
start = early.start
def stop(process):
    start(process)
    os.kill(process.pid, signal.SIGSTOP)
early.start = stop
{COMMAND}"""


def at_once(server: Live, requests: list[dict[str, Any]]) -> list[Future[httpx.Response]]:
    """Send all requests from threads, and come back when the server has them."""
    accepted = server.metrics()["dalle_requests_accepted_total"]
    threads = ThreadPoolExecutor(len(requests))
    futures = [threads.submit(server.generate, **request) for request in requests]
    threads.shutdown(wait=False)
    wanted = accepted + len(requests)
    server.wait(lambda: server.metrics()["dalle_requests_accepted_total"] == wanted, "not all were accepted")
    return futures


def connected(server: Live) -> socket.socket:
    host, port = server.url.removeprefix("http://").rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=30)


def request_bytes(fields: dict[str, Any]) -> bytes:
    body = json.dumps(fields).encode()
    head = (
        "POST /generate HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def exit_status(server: Live, seconds: float = 120.0) -> int:
    return server.process.wait(seconds)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_clients_that_leave_free_their_slots_and_disturb_nobody(live: Live) -> None:
    expected = live.pictures(text="a blue circle", seed=9, num_images=4)

    def in_mid_picture() -> bool:
        """Whether all twelve left in time: workers that inched on for too long may have painted some of them."""
        before = ledger(live.metrics())
        sockets = [connected(live) for _ in range(12)]
        with live.stopped():
            for one in sockets:
                one.sendall(request_bytes(LONG))
            live.wait(lambda: live.in_flight() == 12, "not all were accepted")
            (neighbour,) = at_once(live, [{"text": "a blue circle", "seed": 9, "num_images": 4}])
            live.inch()
            for one in sockets:
                one.close()
            live.wait(lambda: live.in_flight() <= 1, "requests go on for clients that left")
        assert neighbour.result().json() == expected
        ended = ended_since(live, before)
        assert ended["cancelled"] + ended["completed"] == ended["accepted"] == 13
        return ended["cancelled"] == 12

    live.wait(in_mid_picture, "clients that left were painted for")


def test_a_body_that_never_ends_holds_nothing(live: Live) -> None:
    with connected(live) as one:
        one.sendall(request_bytes(LONG)[:-5])
        assert live.in_flight() == 0
        assert live.client.get("/readyz").status_code == 200


def test_a_worker_that_is_killed_or_hangs_in_mid_picture_costs_no_picture(start: Start) -> None:
    server = start(slots=2, heartbeat_timeout=8).ready()
    requests = [LONG | {"seed": seed} for seed in range(3)]
    expected = [server.pictures(**request) for request in requests]

    def stream() -> list[str]:
        body = {"prompt": LONG["text"], "n": 10, "seed": 0, "stream": True, "partial_images": 3}
        *blocks, last, end = server.client.post("/v1/images/generations", json=body).text.split("\n\n")
        assert (last, end) == ("data: [DONE]", "")
        events = [json.loads(block.removeprefix("data: ")) for block in blocks if not block.startswith(":")]
        done = {event["index"]: event["b64_json"] for event in events if event["type"].endswith("completed")}
        return [done[index] for index in range(10)]

    def paint(meanwhile: Callable[[], bool]) -> bool:
        """Ask for the three requests and a stream, and check what comes. Returns what `meanwhile` returns."""
        painted = server.metrics()["dalle_pictures_total"]
        futures = at_once(server, requests)
        streaming = threads.submit(stream)
        server.wait(lambda: server.metrics()["dalle_pictures_total"] > painted, "nothing was painted")
        found = meanwhile()
        assert [future.result().json() for future in futures] == expected
        assert streaming.result() == expected[0]
        return found

    def interrupt(number: signal.Signals) -> list[int]:
        """Send the workers a signal in mid-picture. Returns them."""
        workers = server.workers()

        def interrupted() -> bool:
            with server.stopped():
                if server.metrics()["dalle_pictures_in_flight"] < 20:  # they were too quick
                    return False
                for worker in workers:
                    os.kill(worker, number)
                server.wait(lambda: all(map(gone, workers)), "they are not ended")
                assert server.client.get("/livez").status_code == 200
            return True

        while not paint(interrupted):
            pass
        return workers

    with ThreadPoolExecutor(1) as threads:
        interrupt(signal.SIGKILL)
        hung = interrupt(signal.SIGSTOP)
    deaths = {name: count for name, count in server.metrics().items() if name.startswith("dalle_worker_deaths")}
    wanted = {f'dalle_worker_deaths_total{{cause="{cause}"}}': count for cause, count in CAUSES.items()}
    assert deaths == {name: count * len(hung) for name, count in wanted.items()}
    ended = ledger(server.metrics())
    assert ended["completed"] == ended["accepted"] >= 3 + 2 * 4


@one_process("nothing listens before a replica has loaded the model")
def test_it_takes_requests_while_it_loads_up_to_its_bounds(start: Start) -> None:
    server = start(command=STOP_AT_BIRTH, queue=25, client_queue=20)
    answer = server.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"Error": "the model is being loaded"}
    assert server.client.get("/healthz").text == "Health"
    futures = at_once(server, [LONG, LONG])
    for images, status, says in ((5, 429, "your share of the queue is full"), (6, 503, "the queue is full")):
        refused = server.generate(**LONG | {"num_images": images})
        assert (refused.status_code, says in refused.json()["Error"]) == (status, True)
        assert int(refused.headers["retry-after"]) >= 1
    for worker in server.workers():
        os.kill(worker, signal.SIGCONT)
    assert {future.result().status_code for future in futures} == {200}
    assert server.client.get("/readyz").status_code == 200


def test_sigterm_finishes_what_was_accepted_and_exits_with_0(start: Start) -> None:
    server = start(drain=300).ready()
    workers = server.workers()
    with server.stopped():
        futures = at_once(server, [LONG, LONG])
        # The whole process group gets it, as from a terminal or a shell: the workers must not mind.
        for pid in (server.process.pid, *workers):
            os.kill(pid, signal.SIGTERM)
        server.wait(lambda: server.client.get("/readyz").status_code == 503, "still ready")
        late = server.generate(**LONG)
        assert late.status_code == 503
        assert "shutting down" in late.json()["Error"]
    assert {future.result().status_code for future in futures} == {200}
    assert exit_status(server) == 0
    assert all(map(gone, workers))
    assert "Traceback" not in server.log


def test_a_deadline_and_the_end_of_the_drain_are_told_and_no_worker_stays(start: Start) -> None:
    server = start(drain=0.2).ready()
    workers = server.workers()
    with server.stopped():
        late = server.post(json=LONG, headers={"X-Request-Timeout": "1"})
        assert late.status_code == 504
        assert late.json()["Error"] == "the request was not done within its 1 s"
        futures = at_once(server, [LONG, LONG])
        server.process.send_signal(signal.SIGINT)
        answers = [future.result() for future in futures]
        assert {answer.status_code for answer in answers} == {503}
        assert all("could not finish this request in time" in answer.json()["Error"] for answer in answers)
        assert exit_status(server) == 0
    assert all(map(gone, workers))


def test_killing_the_server_leaves_no_worker_behind(start: Start) -> None:
    server = start().ready()
    workers = server.workers()
    at_once(server, [LONG])
    server.process.kill()
    server.wait(lambda: all(map(gone, workers)), "a worker lives on")


def test_sigterm_while_it_loads_ends_it_at_once(start: Start) -> None:
    server = start()
    workers = server.wait(server.workers, "no worker")
    server.process.send_signal(signal.SIGTERM)
    assert exit_status(server) == 0
    assert all(map(gone, workers))
    assert REPLICAS or "Traceback" not in server.log  # Ray tells of replicas that end


def damaged(checkpoint: Path, folder: Path, how: str) -> Path:
    copy = folder / "copy"
    shutil.copytree(checkpoint, copy)
    weights = next(copy.glob("transformer-*"))
    match how:
        case "altered":
            data = bytearray(weights.read_bytes())
            data[-1] ^= 1
            weights.write_bytes(data)
        case "config":
            (copy / "config.json").write_text("{")
        case "empty":
            shutil.rmtree(copy)
            copy.mkdir()
        case "missing":
            shutil.rmtree(copy)
    return copy


@pytest.mark.parametrize("how", ["missing", "empty", "config", "altered"])
def test_damaged_weights_stop_the_start_with_one_clear_line(
    start: Start, quick_checkpoint: Path, tmp_path: Path, how: str
) -> None:
    weights = damaged(quick_checkpoint, tmp_path, how)
    server = start(weights)
    assert exit_status(server) == 1
    *before, last = [line for line in server.log.splitlines() if not line.startswith("20")]
    assert not before or REPLICAS, server.log  # Ray has lines of its own
    assert last.startswith(f"dalle-server: {weights}")


@one_process("the replica ends, and another one reads the new weights")
def test_weights_that_were_replaced_under_the_server_end_it_when_a_worker_starts_again(
    start: Start, quick_checkpoint: Path, tmp_path: Path
) -> None:
    weights = Path(shutil.copytree(quick_checkpoint, tmp_path / "weights"))
    server = start(weights)
    assert server.generate(text="a red apple").status_code == 200
    values = json.loads((weights / "config.json").read_text())
    (weights / "config.json").write_text(json.dumps({**values, "created": 7}))
    sums.write(weights)
    os.kill(server.workers()[0], signal.SIGKILL)
    assert exit_status(server) == 1
    assert server.log.splitlines()[-1].startswith(
        f"dalle-server: {weights}/config.json: replaced since it was first read"
    )


def test_a_taken_port_which_a_flag_names_and_a_wrong_variable_stop_the_start_with_one_clear_line(
    start: Start, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = start(flags=["--port", str(port)], port=0)
        assert exit_status(server) == 1
    assert server.log == f"dalle-server: cannot listen on 127.0.0.1 port {port}: Address already in use\n"
    server = start(tmp_path / "missing", flags=["--log", "json"])
    assert exit_status(server) == 1
    (line,) = map(json.loads, server.log.splitlines())
    assert (line["level"], line["message"]) == ("error", f"{tmp_path / 'missing'}: no such folder")
    server = start(slots="many")
    assert exit_status(server) == 1
    assert server.log == "dalle-server: DALLE_SLOTS must be an integer from 2 to 1024, got many\n"
    with suppress(FileNotFoundError):
        assert not server.workers()
