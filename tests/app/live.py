"""Runs the real server as a process of its own, over a real socket, and reads its metrics, log and processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import pytest

COMMAND = "from app.cli import main; main()"
REPLICAS = int(os.environ.get("REPLICAS", "0"))  # with 2 every server of the tests is two replicas over Ray
PAUSE = 0.05  # seconds between two looks of Live.wait
BY_RAY = f"import app.ray as r; r.LEAST = {REPLICAS}; "


class Live:
    """`dalle-server serve` with the settings of `variables` (DALLE_ and the name in capitals). A context manager.

    flags: of the command line. command: the program, a COMMAND that breaks something first; over Ray the test is then
    skipped. first: code that runs before it in the process that gets the signals, also over Ray. cwd, environ: those of
    the process. weights: "" for the default. prefix: a program that becomes the server, and its arguments.
    """

    def __init__(
        self,
        weights: Path | str,
        log: Path,
        flags: Sequence[str] = (),
        command: str = COMMAND,
        first: str = "",
        cwd: Path | None = None,
        environ: Mapping[str, str] = os.environ,
        prefix: Sequence[str] = (),
        **variables: object,
    ) -> None:
        if REPLICAS:
            if command != COMMAND:
                pytest.skip("it changes the server's own process, and replicas have others")
            command, variables = BY_RAY + COMMAND, {"port": free_port(), "ray": True, **variables}
        given = {"weights": weights, "port": 0, "slots": 4, "threads": 1, "heartbeat_timeout": 600, **variables}
        environ = {name: value for name, value in environ.items() if not name.startswith("DALLE_")}
        environ |= {f"DALLE_{name.upper()}": str(value) for name, value in given.items()}
        environ["OMP_NUM_THREADS"] = "1"
        self._log = log
        program = [*prefix, sys.executable, "-c", first + command, "serve", *flags]
        with log.open("wb") as stream:
            self.process = subprocess.Popen(program, cwd=cwd, env=environ, stdout=stream, stderr=stream)

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "client" in vars(self):
            self.client.close()
        for pid in [*self.workers(), *self.decoders()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()  # unless it has ended: its id may be another's by now
        self.process.wait(10)

    @cached_property
    def client(self) -> httpx.Client:
        """A client of this server; waits until it listens."""
        return httpx.Client(base_url=self.url, timeout=300, trust_env=False, verify=False)

    @cached_property
    def url(self) -> str:
        """Where it listens; waits until it does."""
        return self.wait(lambda: re.search(r"listening on (\S+),", self.log), "no line that it listens")[1]

    @property
    def log(self) -> str:
        return self._log.read_text()

    def json_lines(self) -> list[dict[str, Any]]:
        """The whole lines of a log in JSON. Over Ray those of a replica have a prefix, and others are left out."""
        lines = [line for line in self.log.splitlines(keepends=True) if line.endswith("\n")]
        if REPLICAS:
            lines = [
                found[1] for found in map(re.compile(r"(?:\(ServeReplica.*? pid=\d+\) )?(\{.*)").match, lines) if found
            ]
        return [json.loads(line) for line in lines]

    def wait(self, found: Any, otherwise: str, seconds: float = 120.0) -> Any:
        """Poll until found() is true and return it. Fails the test with `otherwise`, and the log, if it never is.

        seconds: of pauses between looks. Those in which this process stands still, or looks, do not count.
        """
        for _ in range(round(seconds / PAUSE)):
            try:
                if result := found():
                    return result
            except httpx.ConnectError:
                with contextlib.suppress(subprocess.TimeoutExpired):  # why it gives up is its last line
                    self.process.wait(30)
                status = self.process.poll()
                raise AssertionError(f"nothing listens, exit status {status}; its log:\n{self.log}") from None
            time.sleep(PAUSE)
        raise AssertionError(f"{otherwise} within {seconds:g} s; its log:\n{self.log}")

    def ready(self) -> Live:
        """Wait until it can paint."""
        self.wait(lambda: self.client.get("/readyz").status_code == 200, "not ready")
        return self

    def post(self, **options: Any) -> httpx.Response:
        """POST /generate. options: of httpx."""
        return self.client.post("/generate", **options)

    def generate(self, **fields: object) -> httpx.Response:
        """POST /generate with a JSON body of these fields."""
        return self.post(json=fields)

    def pictures(self, **fields: object) -> list[str]:
        """The pictures of a request that must succeed."""
        answer = self.generate(**fields)
        assert answer.status_code == 200, answer.text
        pictures: list[str] = answer.json()
        return pictures

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics, by its name and labels."""
        return samples(self.client.get("/metrics").text)

    def in_flight(self) -> float:
        return self.metrics()["dalle_requests_in_flight"]

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """While this lasts the workers make no step, so that what a test sends stays in flight."""
        workers = self.workers()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def inch(self) -> None:
        """Let stopped workers compute for a moment, and stop them again until their unfinished pictures are painted."""
        for pid in self.workers():
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.002)
            os.kill(pid, signal.SIGSTOP)
        self._wait_for_painters()

    def let_frames_come(self) -> None:
        """Stop the workers until all unfinished pictures that they have asked for are painted, however busy all is."""
        with self.stopped():
            self._wait_for_painters()

    def _wait_for_painters(self) -> None:
        def sleeps(pid: int) -> bool:
            return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "S"

        painters = [pid for worker in self.workers() for pid in self._children(b"spawn_main", worker)]
        for pid in painters:  # out of the idle class, in which they starve beside other tests
            with contextlib.suppress(PermissionError):
                os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
        self.wait(lambda: all(map(sleeps, painters)), "unfinished pictures are not painted")

    def workers(self) -> list[int]:
        """Process ids of its worker processes."""
        return self._children(b"spawn_main")

    def decoders(self) -> list[int]:
        """Process ids of the processes that decode uploads."""
        return self._children(b"app.pictures.decoder")

    def _children(self, command: bytes, parent_pid: int | None = None) -> list[int]:
        found = []
        parents: dict[int, int] = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                parents[int(process.name)] = int(parent)
                if command in (process / "cmdline").read_bytes():
                    found.append(int(process.name))
        above = parent_pid or self.process.pid
        if not REPLICAS or parent_pid:
            return [pid for pid in found if parents[pid] == above]
        return [pid for pid in found if above in lineage(parents, pid) and is_replica(parents[pid])]


def one_process(why: str) -> pytest.MarkDecorator:
    """The mark of a test that holds for a server of one process only. why: what differs over Ray."""
    return pytest.mark.skipif(REPLICAS > 0, reason=f"over Ray {why}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def lineage(parents: Mapping[int, int], pid: int) -> Iterator[int]:
    """The parent of a process, its parent, and so on."""
    while pid := parents.get(pid, 0):
        yield pid


def is_replica(pid: int) -> bool:
    """Whether this process is a replica of Ray Serve."""
    with contextlib.suppress(OSError):
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().startswith(b"ray::ServeReplica:default:Replica")
    return False


def samples(text: str) -> dict[str, float]:
    """Every sample of an answer of /metrics, by its name and labels."""
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def ledger(metrics: dict[str, float]) -> dict[str, float]:
    """The ledger's figures; raises AssertionError unless they add up."""
    ended = {name: metrics[f'dalle_requests_ended_total{{outcome="{name}"}}'] for name in OUTCOMES}
    accepted = metrics["dalle_requests_accepted_total"]
    assert accepted == sum(ended.values()) + metrics["dalle_requests_in_flight"], metrics
    return {"accepted": accepted, **ended}


def ended_since(live: Live, before: dict[str, float]) -> dict[str, float]:
    """What the ledger counts more than `before`, once no slot is busy."""
    live.wait(lambda: live.metrics()["dalle_slots_busy"] == 0, "slots are still busy")
    after = ledger(live.metrics())
    return {name: after[name] - before[name] for name in after}


OUTCOMES = ("completed", "failed", "cancelled", "expired")
