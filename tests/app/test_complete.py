"""Texts completed before they are painted, and the best of many by the checkpoint's CLIP, over both contracts."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from PIL import Image

import model
from app.pool.job import Job, Order
from model.checkpoints import sums
from model.inference.events import Revised
from model.inference.requests import Completion, GenerationRequest, SamplingParams
from tests.app.live import Live, ledger

GENERATIONS = "/v1/images/generations"
TEXT = "a red apple"


@pytest.fixture(scope="module")
def painter(quick_checkpoint: Path) -> model.Painter:
    return model.load(quick_checkpoint, "cpu")


@pytest.fixture(scope="module")
def completed(painter: model.Painter) -> str:
    """What the model makes of TEXT with the seed 2."""
    (text,) = painter.complete(TEXT, seed=2)
    assert text.startswith(TEXT)
    assert text != TEXT
    return text


def chunks(picture: str) -> dict[str, str]:
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    image.load()
    return dict(image.text)  # type: ignore[attr-defined]


def generations(live: Live, **fields: Any) -> dict[str, Any]:
    answer = live.client.post(GENERATIONS, json={"prompt": TEXT, "seed": 2, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_completed_text_is_painted_and_told(live: Live, completed: str) -> None:
    answer = live.generate(text=TEXT, num_images=2, seed=2, complete=True)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-revised-prompt"].isascii()
    assert unquote(answer.headers["x-revised-prompt"]) == completed
    plain = live.generate(text=completed, num_images=2, seed=2)
    assert answer.json() == plain.json() != live.pictures(text=TEXT, num_images=2, seed=2)
    assert "x-revised-prompt" not in plain.headers
    (picture,) = live.pictures(text=TEXT, seed=2, complete=True, embed_prompt=True)
    assert chunks(picture)["Prompt"] == completed
    assert live.pictures(text=TEXT, seed=2, complete=False) == live.pictures(text=TEXT, seed=2)


def test_the_openai_dialect_tells_it_as_that_api_does(live: Live, painter: model.Painter, completed: str) -> None:
    answer = generations(live, complete=True)
    (picture,) = answer["data"]
    assert picture["revised_prompt"] == completed
    count = painter.tokenizer.count
    usage = answer["usage"]
    assert usage["input_tokens_details"]["text_tokens"] == count(TEXT)
    assert usage["output_tokens_details"]["text_tokens"] == count(completed) - count(TEXT) > 0
    assert usage["output_tokens"] == sum(usage["output_tokens_details"].values())
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert "revised_prompt" not in generations(live)["data"][0]


def test_a_stream_tells_it_with_every_picture(live: Live, completed: str) -> None:
    body = {"prompt": TEXT, "seed": 2, "n": 2, "complete": True, "stream": True}
    lines = live.client.post(GENERATIONS, json=body).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    done = [event for event in events if event["type"] == "image_generation.completed"]
    assert [event["revised_prompt"] for event in done] == [completed] * 2
    assert sum(event["usage"]["output_tokens_details"]["text_tokens"] for event in done) > 0
    by_index = {event["index"]: event["b64_json"] for event in done}
    assert [by_index[0], by_index[1]] == live.pictures(text=completed, num_images=2, seed=2)


def test_what_cannot_be_completed_is_refused_by_name(
    quick_checkpoint: Path, start: Callable[..., Live], tmp_path: Path
) -> None:
    mute = Path(shutil.copytree(quick_checkpoint, tmp_path / "mute"))
    config = json.loads((mute / "config.json").read_text())
    (mute / "config.json").write_text(json.dumps({**config, "completes": False}))
    sums.write(mute)
    server = start(mute)
    refused = server.generate(text=TEXT, complete=True)
    assert refused.status_code == 422
    assert refused.json()["Error"] == "complete must be left out: quick was not trained to continue texts"
    refused = server.client.post(GENERATIONS, json={"prompt": TEXT, "complete": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "complete")
    assert ledger(server.metrics())["accepted"] == 0


@pytest.mark.parametrize("value", ["yes", 1, [True]])
def test_a_wrong_value_is_named(live: Live, value: object) -> None:
    refused = live.generate(text=TEXT, complete=value)
    assert refused.status_code == 422
    assert refused.json()["Error"].startswith("complete must be true or false, got ")


def test_the_best_of_many_are_those_of_the_clip(live: Live, painter: model.Painter) -> None:
    expected = painter.generate(TEXT, n=2, seed=2, best_of=4)
    data = generations(live, n=2, best_of=4)["data"]
    assert [picture["index"] for picture in data] == [image.info["index"] for image in expected]
    assert [picture["score"] for picture in data] == pytest.approx([image.info["score"] for image in expected])
    assert -1 <= data[1]["score"] < data[0]["score"] <= 1


def test_the_best_of_a_completed_text_fit_that_text(live: Live, painter: model.Painter, completed: str) -> None:
    (best,) = generations(live, best_of=3, complete=True)["data"]
    (expected,) = painter.generate(completed, seed=2, best_of=3)
    assert (best["index"], best["score"]) == (expected.info["index"], pytest.approx(expected.info["score"]))


def test_a_job_keeps_what_the_worker_told() -> None:
    params = SamplingParams(seed=1)
    request = GenerationRequest("a", (0, 5, 1), 1, params, complete=Completion())
    job = Job(Order(TEXT, request), 1)
    assert (job.prompt, job.revised) == (TEXT, None)
    job.post(Revised("a", "a red apple pie", 4), 0)
    assert job.prompt == "a red apple pie"
    assert job.remaining() == request
