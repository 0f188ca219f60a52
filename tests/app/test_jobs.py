"""Jobs over a real socket: painted in the background, followed, listed and cancelled. Clients take turns."""

from __future__ import annotations

import base64
import json
import random
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.pictures.encode import encode_png
from tests.app.asking_jobs import ask, ended, halfway, pictures
from tests.app.live import REPLICAS, Live

AHEAD = 6 * 32  # pictures of a job that may be on their way: the pool has got 32, and some wait to be kept


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the server's store."""
    return tmp_path_factory.mktemp("jobs") / "store"


@pytest.fixture(scope="module")
def server(quick_checkpoint: Path, store: Path) -> Iterator[Live]:
    """A ready server with a store of its own. Its clients may tell their addresses."""
    with Live(quick_checkpoint, store.with_name("log"), store=store, trusted_proxies="127.0.0.1") as live:
        yield live.ready()


def test_a_job_paints_what_generate_paints(server: Live) -> None:
    job = ended(server, ask(server, prompts=["a red apple", "a cat"], count=11, seed=5))
    assert (job["state"], job["pictures_done"], job["pictures_total"], job["error"]) == ("completed", 22, 22, None)
    assert job["rows_done"] == job["rows_total"] == 22 * 8
    assert sorted(one["number"] for one in job["pictures"]) == list(range(22))
    assert [one["prompt"] for one in sorted(job["pictures"], key=lambda one: one["number"])] == [0] * 11 + [1] * 11
    files = pictures(server, job)
    for prompt, text in enumerate(("a red apple", "a cat")):
        for first, count in ((0, 10), (10, 1)):
            same = server.generate(text=text, num_images=count, seed=5, index=first, embed_prompt=True).json()
            begin = 11 * prompt + first
            assert [base64.b64decode(one) for one in same] == files[begin : begin + count]


def test_the_best_are_kept_in_order(server: Live) -> None:
    job = ended(server, ask(server, text="a cat", count=2, best_of=6, seed=1))
    scores = [one["score"] for one in sorted(job["pictures"], key=lambda one: one["number"])]
    assert scores == sorted(scores, reverse=True)
    same = server.generate(text="a cat", num_images=2, best_of=6, seed=1, embed_prompt=True).json()
    assert [base64.b64decode(one) for one in same] == pictures(server, job)


def test_a_job_paints_on_from_a_picture(server: Live) -> None:
    file = encode_png(random.Random(1).randbytes(3 * 64 * 64), 64, 64)
    form = {"text": "a cat", "count": "3", "keep_rows": "4", "seed": "2"}
    job = ended(server, server.client.post("/v1/jobs", data=form, files={"image": ("a.png", file, "image/png")}))
    same = server.client.post(
        "/generate",
        data={"text": "a cat", "num_images": "3", "keep_rows": "4", "seed": "2", "embed_prompt": "true"},
        files={"image": ("a.png", file, "image/png")},
    )
    assert [base64.b64decode(one) for one in same.json()] == pictures(server, job)


def test_events_tell_every_picture_once_and_go_on_after_a_break(server: Live) -> None:
    answer = ask(server, text="a cat", count=9, seed=1)
    where = f"{answer.headers['location']}/events"

    def read(last: str | None) -> list[tuple[str | None, Any]]:
        found: list[tuple[str | None, Any]] = []
        headers = {} if last is None else {"Last-Event-ID": last}
        for block in server.client.get(where, headers=headers).text.split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if lines.get("data", "[DONE]") != "[DONE]":
                found.append((lines.get("id"), json.loads(lines["data"])))
        return found

    told = read(None)
    assert [one for one, _ in told] == [*map(str, range(1, 10)), None]
    assert sorted(event["number"] for _, event in told[:-1]) == list(range(9))
    assert (told[-1][1]["type"], told[-1][1]["job"]["pictures_done"]) == ("job.completed", 9)
    assert [one for one, _ in read("7")] == ["8", "9", None]


@pytest.mark.parametrize("asked", [{"prompts": ["a cat"], "count": 90}, {"prompts": ["a cat", "a dog"], "best_of": 10}])
def test_no_row_counts_twice_and_none_is_taken_back(server: Live, asked: dict[str, Any]) -> None:
    answer = ask(server, **asked)
    told = server.client.get(f"{answer.headers['location']}/events").text.splitlines()
    progress = [json.loads(line.removeprefix(": progress ")) for line in told if line.startswith(": progress ")]
    for one in progress:
        assert one["pictures_done"] * 8 <= one["rows_done"] <= one["rows_total"] == one["pictures_total"] * 8
    rows = [one["rows_done"] for one in progress]
    assert rows == sorted(rows)


def test_jobs_are_listed(server: Live) -> None:
    first, last = (ask(server, text=text).json() for text in ("a cat", "a dog"))
    listed = server.client.get("/v1/jobs", params={"limit": 1}).json()
    assert [job["id"] for job in listed["data"]] == [last["id"]]
    older = server.client.get("/v1/jobs", params={"limit": 1, "cursor": listed["next_cursor"]}).json()
    assert [job["id"] for job in older["data"]] == [first["id"]]


def test_a_running_job_is_cancelled(server: Live) -> None:
    with halfway(server, 1000, text="a dog") as running:
        gone = server.client.delete(running.headers["location"]).json()
        assert gone["state"] == "cancelled"
        assert 0 < gone["pictures_done"] < 1000
        assert server.client.delete(running.headers["location"]).json() == gone
    server.wait(lambda: server.metrics()["dalle_slots_busy"] == 0, "slots are still busy")
    assert server.client.get("/v1/jobs/job_unknown").status_code == 404


def test_a_job_tells_how_long_it_takes_before_anything_is_painted(server: Live) -> None:
    with server.stopped():
        first, second = (ask(server, text="a cat", count=1000).json() for _ in range(2))
        assert second["queue_position"] == first["queue_position"] + 1000
        assert 0 < first["seconds_left"] < second["seconds_left"]
    for job in (first, second):
        server.client.delete(f"/v1/jobs/{job['id']}")


def test_a_job_whose_model_is_served_no_more_is_still_told(server: Live, store: Path) -> None:
    job = ended(server, ask(server, text="a cat"))
    with sqlite3.connect(store / "jobs.sqlite3") as database:
        gone = "update jobs set model = 'gone', asked = json_set(asked, '$.fields.model', 'gone') where id = ?"
        database.execute(gone, [job["id"]])
    told = server.client.get(f"/v1/jobs/{job['id']}").json()
    assert (told["rows_total"], told["pictures"]) == (job["rows_total"], job["pictures"])
    assert server.client.get("/v1/jobs").status_code == 200


def test_others_go_before_a_job(server: Live, store: Path) -> None:
    asks = {"text": "a dog", "num_images": 10, "response_format": "url"}  # so that the store knows when it was painted
    with ThreadPoolExecutor(1) as threads:
        with halfway(server, 1000, text="a cat") as asked:
            before = server.client.get(asked.headers["location"]).json()
            other = threads.submit(server.generate, **asks)
            server.wait(lambda: server.metrics()["dalle_pictures_in_flight"] == 10, "it is not accepted")
        assert other.result().status_code == 200
    server.client.delete(asked.headers["location"])
    with sqlite3.connect(store / "jobs.sqlite3") as database:
        counted = database.execute(
            "SELECT count(*) FROM pictures WHERE job = ? "
            "AND created <= (SELECT max(created) FROM pictures WHERE job IS NULL)",
            [before["id"]],
        )
        [meanwhile] = counted.fetchone()
    database.close()
    assert meanwhile - before["pictures_done"] < AHEAD, "what the pool had got before"


@pytest.mark.skipif(REPLICAS > 0, reason="each replica paints a job of its own")
def test_clients_take_turns(server: Live, store: Path) -> None:
    with halfway(server, 1000, text="a cat") as asked:
        mine = asked.json()["id"]
        headers = {"X-Forwarded-For": "192.0.2.7"}
        others = server.client.post("/v1/jobs", json={"text": "a dog", "count": 40}, headers=headers)
        next_of_others = server.client.post("/v1/jobs", json={"text": "a dog"}, headers=headers).json()
        before = server.client.get(f"/v1/jobs/{mine}").json()
        assert (others.json()["queue_position"], next_of_others["queue_position"]) == (0, 80)
        assert others.json()["seconds_left"] < before["seconds_left"]
    done = ended(server, others)
    assert done["state"] == "completed"
    server.client.delete(f"/v1/jobs/{mine}")
    with sqlite3.connect(store / "jobs.sqlite3") as database:
        last = "(SELECT max(created) FROM pictures WHERE job = ?)"
        counted = database.execute(
            f"SELECT count(*) FROM pictures WHERE job = ? AND created <= {last}", (mine, done["id"])
        )
        [meanwhile] = counted.fetchone()
    database.close()
    assert meanwhile - before["pictures_done"] < 40 + AHEAD  # as many, and what the pool had got before


def test_one_client_has_half_of_the_queue(quick_checkpoint: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"keep_pictures": 10, "trusted_proxies": "127.0.0.1", "store": tmp_path / "store"}
    with Live(quick_checkpoint, tmp_path / "log", **given) as server, server.ready().stopped():
        once = {"Idempotency-Key": "once"}
        asked = [server.client.post("/v1/jobs", json={"text": "a cat", "count": 400}, headers=once) for _ in range(2)]
        assert [answer.status_code for answer in asked] == [202, 202]
        assert asked[0].json()["id"] == asked[1].json()["id"]  # a repeat needs no room
        over = ask(server, text="a cat", count=200)
        assert (over.status_code, over.json()["error"]["code"]) == (429, "client_over_share")
        assert int(over.headers["retry-after"]) > 0
        assert "400 pictures wait to be painted, and it takes 500" in over.json()["error"]["message"]
        other = {"X-Forwarded-For": "192.0.2.7"}
        full = server.client.post("/v1/jobs", json={"text": "a cat", "count": 601}, headers=other)
        assert (full.status_code, full.json()["error"]["code"]) == (507, "store_full")
        assert server.client.post("/v1/jobs", json={"text": "a cat", "count": 600}, headers=other).status_code == 202


def test_a_repeated_request_makes_no_second_job(server: Live) -> None:
    def send(text: str) -> httpx.Response:
        return server.client.post("/v1/jobs", json={"text": text}, headers={"Idempotency-Key": "once"})

    first = send("a cat")
    assert send("a cat").json()["id"] == first.json()["id"]
    assert send("a dog").status_code == 409


def test_a_job_expires(server: Live) -> None:
    with server.stopped():
        job = ended(server, ask(server, text="a cat", count=1000, time_limit=1))
    assert job["state"] == "expired"
    assert job["pictures_done"] < 1000
