"""The log of a server on which everything goes wrong once: JSON, a line a request, one id through all, no prompt."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model.checkpoints import load, save
from tests.app.live import COMMAND, Live
from tests.app.quick import SIZE

PROMPT = "a turquoise walrus"
WORDS = ("turquoise", "walrus")
BREAKS_MODEL = f"{PROMPT} Q"  # whose last token makes the logits NaN
BREAKS_ENCODER = f"{PROMPT} !"
PAINT, EDIT = "/v1/images/generations", "/v1/images/edits"
# The server, whose encoder of PNG files fails at one prompt with words that repeat it.
BROKEN = f"""
import app.pictures.encode
encode = app.pictures.encode.encode_png
def broken(rgb, width, height, texts=None):
    if "!" in (texts or {{}}).get("Prompt", ""):
        raise RuntimeError(f"cannot write {{texts}}") from ValueError(texts["Prompt"])
    return encode(rgb, width, height, texts)
app.pictures.encode.encode_png = broken
{COMMAND}"""
Line = dict[str, Any]


class Requests:
    """Requests to a server, each with an id of its own."""

    def __init__(self, server: Live) -> None:
        self.server = server
        self.status: dict[str, int] = {}

    def send(self, name: str, path: str = "/generate", headers: dict[str, str] | None = None, **options: Any) -> str:
        """Send a request whose id is `name`, and return the answer's text; note its status."""
        headers = {"X-Request-Id": name, **(headers or {})}
        with self.server.client.stream("POST", path, headers=headers, **options) as answer:
            assert answer.headers["x-request-id"] == name
            self.status[name] = answer.status_code
            return answer.read().decode()


@pytest.fixture(scope="module")
def requests(quick_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Requests]:
    """All requests have been sent, and answered."""
    folder = tmp_path_factory.mktemp("logs")
    checkpoint = load(quick_checkpoint)
    letter = checkpoint.tokenizer.encode("Q")[-2]
    checkpoint.own().transformer.text_table.weight.data[letter] = 3e38  # finite, and its square is not
    parts = (checkpoint.config, checkpoint.tokenizer, checkpoint.vae, checkpoint.transformer)
    save(folder / "fragile", *parts, clip=checkpoint.clip)
    with Live(folder / "fragile", folder / "log", ["--log", "json"], BROKEN, log_level="debug") as server:
        sent = Requests(server.ready())
        painted(sent)
        refused(sent)
        failed(sent)
        crashed(sent)
        server.client.get("/livez", headers={"X-Request-Id": "probe"})
        server.wait(lambda: '"id": "probe"' in server.log, "no line of the last request")
        yield sent


def painted(sent: Requests) -> None:
    png = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), "red").save(png, "PNG")
    sent.send("json", json={"text": PROMPT, "embed_prompt": True})
    sent.send("form", data={"text": PROMPT, "best_of": "2"})
    sent.send("cut", json={"text": PROMPT * 100, "truncate": True})
    sent.send("openai", PAINT, json={"prompt": PROMPT, "user": PROMPT})
    sent.send("stream", PAINT, json={"prompt": PROMPT, "stream": True, "partial_images": 3})
    sent.send("edit", EDIT, data={"prompt": PROMPT, "keep_rows": "4"}, files={"image": png.getvalue()})
    for name in ("first", "joined"):
        sent.send(name, headers={"Idempotency-Key": "one"}, json={"text": PROMPT})


def refused(sent: Requests) -> None:
    sent.send("field", json={"text": "a", PROMPT: PROMPT})
    sent.send("value", json={"text": "a", "seed": PROMPT})
    sent.send("long", json={"text": PROMPT * 100})
    sent.send("bad", content=f'{{"text": "{PROMPT}"'.encode(), headers={"Content-Type": "application/json"})
    sent.send("type", content=PROMPT.encode(), headers={"Content-Type": f"text/{WORDS[0]}"})
    sent.send("header", json={"text": PROMPT}, headers={"X-Request-Timeout": WORDS[1]})
    sent.send("conflict", json={"text": PROMPT, "seed": 1}, headers={"Idempotency-Key": "one"})
    sent.send("model", PAINT, json={"prompt": PROMPT, "model": PROMPT})
    sent.send("file", EDIT, data={"prompt": PROMPT}, files={PROMPT: PROMPT.encode()})
    sent.send("query", f"/no-such?{WORDS[0]}")


def failed(sent: Requests) -> None:
    sent.send("no-logits", json={"text": BREAKS_MODEL})
    sent.send("encoder", json={"text": BREAKS_ENCODER, "embed_prompt": True})
    told = sent.send("broken-stream", PAINT, json={"prompt": BREAKS_ENCODER, "embed_prompt": True, "stream": True})
    *_, last, end = told.split("\n\n")
    assert (json.loads(last.removeprefix("data: "))["error"]["code"], end) == ("internal_error", "")
    with sent.server.stopped():
        sent.send("late", json={"text": PROMPT}, headers={"X-Request-Timeout": "0.3"})


def crashed(sent: Requests) -> None:
    (worker,) = sent.server.workers()
    with sent.server.stopped():
        sending = threading.Thread(target=sent.send, args=("crash",), kwargs={"json": {"text": PROMPT}})
        sending.start()
        sent.server.wait(lambda: sent.server.in_flight() == 1, "not accepted")
        os.kill(worker, signal.SIGKILL)
    sending.join()


@pytest.fixture(scope="module")
def lines(requests: Requests) -> list[Line]:
    """Of the log; each is a JSON object."""
    found = [json.loads(line) for line in requests.server.log.splitlines()]
    for line in found:
        assert {"time", "level", "message"} <= line.keys()
    return found


def test_everything_happened(requests: Requests) -> None:
    assert requests.status == {
        **dict.fromkeys(["json", "form", "cut", "openai", "stream", "edit", "first", "joined", "crash"], 200),
        **dict.fromkeys(["field", "value", "long"], 422),
        **dict.fromkeys(["bad", "header", "file"], 400),
        "type": 415, "conflict": 409, "model": 404, "query": 404, "late": 504,
        "no-logits": 500, "encoder": 500, "broken-stream": 200,
    }  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_no_word_of_any_prompt_is_in_the_log(requests: Requests, lines: list[Line], word: str) -> None:
    assert len(lines) > len(requests.status)
    assert word not in requests.server.log.lower()


def test_every_request_has_one_line_with_its_id_and_status(requests: Requests, lines: list[Line]) -> None:
    for name, status in requests.status.items():
        (line,) = [line for line in lines if line.get("id") == name and "status" in line]
        assert line["status"] == status
        assert line["message"].startswith("POST /")
        assert ("error" in line) == (status != 200 or name == "broken-stream")
        if status == 200:
            assert line["characters"] >= len(PROMPT)
            assert line["images"] >= 1


def test_the_same_id_is_in_the_lines_of_the_pool_and_of_the_worker(lines: list[Line]) -> None:
    def about(name: str) -> list[str]:
        return [line["message"] for line in lines if "status" not in line and name in json.dumps(line)]

    jobs = {line["id"]: line["job"] for line in lines if "job" in line}
    assert jobs["json"].endswith("/json")
    assert jobs["joined"] == jobs["first"]
    assert about(jobs["no-logits"]) == [f"request {jobs['no-logits']}, image 0: no finite logits"]
    (died,) = about(jobs["crash"])
    assert died.startswith("worker ")
    assert "was killed from outside by SIGKILL" in died


def test_a_fault_of_ours_is_told_by_its_kind_and_places(lines: list[Line]) -> None:
    for name in ("encoder", "broken-stream"):
        (fault,) = [line for line in lines if line.get("id") == name and "traceback" in line]
        assert fault["level"] == "error"
        first, last = fault["traceback"].split("\nafter\n")
        assert first.endswith("builtins.RuntimeError")
        assert "app/pictures/encode.py:" in first
        assert last == "builtins.ValueError"


def test_what_goes_wrong_outside_of_requests_is_logged_without_words(start: Callable[..., Live]) -> None:
    """In a callback of the event loop, in a thread, and as a warning: each one more JSON line."""
    breaks = f"""
import asyncio, threading, warnings
from app import server
run = server.Server.on_tick
def wrong(word):
    raise RuntimeError(word)
async def tick(self, counter):
    if counter == 0:
        asyncio.get_running_loop().call_soon(wrong, {WORDS[0]!r})
        threading.Thread(target=wrong, args=({WORDS[1]!r},)).start()
        warnings.warn("of some package", UserWarning)
    return await run(self, counter)
server.Server.on_tick = tick
{COMMAND}"""
    server = start(command=breaks, flags=["--log", "json"])
    faults = ("on the event loop", "in a thread", "UserWarning")
    server.wait(lambda: all(fault in server.log for fault in faults), "not all was logged")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0
    told = {line["message"]: line.get("traceback", "") for line in map(json.loads, server.log.splitlines())}
    for where in ("on the event loop", "in a thread"):
        assert told[f"a fault of ours {where}"].endswith("in wrong\nbuiltins.RuntimeError")
    assert any("UserWarning: of some package" in message for message in told)
    assert not any(word in server.log for word in WORDS)
