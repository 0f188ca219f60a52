"""Asks a server for jobs, as a client does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx

from tests.app.live import Live

ENDED = ("completed", "failed", "cancelled", "expired")


def ended(server: Live, answer: httpx.Response) -> Any:
    """The job of a 202 answer, once it has ended. server: any that has its store."""
    assert answer.status_code == 202, answer.text

    def look() -> Any:
        job = told(server, place(answer))
        return job if job.get("state") in ENDED else None

    return server.wait(look, "the job has not ended")


def place(answer: httpx.Response) -> str:
    """Where below /v1 the job of a 202 answer is."""
    return answer.headers["location"].split("/v1/")[1]


def told(server: Live, where: str) -> Any:
    """What the server tells of a job; nothing while its store does not answer. where: its `place`."""
    answer = server.client.get(f"/v1/{where}")
    assert answer.status_code in (200, 503), answer.text
    return answer.json() if answer.status_code == 200 else {}


def ask(server: Live, **fields: Any) -> httpx.Response:
    return server.client.post("/v1/jobs", json=fields)


def painted(server: Live, where: str, wanted: int) -> None:
    """Wait until so many pictures of the job are painted."""
    server.wait(lambda: told(server, where).get("pictures_done", 0) >= wanted, "it is not painted on")


@contextlib.contextmanager
def halfway(server: Live, count: int, **fields: Any) -> Iterator[httpx.Response]:
    """The 202 answer of a job of which a picture is kept, and less than half. The workers are stopped while this lasts.

    A job that was painted further before they were stopped is cancelled, and another one is asked for.
    """

    def caught() -> httpx.Response | None:
        answer = ask(server, count=count, **fields)
        assert answer.status_code == 202, answer.text
        where = place(answer)
        painted(server, where, 1)
        stopped.enter_context(server.stopped())
        job = server.wait(lambda: told(server, where), "its store does not answer")
        if job["state"] == "running" and job["pictures_done"] < count // 2:
            return answer
        server.client.delete(f"/v1/{where}")
        stopped.close()
        return None

    with contextlib.ExitStack() as stopped:
        yield server.wait(caught, "no job is caught halfway")


def pictures(server: Live, job: Any) -> list[bytes]:
    """The files of a job's pictures, by number."""
    found = {one["number"]: server.client.get(one["url"]).content for one in job["pictures"]}
    assert sorted(found) == list(range(job["pictures_total"]))
    return [found[number] for number in range(len(found))]
