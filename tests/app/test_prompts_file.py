"""`dalle-server generate --prompts FILE`: here and by a server, gone on with after a break, with every line checked."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import model
from app import cli
from tests.app.live import Live
from tests.running import Result, Run, runner

LINES: list[dict[str, object]] = [
    {"text": "a red apple", "count": 3, "seed": 5},
    {"text": "a cat", "num_images": 2, "best_of": 4, "seed": 1},
    {"text": "a blue circle", "temperature": 0.5, "guidance": 1, "index": 7},
    {"text": "a blue circle", "temperature": 0.5, "guidance": 1, "index": 7},
]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run `dalle-server generate` with these arguments in an empty folder."""
    command = runner("dalle-server", cli.main, capsys, monkeypatch, tmp_path)
    return lambda *arguments: command("generate", *arguments)


def write(file: Path, lines: list[dict[str, object]] = LINES) -> Path:
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return file


def manifest(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def rgb(file: Path) -> bytes:
    with Image.open(file) as image:
        return image.convert("RGB").tobytes()


def fault(result: Result) -> str:
    """The line on stderr of a command that failed as it should."""
    assert result.status == 1
    (line,) = result.err.strip().splitlines()
    return line


def test_every_line_is_painted_once(run: Run, quick_checkpoint: Path, tmp_path: Path) -> None:
    write(tmp_path / "prompts.jsonl")
    here = ("--prompts", "prompts.jsonl", "--weights", quick_checkpoint)
    done = run(*here)
    assert (done.status, done.out.split()) == (0, ["prompts/sheet-1.png"]), done.err
    told = manifest(tmp_path / "prompts")
    by_line = sorted(told, key=lambda one: (one["line"], one["number"]))
    assert [(one["line"], one["text"]) for one in by_line] == [
        *[(1, "a red apple")] * 3, *[(2, "a cat")] * 2, (3, "a blue circle"), (4, "a blue circle")
    ]  # fmt: skip
    painter = model.load(quick_checkpoint, "cpu")
    files = [tmp_path / "prompts" / one["file"] for one in by_line]
    assert [file.name for file in files[:3]] == [f"0001-a-red-apple-{i}.png" for i in (1, 2, 3)]
    same = [*painter.generate("a red apple", 3, seed=5), *painter.generate("a cat", 2, seed=1, best_of=4)]
    assert [rgb(file) for file in files[:5]] == [image.tobytes() for image in same]
    assert by_line[5]["index"] == 7
    assert by_line[5]["seed"] != by_line[6]["seed"]
    again = painter.generate("a blue circle", seed=by_line[5]["seed"], temperature=0.5, guidance=1, index=7)[0]
    assert rgb(files[5]) == again.tobytes()

    files[1].unlink()
    times = {file: file.stat().st_mtime_ns for file in files if file.exists()}
    with (tmp_path / "prompts" / "manifest.jsonl").open("a") as file:
        file.write('{"file": "cut sho')
    write(tmp_path / "prompts.jsonl", [{"text": "a dog"}, LINES[0] | {"count": 4}, *LINES[1:]])
    done = run(*here)
    assert "3 pictures to paint, 6 were there" in done.err
    assert {file: file.stat().st_mtime_ns for file in times} == times
    new = manifest(tmp_path / "prompts")[7:]
    assert [(one["text"], one["number"]) for one in new] == [("a dog", 0), ("a red apple", 1), ("a red apple", 3)]
    assert rgb(tmp_path / "prompts" / new[1]["file"]) == same[1].tobytes()
    assert "0 pictures to paint, 9 were there" in run(*here).err


def test_a_text_file_takes_the_flags(run: Run, quick_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffa red apple\r\n\r\n红苹果\n".encode())
    options = ("--prompts", "a.txt", "--weights", quick_checkpoint, "-n", 2, "--seed", 3, "--top-k", 4, "-o", "x/y")
    assert run(*options).status == 0
    told = manifest(tmp_path / "x" / "y")
    assert [(one["text"], one["seed"], one["index"]) for one in told] == [
        ("a red apple", 3, 0), ("a red apple", 3, 1), ("红苹果", 3, 0), ("红苹果", 3, 1)
    ]  # fmt: skip
    with Image.open(tmp_path / "x" / "y" / told[2]["file"]) as image:
        assert json.loads(image.info["Parameters"])["top_k"] == 4
        assert image.info["Prompt"] == "红苹果"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "a cat", "temperature": 9}', "temperature must be a number from 0 to 5, got 9"),
        ('{"text": "a cat", "colour": 1}', "colour is not a field"),
        ('{"seed": 1}', "text is missing"),
        ('{"text": "a cat", "count": 0}', "count must be an integer from 1 to 1000, got 0"),
        ('{"text": "a cat", "count": 3, "best_of": 2}', "best_of must be from 3"),
        ('{"text": "a cat", "count": 3, "num_images": 2}', "count or num_images must be given, got both"),
        ('{"text": "a cat", "style": "oil"}', "style must be auto"),
        ('{"text": "a cat", "model": "other"}', "model must be quick, got 'other'"),
        ('{"text": "a cat", "revise": true}', "revise must be left out"),
        ('{"text": "a cat", "embed_prompt": false}', "embed_prompt must be true"),
        (json.dumps({"text": "a cat " * 300}), "text must have at most"),
        ("[1]", "it must be a JSON object"),
        ("{", "not JSON"),
    ],
)
def test_a_wrong_line_is_named_before_anything_is_painted(
    run: Run, quick_checkpoint: Path, tmp_path: Path, line: str, said: str
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a dog"}\n\n' + line)
    told = fault(run("--prompts", "a.jsonl", "--weights", quick_checkpoint))
    assert told.startswith(f"dalle-server: a.jsonl, line 3: {said}") or said in told.removeprefix("a.jsonl, line 3: ")
    assert "a.jsonl, line 3: " in told
    assert not (tmp_path / "a").exists()


def test_what_cannot_be_is_refused(run: Run, quick_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a dog\n\xff\n")
    (tmp_path / "none.txt").write_bytes(b"\n\n")
    assert fault(run("--prompts", "a.txt")) == "dalle-server: a.txt, line 2: it must be UTF-8, got the byte 0xff"
    assert "none.txt must hold a prompt, got none" in fault(run("--prompts", "none.txt"))
    assert "--prompts must end in .txt or .jsonl, got a.csv" in fault(run("--prompts", "a.csv"))
    assert "top_k must be an integer" in fault(run("--prompts", "a.txt", "--top-k", -1))
    assert run("a cat", "--prompts", "a.txt").status == 2
    assert run("a cat", "--server", "http://localhost").status == 2
    assert run("--prompts", "a.txt", "--server", "http://localhost", "--weights", quick_checkpoint).status == 2
    (tmp_path / "b.txt").write_text("a dog")
    assert "--server must be an address such as http" in fault(run("--prompts", "b.txt", "--server", "localhost:8000"))
    assert "does not answer: " in fault(run("--prompts", "b.txt", "--server", "http://127.0.0.1:9"))
    assert not (tmp_path / "b").exists()


def test_a_server_paints_the_same_files(run: Run, live: Live, quick_checkpoint: Path, tmp_path: Path) -> None:
    write(tmp_path / "prompts.jsonl")
    done = run("--prompts", "prompts.jsonl", "--server", live.url, "--out", "there")
    assert done.status == 0, done.err
    told = manifest(tmp_path / "there")
    assert len(told) == 7
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / ".seed").write_text((tmp_path / "there" / ".seed").read_text())
    assert run("--prompts", "prompts.jsonl", "--weights", quick_checkpoint, "--out", "here").status == 0

    def files(folder: str) -> dict[str, bytes]:
        return {one["file"]: (tmp_path / folder / one["file"]).read_bytes() for one in manifest(tmp_path / folder)}

    assert files("there") == files("here")
    assert {one["file"]: one for one in told} == {one["file"]: one for one in manifest(tmp_path / "here")}

    before = live.metrics()["dalle_pictures_total"]
    (tmp_path / "there" / told[0]["file"]).unlink()
    assert run("--prompts", "prompts.jsonl", "--server", live.url, "--out", "there").status == 0
    assert files("there") == files("here")
    assert live.metrics()["dalle_pictures_total"] == before, "the job is found again, and only fetched"


def test_pictures_that_the_server_has_removed_are_painted_again(run: Run, start: Any, tmp_path: Path) -> None:
    server, long = start(store=tmp_path / "store"), "\U00020000" * 60  # a name as long as a file may have
    write(tmp_path / "a.jsonl", [{"text": "a dog", "count": 2}, {"text": long, "count": 2}])
    there = ("--prompts", "a.jsonl", "--server", server.url)
    assert run(*there).status == 0
    before = {one["file"]: (tmp_path / "a" / one["file"]).read_bytes() for one in manifest(tmp_path / "a")}
    (tmp_path / "a" / manifest(tmp_path / "a")[1]["file"]).unlink()
    with sqlite3.connect(tmp_path / "store" / "jobs.sqlite3") as database:
        database.execute("delete from pictures")
    done = run(*there)
    assert (done.status, "1 pictures to paint, 3 were there" in done.err) == (0, True), done.err
    assert {one["file"]: (tmp_path / "a" / one["file"]).read_bytes() for one in manifest(tmp_path / "a")} == before


def test_a_line_that_the_server_refuses_is_named(run: Run, live: Live, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"text": "a dog", "count": 1000}, {"text": "a cat " * 300}])
    with live.stopped():
        told = fault(run("--prompts", "a.jsonl", "--server", live.url))
    assert "a.jsonl, line 2: text must have at most" in told
    assert manifest(tmp_path / "a") == []
    jobs = live.client.get("/v1/jobs", params={"limit": 1}).json()["data"]
    assert jobs[0]["state"] == "cancelled"


def test_more_than_a_server_takes_is_painted_one_after_another(run: Run, start: Any, tmp_path: Path) -> None:
    server = start(store=tmp_path / "store", keep_pictures=1000).ready()  # it takes 500 pictures of one client
    write(tmp_path / "a.jsonl", [{"text": "a dog", "count": 170, "seed": seed, "guidance": 1} for seed in range(3)])
    with ThreadPoolExecutor(1) as threads, contextlib.ExitStack() as stopped:
        stopped.enter_context(server.stopped())
        refused = threads.submit(server.wait, lambda: "status=429" in server.log, "nothing is refused")
        refused.add_done_callback(lambda _: stopped.close())
        done = run("--prompts", "a.jsonl", "--server", server.url)
        refused.result()
    assert done.status == 0, done.err
    assert len(manifest(tmp_path / "a")) == 510


def test_the_key_comes_from_the_environment(
    run: Run, start: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from app.http.keys import key_hash, make_key

    key = make_key()
    server = start(api_keys=key_hash(key), store=tmp_path / "store")
    (tmp_path / "a.txt").write_text("a dog")
    monkeypatch.setenv("DALLE_CLIENT_KEY", "another")
    assert "key" in fault(run("--prompts", "a.txt", "--server", server.url))
    monkeypatch.setenv("DALLE_CLIENT_KEY", key)
    done = run("--prompts", "a.txt", "--server", server.url)
    assert (done.status, len(manifest(tmp_path / "a"))) == (0, 1), done.err
