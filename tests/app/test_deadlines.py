"""X-Request-Timeout over a real socket: what it may hold, and what happens when the time is over or too short."""

from __future__ import annotations

import contextlib
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.app.live import Live, ledger

NAME = "X-Request-Timeout"
PAINT = "/v1/images/generations"
ALLOWED = "must be a number of seconds above 0, up to 600"


def ask(server: Live, path: str, timeout: str, **fields: Any) -> httpx.Response:
    body = {"text": "a"} if path == "/generate" else {"prompt": "a"}
    return server.client.post(path, json=body | fields, headers={NAME: timeout})


@pytest.mark.parametrize(
    "value", ["", "0", "0.0", "-1", "600.5", "601", "1e2", "abc", "nan", "inf", "5s", "1,5", "0x5", "9" * 50, "１"]
)
def test_a_wrong_time_limit_is_refused_with_both_values(live: Live, value: str) -> None:
    headers = {NAME.encode(): value.encode()}
    answer = live.client.post("/generate", json={"text": "a"}, headers=headers)
    assert answer.status_code == 400
    said = answer.json()["Error"]
    assert said.startswith(f"{NAME} {ALLOWED}, got ")
    shown = value or "empty"
    assert shown in said or not value.isascii()
    answer = live.client.post(PAINT, json={"prompt": "a"}, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": said, "type": "invalid_request_error", "param": NAME, "code": "bad_header",
    }  # fmt: skip


def test_it_may_be_given_once_only(live: Live) -> None:
    content, kind = b'{"text": "a"}', ("Content-Type", "application/json")
    answer = live.post(content=content, headers=[kind, (NAME, "5"), (NAME, "6")])
    assert answer.status_code == 400
    assert answer.json()["Error"] == f"{NAME} must be given once, got 2 of them"


def test_time_enough_changes_nothing(live: Live) -> None:
    picture = live.pictures(text="a", seed=1)
    assert ask(live, "/generate", "600", seed=1).json() == picture
    assert ask(live, PAINT, "599.999", seed=1).json()["data"][0]["b64_json"] == picture[0]
    assert ask(live, PAINT, "120", stream=True).text.endswith("data: [DONE]\n\n")


def test_when_the_time_is_over_a_request_is_answered_504_wherever_it_stands(live: Live) -> None:
    before = ledger(live.metrics())
    with live.stopped(), ThreadPoolExecutor(3) as threads:  # time enough to accept them, and none to paint them
        asked = [threads.submit(ask, live, "/generate", "2"), threads.submit(ask, live, PAINT, "2")]
        asked.append(threads.submit(ask, live, PAINT, "2", stream=True))
        generated, painted, streamed = (one.result() for one in asked)
    said = "the request was not done within its 2 s"
    assert (generated.status_code, generated.json()) == (504, {"Error": said})
    error = {"message": said, "type": "server_error", "param": None, "code": "deadline_exceeded"}
    assert (painted.status_code, painted.json()) == (504, {"error": error})
    assert painted.headers["x-should-retry"] == "false"
    *_, last = filter(None, streamed.text.split("\n\n"))
    assert (streamed.status_code, json.loads(last.removeprefix("data: "))) == (200, {"error": error})
    after = ledger(live.metrics())
    assert after["expired"] - before["expired"] == after["accepted"] - before["accepted"] == 3


def test_a_request_that_cannot_be_in_time_is_refused_at_once_with_retry_after(live: Live) -> None:
    with live.stopped(), contextlib.ExitStack() as streams:
        for _ in range(11):
            body = {"prompt": "a", "n": 10, "stream": True}
            held = streams.enter_context(live.client.stream("POST", PAINT, json=body))
        assert held.status_code == 200
        told = next(line for line in held.iter_lines() if line.startswith(": progress "))
        seconds = json.loads(told.removeprefix(": progress "))["seconds_left"]
        shares = itertools.cycle((2, 4, 8, 16))  # its forecast may have become shorter since

        def refused() -> tuple[httpx.Response, float] | None:
            """The refusal, and the requests accepted before. None if the time was over before it was read."""
            accepted = ledger(live.metrics())["accepted"]
            answer = ask(live, PAINT, f"{seconds / next(shares):.3f}", n=10)
            return None if answer.status_code == 504 else (answer, accepted)

        answer, accepted = live.wait(refused, "it is never in time to be refused")
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "overloaded"
        assert "the request would take about " in answer.json()["error"]["message"]
        assert 1 <= int(answer.headers["retry-after"]) <= seconds + 1
        assert ledger(live.metrics())["accepted"] == accepted
    live.wait(lambda: live.in_flight() == 0, "jobs of clients that left go on")
