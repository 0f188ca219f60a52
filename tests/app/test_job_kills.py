"""A server that is killed at random moments loses no job, paints no picture twice and changes no bit."""

from __future__ import annotations

import base64
import os
import random
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx

from tests.app.asking_jobs import ENDED, ask, pictures
from tests.app.live import COMMAND, Live, free_port

KILLS = 20
PROMPTS, COUNT = ("a cat", "a dog"), 100
# The real server, started anew as often as it is killed. Its process and the worker's are forks of one that has
# imported PyTorch, so that a start takes a part of a second and not four.
STARTED_AGAIN = f"""
import ctypes, multiprocessing, os
import app.server, model.inference.engine
context = multiprocessing.get_context
multiprocessing.get_context = lambda _: context("fork")
while os.fork():
    os.wait()
ctypes.CDLL(None).prctl(1, 9)  # it dies with the one that starts it
{COMMAND}"""


def servers(parent: Live) -> list[int]:
    """Process ids of the server that is running now."""
    pid = parent.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def look(server: Live, where: str) -> Any:
    """The job, as soon as a server answers."""

    def found() -> Any:
        try:
            return server.client.get(where).json()
        except httpx.TransportError:  # it is starting
            return None

    return server.wait(found, "no server answers")


def test_a_job_is_painted_once_and_bit_equal_though_its_server_is_killed_20_times(
    quick_checkpoint: Path, tmp_path: Path
) -> None:
    chance, store = random.Random(4), tmp_path / "store"
    given: dict[str, Any] = {"store": store, "port": free_port(), "command": STARTED_AGAIN}
    with Live(quick_checkpoint, tmp_path / "log", **given) as server:
        server.ready()
        jobs: list[str] = []
        where = ""
        for _ in range(KILLS):
            if not where or look(server, where)["state"] in ENDED:
                asked = ask(server, prompts=PROMPTS, count=COUNT, seed=len(jobs))
                where = asked.headers["location"]
                jobs.append(where)
            wanted = look(server, where)["pictures_done"] + chance.randint(0, 8)
            server.wait(
                lambda where=where, wanted=wanted: (
                    (job := look(server, where))["pictures_done"] >= wanted or job["state"] in ENDED
                ),
                "it is not painted on",
            )
            time.sleep(chance.random() / 20)  # so that it may be at any line
            for pid in servers(server):
                os.kill(pid, signal.SIGKILL)
        for seed, where in enumerate(jobs):
            job = server.wait(
                lambda where=where: (job := look(server, where))["state"] in ENDED and job, "the job has not ended"
            )
            assert job["state"] == "completed"
            files = pictures(server, job)
            for begin in range(0, len(files), 10):
                prompt, first = divmod(begin, COUNT)
                asked = server.generate(text=PROMPTS[prompt], num_images=10, seed=seed, index=first, embed_prompt=True)
                assert [base64.b64decode(one) for one in asked.json()] == files[begin : begin + 10]
        assert server.log.count("listening on") == 1 + KILLS
    total = len(jobs) * len(PROMPTS) * COUNT
    assert len(list((store / "pictures").rglob("*.png"))) == total  # none was kept twice
    with sqlite3.connect(store / "jobs.sqlite3") as database:
        assert database.execute("select count(*) from pictures").fetchone() == (total,)
