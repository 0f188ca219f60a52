"""Asks a server for jobs, as a client does."""

from __future__ import annotations

from typing import Any

import httpx

from tests.app.live import Live

ENDED = ("completed", "failed", "cancelled", "expired")


def ended(server: Live, answer: httpx.Response) -> Any:
    """The job of a 202 answer, once it has ended."""
    assert answer.status_code == 202, answer.text

    def look() -> Any:
        job = server.client.get(answer.headers["location"]).json()
        return job if job["state"] in ENDED else None

    return server.wait(look, "the job has not ended")


def ask(server: Live, **fields: Any) -> httpx.Response:
    return server.client.post("/v1/jobs", json=fields)


def painted(server: Live, where: str, wanted: int) -> None:
    """Wait until so many pictures of the job are painted."""
    server.wait(lambda: server.client.get(f"/v1/{where}").json()["pictures_done"] >= wanted, "it is not painted on")


def pictures(server: Live, job: Any) -> list[bytes]:
    """The files of a job's pictures, by number."""
    found = {one["number"]: server.client.get(one["url"]).content for one in job["pictures"]}
    assert sorted(found) == list(range(job["pictures_total"]))
    return [found[number] for number in range(len(found))]
