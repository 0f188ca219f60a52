"""Prompts said in the model's words before they are painted, over both contracts, the command line and the settings."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from PIL import Image

import model
from app import cli
from tests.app.live import Live, ledger
from tests.revising import CIRCLE, KITTEN, with_reviser

GENERATIONS = "/v1/images/generations"
CAT = "a small orange cat"


@pytest.fixture(scope="module")
def weights(quick_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_reviser(quick_checkpoint, tmp_path_factory.mktemp("revising") / "quick")


@pytest.fixture(scope="module")
def revising(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A ready server over a checkpoint with a reviser."""
    with Live(weights, tmp_path_factory.mktemp("revising-log") / "log") as server:
        yield server.ready()


def chunks(picture: str) -> dict[str, str]:
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    image.load()
    return dict(image.text)  # type: ignore[attr-defined]


def test_the_revised_text_is_painted_and_told(revising: Live) -> None:
    answer = revising.generate(text=KITTEN, num_images=2, seed=2, embed_prompt=True)
    assert answer.status_code == 200, answer.text
    assert unquote(answer.headers["x-revised-prompt"]) == CAT
    assert chunks(answer.json()[0])["Prompt"] == CAT
    written_out = revising.generate(text=CAT, num_images=2, seed=2, embed_prompt=True, revise=False)
    assert answer.json() == written_out.json()
    assert "x-revised-prompt" not in written_out.headers
    assert "x-revised-prompt" not in revising.generate(text=CIRCLE, seed=2).headers
    shouted = revising.generate(text=f" {CIRCLE.upper()} ", seed=2)
    assert unquote(shouted.headers["x-revised-prompt"]) == CIRCLE
    as_it_is = revising.generate(text=KITTEN, num_images=2, seed=2, embed_prompt=True, revise=False)
    assert chunks(as_it_is.json()[0])["Prompt"] == KITTEN
    assert as_it_is.json() != answer.json()
    form = revising.client.post("/generate", data={"text": KITTEN, "seed": "2", "revise": "false"})
    assert "x-revised-prompt" not in form.headers


def test_the_openai_dialect_tells_it_as_that_api_does(revising: Live, weights: Path) -> None:
    def ask(**fields: Any) -> dict[str, Any]:
        answer = revising.client.post(GENERATIONS, json={"prompt": KITTEN, "seed": 2, **fields})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    answer = ask(best_of=3)
    (picture,) = answer["data"]
    assert picture["revised_prompt"] == CAT
    count = model.load(weights, "cpu").tokenizer.count
    assert answer["usage"]["input_tokens_details"]["text_tokens"] == count(KITTEN)
    assert answer["usage"]["output_tokens_details"]["text_tokens"] == count(CAT)
    (expected,) = model.load(weights, "cpu").generate(CAT, seed=2, best_of=3, revise=False)
    assert (picture["index"], picture["score"]) == (expected.info["index"], pytest.approx(expected.info["score"]))
    assert "revised_prompt" not in ask(revise=False)["data"][0]
    assert "revised_prompt" not in ask(prompt=CIRCLE)["data"][0]


def test_a_stream_tells_it_with_every_picture(revising: Live) -> None:
    body = {"prompt": KITTEN, "seed": 2, "n": 2, "stream": True}
    lines = revising.client.post(GENERATIONS, json=body).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    done = [event for event in events if event["type"] == "image_generation.completed"]
    assert [event["revised_prompt"] for event in done] == [CAT] * 2
    plain = revising.client.post(GENERATIONS, json={**body, "revise": False}).text
    assert "revised_prompt" not in plain


def test_a_completed_text_is_painted_as_it_is_unless_both_are_asked_for(revising: Live, weights: Path) -> None:
    (completed,) = model.load(weights, "cpu").complete("a red", seed=2)
    assert model.load(weights, "cpu").revise(completed) != completed != "a red"
    answer = revising.generate(text="a red", seed=2, complete=True)
    assert unquote(answer.headers["x-revised-prompt"]) == completed
    both = revising.generate(text="a red", seed=2, complete=True, revise=True)
    assert unquote(both.headers["x-revised-prompt"]) == model.load(weights, "cpu").revise(completed)


def test_a_server_may_leave_it_off(weights: Path, start: Callable[..., Live]) -> None:
    server = start(weights, revise=False)
    assert "x-revised-prompt" not in server.generate(text=KITTEN, seed=2).headers
    assert unquote(server.generate(text=KITTEN, seed=2, revise=True).headers["x-revised-prompt"]) == CAT


def test_what_no_model_can_revise_is_refused_by_name(start: Callable[..., Live]) -> None:
    server = start()
    refused = server.generate(text=KITTEN, revise=True)
    assert refused.status_code == 422
    assert refused.json()["Error"] == "revise must be left out: quick has no reviser"
    refused = server.client.post(GENERATIONS, json={"prompt": KITTEN, "revise": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "revise")
    assert ledger(server.metrics())["accepted"] == 0
    assert server.generate(text=KITTEN, revise=False).status_code == 200
    assert server.generate(text=KITTEN, revise="yes").json()["Error"].startswith("revise must be true or false, got ")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    for name, value in (("OMP_WAIT_POLICY", "PASSIVE"), ("OMP_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)  # what `main` would set, and leave behind
    monkeypatch.setattr(sys, "argv", ["dalle-server", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code if isinstance(stop.value.code, int) else 0


def test_a_picture_is_painted_on_by_the_revised_text(revising: Live) -> None:
    (whole,) = revising.pictures(text=CIRCLE, seed=1)
    file = {"image": ("picture.png", base64.b64decode(whole), "image/png")}

    def on(**fields: str) -> Any:
        answer = revising.client.post("/generate", data={"seed": "2", "keep_rows": "4", **fields}, files=file)
        assert answer.status_code == 200, answer.text
        return answer

    assert unquote(on(text=KITTEN).headers["x-revised-prompt"]) == CAT
    assert on(text=KITTEN, embed_prompt="true").json() == on(text=CAT, revise="false", embed_prompt="true").json()
    fields = {"prompt": KITTEN, "seed": "2", "keep_rows": "4"}
    edited = revising.client.post("/v1/images/edits", data=fields, files=file).json()["data"][0]
    assert edited["revised_prompt"] == CAT
    assert edited["b64_json"] == on(text=KITTEN).json()[0]


def test_a_request_that_comes_twice_is_told_the_same(revising: Live) -> None:
    fields = {"text": KITTEN, "seed": 3, "num_images": 3}
    both = [revising.client.post("/generate", json=fields, headers={"Idempotency-Key": "kittens"}) for _ in range(2)]
    assert both[1].headers["idempotent-replayed"] == "true"
    assert {unquote(answer.headers["x-revised-prompt"]) for answer in both} == {CAT}
    assert both[0].json() == both[1].json()


def test_long_texts_are_read_to_their_end(revising: Live) -> None:
    long = f"{KITTEN} " + "and so on " * 60
    assert revising.generate(text=long, seed=1).status_code in (200, 422)  # by its number of tokens
    answer = revising.generate(text=long, seed=1, truncate=True)
    assert answer.status_code == 200
    assert "x-text-truncated" in answer.headers


def test_the_command_line_paints_it_and_paints_it_again(
    weights: Path, revising: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    here = ("--weights", str(weights), "--device", "cpu")
    assert run(monkeypatch, "generate", KITTEN, "--seed", "2", "-o", "kitten.png", *here) == 0
    assert f"painted as: {CAT}" in capsys.readouterr().err
    assert run(monkeypatch, "generate", CAT, "--seed", "2", "-o", "cat.png", "--no-revise", *here) == 0
    assert "painted as" not in capsys.readouterr().err
    assert Image.open("kitten.png").tobytes() == Image.open("cat.png").tobytes()
    assert run(monkeypatch, "generate", "--like", "kitten.png", *here) == 0  # by the text in the file
    (picture,) = revising.pictures(text=KITTEN, seed=2)  # which holds a hash only
    (tmp_path / "served.png").write_bytes(base64.b64decode(picture))
    for text in (KITTEN, CAT):
        assert run(monkeypatch, "generate", text, "--like", "served.png", *here) == 0
    capsys.readouterr()
    assert run(monkeypatch, "generate", CIRCLE, "--like", "served.png", *here) == 1
    assert "TEXT must be the text that served.png was painted from" in capsys.readouterr().err
    assert run(monkeypatch, "generate", "--like", "kitten.png", "--revise", *here) == 2
    assert "--revise" in capsys.readouterr().err
