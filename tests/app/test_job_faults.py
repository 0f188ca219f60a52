"""Jobs outlive what happens to the server, to its disk and to its database."""

from __future__ import annotations

import base64
import contextlib
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.pictures.encode import encode_png
from tests.app.asking_jobs import ask, ended, halfway, painted, pictures, place, told
from tests.app.live import COMMAND, REPLICAS, Live, one_process


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the server's store."""
    return tmp_path_factory.mktemp("jobs") / "store"


@pytest.fixture(scope="module")
def server(quick_checkpoint: Path, store: Path) -> Iterator[Live]:
    """A ready server with a store of its own."""
    with Live(quick_checkpoint, store.with_name("log"), store=store) as live:
        yield live.ready()


def test_a_store_that_cannot_be_used_ends_the_start_in_one_line(quick_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "jobs.sqlite3").write_text("no database " * 100)
    (tmp_path / "taken").touch()
    for store, why in (("store", "file is not a database"), ("taken", "File exists")):
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
        with halfway(server.ready(), 200, text="a cat") as asked:
            rename("pictures", "away")
        server.wait(lambda: "the job waits" in server.log, "nothing waits")
        told = server.client.get(asked.headers["location"])
        assert (told.status_code, told.json()["error"]["code"]) == (503, "no_store")
        rename("away", "pictures")
        assert len(pictures(server, ended(server, asked))) == 200


def test_a_full_disk_loses_nothing_and_is_told_without_its_path(quick_checkpoint: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=16m none "$0" && exec "$@"', str(disk)]
    if subprocess.run([*mounted, "true"], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    given: dict[str, Any] = {"store": disk / "store", "store_pictures": tmp_path / "pictures", "prefix": mounted}
    with Live(quick_checkpoint, tmp_path / "log", **given) as server:
        fill = Path(f"/proc/{server.process.pid}/root{disk}/fill")
        with (
            halfway(server.ready(), 200, text="a cat") as asked,
            fill.open("wb", buffering=0) as file,
            contextlib.suppress(OSError),
        ):
            for size in (1 << 16, 1):
                while file.write(bytes(size)) == size:
                    pass
        server.wait(lambda: "is full; the job waits" in server.log, "nothing waits")
        job = server.client.get(asked.headers["location"]).json()
        assert job["state"] == "running"
        assert server.client.get(job["pictures"][0]["url"]).status_code == 200
        for refused in (ask(server, text="a cat"), server.generate(text="a cat", response_format="url")):
            assert refused.status_code == 507
            assert "the database of jobs is full; ask for fewer pictures, or try again when" in refused.text
            assert str(tmp_path) not in refused.text
        fill.unlink()
        assert len(pictures(server, ended(server, asked))) == 200


def test_a_job_waits_while_its_store_cannot_be_reached(server: Live, store: Path) -> None:
    (old,) = ended(server, ask(server, text="a cat"))["pictures"]
    (store / "pictures").rename(store / "away")
    (store / "pictures").touch()  # no folder
    answer = ask(server, text="a cat")
    server.wait(lambda: "the job waits" in server.log, "nothing is said")
    job = told(server, place(answer))
    assert (job["pictures_done"], job["rows_done"]) == (0, 8)  # painted, and not kept yet
    away = server.client.get(old["url"])
    assert (away.status_code, away.headers["retry-after"]) == (503, "5")
    assert server.generate(text="a cat", response_format="url").status_code == 503
    (store / "pictures").unlink()
    (store / "away").rename(store / "pictures")
    job = ended(server, answer)
    assert (job["state"], len(pictures(server, job))) == ("completed", 1)


def test_a_job_whose_image_was_lost_fails(server: Live, store: Path) -> None:
    with server.stopped():
        first = ask(server, text="a cat", count=1000).json()["id"]  # the next one waits for its last part
        file = {"image": ("a.png", encode_png(bytes(3 * 64 * 64), 64, 64), "image/png")}
        asked = server.client.post("/v1/jobs", data={"text": "a cat", "keep_rows": "4"}, files=file)
        (image,) = (store / "pictures").rglob(asked.json()["id"])
        image.unlink()
    server.client.delete(f"/v1/jobs/{first}")
    job = ended(server, asked)
    assert (job["state"], job["error"]["message"]) == ("failed", "the picture that it paints on is no longer there")


@pytest.mark.skipif(REPLICAS > 0, reason="they share a store by themselves")
def test_a_server_that_ends_gives_its_jobs_to_another_one_at_once(quick_checkpoint: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with (
        Live(quick_checkpoint, tmp_path / "log1", store=store, drain=600) as first,
        ThreadPoolExecutor(2) as threads,
    ):
        with (
            halfway(first.ready(), 200, text="a cat") as asked,
            Live(quick_checkpoint, tmp_path / "log2", store=store) as second,
        ):
            following = threads.submit(first.client.get, f"{asked.headers['location']}/events")
            waiting = threads.submit(first.generate, text="a cat")
            first.wait(lambda: first.metrics()["dalle_pictures_in_flight"] == 1, "it is not accepted")
            second.ready()
            first.process.send_signal(signal.SIGTERM)
            *_, last, end = following.result().text.split("\n\n")
            assert (last, end) == (": the server is shutting down; Last-Event-ID goes on with this later", "")
            painted(second, place(asked), 200)
            assert first.process.poll() is None
        assert waiting.result().status_code == 200
        assert first.process.wait(60) == 0


@one_process("replicas end in the time that Ray gives them")
def test_a_store_that_hangs_does_not_hold_the_end(quick_checkpoint: Path, tmp_path: Path) -> None:
    """It is swept and asked to release its jobs, and comes back from neither."""
    hangs = "import threading; from app.jobs.store import Store as S; S.sweep = lambda *_: threading.Event().wait(); "
    hangs += "S.release = S.sweep; "
    with Live(quick_checkpoint, tmp_path / "log", store=tmp_path / "store", command=hangs + COMMAND) as server:
        server.ready()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        assert "Traceback" not in server.log


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
        halfway(first.ready(), 200, text="a cat", seed=9) as asked,
        Live(quick_checkpoint, tmp_path / "log2", **shared) as second,
    ):
        second.ready()
        first.process.kill()
        job = ended(second, asked)
        assert job["state"] == "completed"
        files = pictures(second, job)
        same = second.generate(text="a cat", num_images=10, seed=9, index=190, embed_prompt=True).json()
        assert [base64.b64decode(one) for one in same] == files[190:]
