"""A server of its own process for the benchmark: how soon it is ready, and how much memory it holds."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.commands.bench.clients import BenchFailed

START = 300.0  # seconds after which a server that is not ready is given up
LISTENS = re.compile(r"listening on (http://\S+),")


@dataclass(frozen=True)
class Running:
    """A server that is ready. url: where it listens. ready: seconds from its start. pid: of its first process."""

    url: str
    ready: float
    pid: int


@contextmanager
def server(weights: Path, device: str, threads: int) -> Iterator[Running]:
    """Serve `weights` on a free port, as `dalle-server serve` does, and end the server at last.

    Raises BenchFailed with the last line of its log if it does not become ready.
    """
    flags = ["--weights", str(weights), "--device", device, "--threads", str(threads), "--port", "0"]
    flags += ["--queue", "4096", "--client-queue", "0", "--deadline", "3600"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DALLE_")}
    environ.pop("OMP_NUM_THREADS", None)  # that of this process: a server counts its own
    with tempfile.TemporaryFile("w+") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve", *flags], env=environ, stdout=log, stderr=log, start_new_session=True
        )
        try:
            url = _wait_for_url(process, log.fileno(), began)
            while not _is_ready(url):
                _check(process, log.fileno(), began)
                time.sleep(0.02)
            yield Running(url, time.perf_counter() - began, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()


def _wait_for_url(process: subprocess.Popen[bytes], log: int, began: float) -> str:
    while not (found := LISTENS.search(_text(log))):
        _check(process, log, began)
        time.sleep(0.02)
    return found[1]


def _check(process: subprocess.Popen[bytes], log: int, began: float) -> None:
    if process.poll() is not None or time.perf_counter() - began > START:
        last = _text(log).strip().rpartition("\n")[2]
        raise BenchFailed(f"the server was not ready within {START:g} s, or ended; its last line: {last}")


def _text(log: int) -> str:
    return os.pread(log, 1 << 20, 0).decode(errors="replace")


def _is_ready(url: str) -> bool:
    try:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def memory(pid: int) -> dict[str, float]:
    """MiB of memory of the server's process and of all that it started, on Linux; {} where /proc has none.

    "rss": resident, shared pages counted in each process. "pss": shared pages counted once.
    """
    found = {"rss": 0.0, "pss": 0.0}
    pids = [pid]
    for one in pids:
        try:
            children = Path(f"/proc/{one}/task").glob("*/children")
            pids += [int(child) for file in children for child in file.read_text().split()]
            for name, key in (("rss", "Rss:"), ("pss", "Pss:")):
                lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
                found[name] += sum(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024
        except OSError:
            if one == pid:
                return {}
    return found


def seconds_of(program: str) -> float:
    """Seconds that a new interpreter takes to run the program; the least of two."""
    times = []
    for _ in range(2):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True, stdin=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return min(times)
