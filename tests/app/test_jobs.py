"""Jobs over a real socket: accepted, painted in the background, followed, cancelled, and gone on with after a kill."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from standardwebhooks import Webhook

from app.pictures.encode import encode_png
from tests.app.live import COMMAND, REPLICAS, Live
from tests.jobs.receiver import SECRET, Receiver

KILLS = int(os.environ.get("KILLS", "3"))  # 20 take a minute and more
ENDED = ("completed", "failed", "cancelled", "expired")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the server's store."""
    return tmp_path_factory.mktemp("jobs") / "store"


@pytest.fixture(scope="module")
def server(quick_checkpoint: Path, store: Path) -> Iterator[Live]:
    """A ready server with a store of its own."""
    with Live(quick_checkpoint, store.with_name("log"), store=store) as live:
        yield live.ready()


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


def test_jobs_are_listed_and_cancelled(server: Live) -> None:
    first = ask(server, text="a cat", count=2).json()
    running = ask(server, text="a dog", count=1000).json()
    listed = server.client.get("/v1/jobs", params={"limit": 1}).json()
    assert [job["id"] for job in listed["data"]] == [running["id"]]
    older = server.client.get("/v1/jobs", params={"limit": 1, "cursor": listed["next_cursor"]}).json()
    assert [job["id"] for job in older["data"]] == [first["id"]]
    gone = server.client.delete(f"/v1/jobs/{running['id']}").json()
    assert gone["state"] == "cancelled"
    assert gone["pictures_done"] < 1000
    assert server.client.delete(f"/v1/jobs/{running['id']}").json()["state"] == "cancelled"
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
    assert server.client.get(f"/v1/jobs/{job['id']}").json()["rows_total"] == job["rows_total"]
    assert server.client.get("/v1/jobs").status_code == 200


def test_others_go_before_a_job(server: Live) -> None:
    job = ask(server, text="a cat", count=1000).json()
    server.wait(lambda: server.client.get(f"/v1/jobs/{job['id']}").json()["pictures_done"] > 0, "nothing is painted")
    assert server.generate(text="a dog", num_images=10).status_code == 200
    left = server.client.get(f"/v1/jobs/{job['id']}").json()
    assert left["state"] == "running"
    assert left["pictures_done"] < 1000
    server.client.delete(f"/v1/jobs/{job['id']}")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "text"),
        ({"text": "a cat", "prompts": ["a dog"]}, "text"),
        ({"prompts": []}, "prompts"),
        ({"prompts": ["a cat"] * 101}, "prompts"),
        ({"prompts": ["a cat"] * 11, "count": 100}, "count"),
        ({"text": "a cat", "count": 1001}, "count"),
        ({"text": "a cat", "count": 0}, "count"),
        ({"text": "a cat", "count": 1, "num_images": 1}, "count"),
        ({"prompts": ["a cat", "x " * 400]}, "prompts[1]"),
        ({"text": "a cat", "keep_rows": 4}, "image"),
        ({"text": "a cat", "webhook": {"url": "https://10.0.0.1", "secret": "whsec_" + "A" * 32}}, "webhook.url"),
        ({"text": "a cat", "webhook": {"url": "https://example.org", "secret": "short"}}, "webhook.secret"),
        ({"text": "a cat", "style": "oil"}, "style"),
        ({"text": "a cat", "best_of": 2, "count": 3}, "best_of"),
    ],
)
def test_a_wrong_job_is_refused_and_not_kept(server: Live, fields: Any, param: str) -> None:
    before = server.client.get("/v1/jobs").json()
    answer = ask(server, **fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert server.client.get("/v1/jobs").json() == before


HOOK = {"url": "https://example.org", "secret": "whsec_" + "A" * 32}
LIST = "must be a list of 1 to 100 texts"
TEXT = "must be a text of 1 to 4000 characters that is not blank"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompts": "a"}, f'prompts {LIST}, got "a"'),
        ({"prompts": []}, f"prompts {LIST}, got []"),
        ({"prompts": ["a", 5]}, f"prompts[1] {TEXT}, got 5"),
        ({"prompts": ["a" * 4001]}, f"prompts[0] {TEXT}, got 4001 characters"),
        ({"webhook": "https://example.org"}, 'webhook must be an object with url and secret, got "https://example.org"'),
        ({"webhook": {"url": 5, "secret": "x"}}, "webhook.url must be a text of 1 to 2000 characters, got 5"),
        ({"webhook": {"url": "x"}}, "webhook.secret is missing; it must be a text of 1 to 128 characters"),
        ({"webhook": HOOK | {"urls": 1}}, "webhook.urls is not a field of this request; did you mean webhook.url?"),
        ({"webhook": HOOK | {"secret": "AAAA"}}, "webhook.secret must be whsec_ and 24 to 64 bytes in base64, got 3"),
        ({"webhook": HOOK | {"url": f"https://{'a' * 64}.org"}}, "webhook.url must be an address with https, got "),
        ({"promts": ["a"]}, "promts is not a field of this request; did you mean prompts?"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_wherever_it_stands(server: Live, fields: Any, said: str) -> None:
    answer = ask(server, **({} if "prompts" in fields else {"text": "a"}), **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(said)
    assert answer.json()["error"]["param"] in said


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("/v1/jobs?limit=abc", "limit must be an integer from 1 to 100, got abc"),
        ("/v1/jobs?limit=0", "limit must be an integer from 1 to 100, got 0"),
        ("/v1/jobs?limit=", "limit must be an integer from 1 to 100, got empty"),
        ("/v1/jobs?cursor=%00", 'cursor must be the next_cursor of another answer, got "\\u0000"'),
        ("/things?limit=1e9", "limit must be an integer from 1 to 2000, got 1e9"),
        (f"/things?q={'a' * 65}", "q must be a text of 0 to 64 characters, got 65 characters"),
    ],
)
def test_a_wrong_parameter_in_the_address_is_named(server: Live, asked: str, said: str) -> None:
    answer = server.client.get(asked)
    told = answer.json()["error"]["message"] if asked.startswith("/v1/") else answer.json()["Error"]
    assert (answer.status_code, told) == (400 if asked.startswith("/v1/") else 422, said)


def test_a_wrong_method_is_told_all_that_there_are(server: Live) -> None:
    answer = server.client.put("/v1/jobs")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    assert answer.json()["error"]["message"] == "the method must be GET or POST, got PUT /v1/jobs"


def test_jobs_of_a_model_that_is_served_no_longer_are_still_told(quick_checkpoint: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with Live(f"old={quick_checkpoint}", tmp_path / "log", store=store) as server:
        done = ended(server.ready(), ask(server, text="a cat", model="old"))
    with Live(f"new={quick_checkpoint}", tmp_path / "log", store=store) as server:
        assert [job["id"] for job in server.client.get("/v1/jobs").json()["data"]] == [done["id"]]
        told = server.client.get(f"/v1/jobs/{done['id']}").json()
        assert told["rows_total"] == done["rows_total"]
        assert server.client.get(httpx.URL(told["pictures"][0]["url"]).path).status_code == 200


def test_a_store_that_cannot_be_used_ends_the_start_in_one_line(quick_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "jobs.sqlite3").write_text("no database " * 100)
    (tmp_path / "taken").touch()
    for store, why in (("store", "file is not a database"), ("taken", "Not a directory")):
        with Live(quick_checkpoint, tmp_path / "log", store=tmp_path / store) as server:
            assert server.process.wait(120) == 1
            *_, last = server.log.splitlines()
            assert last.startswith("dalle-server: this server keeps no jobs and no pictures: store: ")
            assert why in last
            assert REPLICAS or "Traceback" not in server.log  # Ray tells where a replica failed


def test_a_database_that_is_away_for_a_while_costs_no_job(quick_checkpoint: Path, tmp_path: Path) -> None:
    def rename(old: str, new: str) -> None:
        with sqlite3.connect(tmp_path / "store" / "jobs.sqlite3", timeout=60) as database:
            database.execute(f"ALTER TABLE {old} RENAME TO {new}")
        database.close()

    with Live(quick_checkpoint, tmp_path / "log", store=tmp_path / "store") as server:
        asked = ask(server.ready(), text="a cat", count=200)
        painted(server, f"jobs/{asked.json()['id']}", 1)
        rename("pictures", "away")
        server.wait(lambda: "the job waits" in server.log, "nothing waits")
        told = server.client.get(asked.headers["location"])
        assert (told.status_code, told.json()["error"]["code"]) == (503, "no_store")
        rename("away", "pictures")
        assert len(pictures(server, ended(server, asked))) == 200


def test_a_repeated_request_makes_no_second_job(server: Live) -> None:
    def send(text: str) -> httpx.Response:
        return server.client.post("/v1/jobs", json={"text": text}, headers={"Idempotency-Key": "once"})

    first = send("a cat")
    assert send("a cat").json()["id"] == first.json()["id"]
    assert send("a dog").status_code == 409


def test_a_job_expires(server: Live) -> None:
    job = ended(server, ask(server, text="a cat", count=1000, time_limit=1))
    assert job["state"] == "expired"
    assert job["pictures_done"] < 1000


def test_a_job_waits_while_its_store_cannot_be_reached(server: Live, store: Path) -> None:
    (old,) = ended(server, ask(server, text="a cat"))["pictures"]
    (store / "pictures").rename(store / "away")
    (store / "pictures").touch()  # no folder
    answer = ask(server, text="a cat", count=3)
    server.wait(lambda: "the job waits" in server.log, "nothing is said")
    away = server.client.get(old["url"])
    assert (away.status_code, away.headers["retry-after"]) == (503, "5")
    assert server.generate(text="a cat", response_format="url").status_code == 503
    (store / "pictures").unlink()
    (store / "away").rename(store / "pictures")
    job = ended(server, answer)
    assert (job["state"], len(pictures(server, job))) == ("completed", 3)


def test_pictures_are_served_as_files(server: Live) -> None:
    (picture,) = ended(server, ask(server, text="a cat"))["pictures"]
    whole = server.client.get(picture["url"])
    assert whole.headers["content-type"] == "image/png"
    assert "immutable" in whole.headers["cache-control"]
    assert "no-" not in whole.headers["cache-control"]
    assert whole.headers["cross-origin-resource-policy"] == "cross-origin"  # other pages may show it
    head = server.client.head(picture["url"])
    assert (head.headers["content-length"], head.content) == (str(len(whole.content)), b"")
    assert head.headers["cache-control"].partition("=")[0] == whole.headers["cache-control"].partition("=")[0]
    part = server.client.get(picture["url"], headers={"Range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, whole.content[2:6])
    assert part.headers["content-range"] == f"bytes 2-5/{len(whole.content)}"
    assert server.client.get(picture["url"], headers={"Range": "bytes=-4"}).content == whole.content[-4:]
    assert server.client.get(picture["url"], headers={"Range": "bytes=999999-"}).status_code == 416
    same = server.client.get(picture["url"], headers={"If-None-Match": whole.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    for name in ("x.png", "../../jobs.sqlite3", "A" * 32 + ".png"):
        assert server.client.get(f"/pictures/{name}").status_code == 404


def test_with_keys_a_job_and_its_pictures_are_their_owners(quick_checkpoint: Path, tmp_path: Path) -> None:
    hashes = ",".join(hashlib.sha256(key.encode()).hexdigest() for key in ("mine", "yours"))
    with Live(quick_checkpoint, tmp_path / "log", store=tmp_path / "store", api_keys=hashes) as server:
        server.ready()
        mine, yours = ({"Authorization": f"Bearer {key}"} for key in ("mine", "yours"))
        where = server.client.post("/v1/jobs", json={"text": "a cat"}, headers=mine).headers["location"]

        def done() -> Any:
            job = server.client.get(where, headers=mine).json()
            return job if job["state"] in ENDED else None

        link = server.wait(done, "the job has not ended")["pictures"][0]["url"]
        assert server.client.get(where, headers=yours).status_code == 404
        assert server.client.get("/v1/jobs", headers=yours).json()["data"] == []
        assert server.client.get(link).status_code == 200  # whoever has the link
        plain, _, query = link.partition("?")
        assert server.client.get(plain).status_code == 404
        assert server.client.get(plain, headers=mine).status_code == 200
        assert server.client.get(plain, headers=yours).status_code == 404
        later = query.replace("until=1", "until=2", 1)
        assert server.client.get(f"{plain}?{later}").status_code == 404


def test_a_webhook_is_told_again_until_it_listens(quick_checkpoint: Path, tmp_path: Path, receiver: str) -> None:
    hook = {"url": f"{receiver}/503", "secret": SECRET}
    with Live(quick_checkpoint, tmp_path / "log", store=tmp_path / "store", private_webhooks=True) as server:
        job = ended(server.ready(), ask(server, text="a cat", count=2, webhook=hook))
        server.wait(lambda: len(Receiver.got) >= 2, "the webhook is not told again")
        headers, data = Receiver.got[0]
        told = Webhook(SECRET).verify(data, headers)
        assert (told["type"], told["data"]["id"]) == ("job.completed", job["id"])
        assert [server.client.get(one["url"]).status_code for one in told["data"]["pictures"]] == [200, 200]
        assert Receiver.got[1][0]["webhook-id"] == headers["webhook-id"]


def test_a_key_has_a_webhook_of_its_own(quick_checkpoint: Path, tmp_path: Path, receiver: str) -> None:
    digest = hashlib.sha256(b"mine").hexdigest()
    (tmp_path / "keys").write_text(f"{digest} {receiver}/200 {SECRET}\n")
    given: dict[str, Any] = {"store": tmp_path / "store", "private_webhooks": True, "api_keys_file": tmp_path / "keys"}
    with Live(quick_checkpoint, tmp_path / "log", **given) as server:
        server.ready().client.headers["Authorization"] = "Bearer mine"
        job = ended(server, ask(server, text="a cat"))
        server.wait(lambda: Receiver.got, "the webhook is not told")
        headers, data = Receiver.got[0]
        assert Webhook(SECRET).verify(data, headers)["data"]["id"] == job["id"]


def test_killed_at_random_moments_a_job_is_painted_once_and_bit_equal(quick_checkpoint: Path, tmp_path: Path) -> None:
    chance, where, store = random.Random(4), "", tmp_path / "store"
    for turn in range(KILLS):
        with Live(quick_checkpoint, tmp_path / f"log{turn}", store=store) as server:
            server.ready()
            if not where:
                where = ask(server, prompts=["a cat", "a dog"], count=60, seed=9).headers["location"].split("/v1/")[1]
            before = server.client.get(f"/v1/{where}").json()["pictures_done"]
            wanted = min(120, before + chance.randint(1, 120 // KILLS))
            painted(server, where, wanted)
            server.process.kill()
    with Live(quick_checkpoint, tmp_path / "log", store=store) as server:
        server.ready()
        job = server.wait(
            lambda: (found := server.client.get(f"/v1/{where}").json())["state"] == "completed" and found,
            "the job has not ended",
        )
        files = pictures(server, job)
        assert len(list((store / "pictures").rglob("*.png"))) == 120  # none was kept twice
        for prompt, text in enumerate(("a cat", "a dog")):
            for first in range(0, 60, 10):
                same = server.generate(text=text, num_images=10, seed=9, index=first, embed_prompt=True).json()
                begin = 60 * prompt + first
                assert [base64.b64decode(one) for one in same] == files[begin : begin + 10]
    with sqlite3.connect(store / "jobs.sqlite3") as database:
        assert database.execute("select count(*) from pictures").fetchone() == (120,)


def test_answers_can_have_addresses_instead_of_files(server: Live) -> None:
    fields = {"seed": 3, "num_images": 2}
    files = [base64.b64decode(one) for one in server.generate(text="a cat", **fields).json()]
    urls = server.generate(text="a cat", response_format="url", **fields).json()
    assert [server.client.get(url).content for url in urls] == files
    answer = server.client.post(
        "/v1/images/generations",
        json={"prompt": "a cat", "n": 2, "seed": 3, "response_format": "url", "output_format": "webp"},
    ).json()
    assert all("b64_json" not in one for one in answer["data"])
    for one in answer["data"]:
        found = server.client.get(one["url"])
        assert found.headers["content-type"] == "image/webp"
        with Image.open(io.BytesIO(found.content)) as picture:
            assert picture.format == "WEBP"


def test_variations_keep_the_first_rows(server: Live) -> None:
    file = base64.b64decode(server.generate(text="a cat", seed=1).json()[0])

    def vary(**fields: str) -> list[Any]:
        answer = server.client.post(
            "/v1/images/variations", data={"seed": "2", **fields}, files={"image": ("a.png", file, "image/png")}
        )
        assert answer.status_code == 200, answer.text
        return [one["b64_json"] for one in answer.json()["data"]]

    assert len(set(vary(n="3"))) == 3
    assert vary() != vary(strength="1")
    wrong = server.client.post("/v1/images/variations", data={"strength": "0"}, files={"image": ("a.png", file)})
    assert wrong.json()["error"]["param"] == "strength"
    assert server.client.post("/v1/images/variations", files={"x": ("a.png", file)}).status_code == 400


def test_two_servers_share_a_postgresql_and_one_goes_on_for_the_other(
    quick_checkpoint: Path, tmp_path: Path, postgres_database: str
) -> None:
    quickly = "import app.jobs.runner as runner; runner.LEASE, runner.RENEWED = 2.0, 0.5; "
    shared: dict[str, Any] = {
        "store": tmp_path / "store",
        "store_database": postgres_database,
        "command": quickly + COMMAND,
    }
    with (
        Live(quick_checkpoint, tmp_path / "log1", **shared) as first,
        Live(quick_checkpoint, tmp_path / "log2", **shared) as second,
    ):
        first.ready()
        second.ready()
        where = ask(first, text="a cat", count=400, seed=9).headers["location"].split("/v1/")[1]
        painted(second, where, 20)
        first.process.kill()
        painted(second, where, 400)
        job = second.client.get(f"/v1/{where}").json()
        assert job["state"] == "completed"
        files = pictures(second, job)
        same = second.generate(text="a cat", num_images=10, seed=9, index=390, embed_prompt=True).json()
        assert [base64.b64decode(one) for one in same] == files[390:]
