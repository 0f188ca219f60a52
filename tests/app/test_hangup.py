"""SIGHUP: the API keys are read again, or the server drains. It never cuts accepted work short."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from app.http.keys import key_hash, make_key
from tests.app.live import Live
from tests.app.test_lifecycle import LONG, at_once

Start = Callable[..., Live]


def ignores(pid: int, number: signal.Signals) -> bool:
    """Whether a process ignores a signal."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn:")]
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


def test_keys_are_read_again_and_bad_ones_change_nothing(start: Start, tmp_path: Path) -> None:
    file, old, new = tmp_path / "keys", make_key(), make_key()

    def asked(key: str) -> int:
        return server.client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code

    def reload(text: str, says: str) -> str:
        """Write the file, hang up, and return the line of the log about it."""
        before = len(server.log)
        file.write_text(text)
        server.process.send_signal(signal.SIGHUP)
        server.wait(lambda: says in server.log[before:], "no line about it")
        (line,) = [line for line in server.log[before:].splitlines() if "SIGHUP" in line]
        return line

    file.write_text(key_hash(old))
    server = start(api_keys_file=file, client_queue=20).ready()
    assert (asked(old), asked(new)) == (200, 401)
    with ThreadPoolExecutor(1) as threads:
        with server.stopped():
            headers = {"Authorization": f"Bearer {old}"}
            accepted = threads.submit(server.post, json=LONG, headers=headers)
            metrics = {"headers": headers, "url": "/metrics"}
            server.wait(
                lambda: "dalle_requests_in_flight 1.0" in server.client.get(**metrics).text,  # type: ignore[arg-type]
                "not accepted",
            )
            assert "info" in reload(f"{key_hash(new)}  # the new one\n", "read again, 1 of them")
            assert (asked(old), asked(new)) == (401, 200)
        assert accepted.result().status_code == 200
    for bad in ("walrus", "", "# none"):
        line = reload(bad, "stay as they were")
        assert " error " in line
        assert str(file) in line
        assert "walrus" not in line
        assert (asked(old), asked(new)) == (401, 200)
    file.unlink()
    server.process.send_signal(signal.SIGHUP)
    server.wait(lambda: server.log.count("stay as they were") == 4, "no line about it")
    assert asked(new) == 200
    assert server.client.get("/readyz").status_code == 200


def test_without_a_file_of_keys_it_drains_and_a_second_hangup_cuts_nothing(start: Start) -> None:
    at_any_time = "from app import signals; signals.SAME_SIGNAL = -1.0  # every signal is a new one\n"
    server = start(first=at_any_time, drain=300).ready()
    workers = server.workers()
    assert all(ignores(worker, signal.SIGHUP) for worker in workers)
    with server.stopped():
        futures = at_once(server, [LONG, LONG])
        for pid in (*workers, server.process.pid):  # all of a terminal's processes get it
            os.kill(pid, signal.SIGHUP)
        server.wait(lambda: server.client.get("/readyz").status_code == 503, "still ready")
        server.process.send_signal(signal.SIGHUP)
        server.process.send_signal(signal.SIGTERM)  # the first one of these
        assert server.generate(text="a").status_code == 503
    assert [future.result().status_code for future in futures] == [200, 200]
    assert server.process.wait(120) == 0
    assert "died" not in server.log


def test_a_hangup_that_was_ignored_at_the_start_stays_ignored(start: Start) -> None:
    """As under nohup."""
    server = start(first="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n").ready()
    assert ignores(server.process.pid, signal.SIGHUP)
    server.process.send_signal(signal.SIGHUP)
    assert len(server.pictures(text="a red apple")) == 1
    assert httpx.get(f"{server.url}/readyz", trust_env=False).status_code == 200
