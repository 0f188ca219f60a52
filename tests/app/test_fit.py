"""How well a prompt is known, over both contracts; prompts that are refused; and what the model paints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from app import cli
from model.checkpoints import load, sums
from model.things import THINGS
from tests.app.live import OUTCOMES, Live, ledger
from tests.revising import keep, learnt
from tests.running import runner

GENERATIONS = "/v1/images/generations"
FACE = "a thinking face"
PAIRS = (("a blue circle", "a blue circle"), ("two kittens", "a cat"), ("flurb gronk", FACE), ("an appel", FACE))
LISTED = [
    {"name": "a cat", "group": "animal", "words": ["a kitten"]},
    {"name": "a blue circle", "group": "shape", "words": []},
    {"name": "an apple", "group": "food", "words": []},
    {"name": FACE, "group": "face", "words": []},
]


@pytest.fixture(scope="module")
def weights(quick_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a reviser and a list of things."""
    checkpoint = load(quick_checkpoint)
    path = tmp_path_factory.mktemp("fit") / "quick"
    keep(checkpoint, learnt(checkpoint.own().tokenizer, PAIRS), path)
    (path / THINGS).write_text(json.dumps(LISTED))
    sums.write(path)
    return path


@pytest.fixture(scope="module")
def server(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A ready server over it."""
    with Live(weights, tmp_path_factory.mktemp("fit-log") / "log") as live:
        yield live.ready()


def test_a_header_says_how_well_the_text_is_known(server: Live) -> None:
    for text, fit in (("a blue circle", "known"), ("two kittens", "near"), ("flurb gronk", "unknown")):
        answer = server.generate(text=text, seed=1)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-prompt-fit"] == fit
        assert "x-prompt-closest" not in answer.headers
    answer = server.generate(text="an appel", seed=1)
    assert unquote(answer.headers["x-prompt-closest"]) == "an apple"
    assert "x-prompt-fit" not in server.generate(text="flurb gronk", seed=1, revise=False).headers


def test_the_openai_dialect_has_a_key(server: Live) -> None:
    def ask(**fields: Any) -> Any:
        return server.client.post(GENERATIONS, json={"seed": 1, **fields})

    assert ask(prompt="a blue circle").json()["prompt_fit"] == "known"
    unknown = ask(prompt="an appel").json()
    assert (unknown["prompt_fit"], unknown["prompt_closest"]) == ("unknown", "an apple")
    lines = ask(prompt="an appel", stream=True).text.splitlines()
    (done,) = [json.loads(line[6:]) for line in lines if line.startswith('data: {"type":"image_generation.completed"')]
    assert (done["prompt_fit"], done["prompt_closest"]) == ("unknown", "an apple")
    assert "prompt_fit" not in ask(prompt="an appel", revise=False).json()


def test_an_unknown_text_is_refused_where_that_is_asked_for(server: Live) -> None:
    refused = server.generate(text="an appel", on_unknown="refuse")
    assert refused.status_code == 422
    assert refused.json()["Error"] == "text must be something that the model knows, got 'an appel'. Closest: an apple"
    body = {"prompt": "flurb gronk", "on_unknown": "refuse"}
    refused = server.client.post(GENERATIONS, json=body)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"], error["code"]) == (400, "prompt", "unknown_prompt")
    assert error["message"] == "prompt must be something that the model knows, got 'flurb gronk'"
    stream = server.client.post(GENERATIONS, json={**body, "stream": True}).text
    assert '"param":"prompt"' in stream
    assert "[DONE]" not in stream
    assert server.generate(text="a blue circle", on_unknown="refuse").status_code == 200
    ended = ledger(server.metrics())
    assert sum(ended[outcome] for outcome in OUTCOMES) == ended["accepted"]  # none is left in flight
    wrong = server.generate(text="a blue circle", on_unknown="guess")
    assert wrong.json()["Error"].startswith("on_unknown must be ")


def test_the_list_of_things_can_be_searched(server: Live) -> None:
    def found(**query: Any) -> Any:
        return server.client.get("/things", params=query).json()

    assert found()["total"] == 4
    assert found(q="kit") == {"total": 1, "things": [{"name": "a cat", "group": "animal"}]}
    assert found(q="nothing") == {"total": 0, "things": []}
    assert len(found(limit=2)["things"]) == 2
    assert server.client.get("/gallery").json() == {"columns": 1, "pictures": []}
    assert server.client.get("/gallery.webp").status_code == 404


def test_the_command_line_says_and_refuses_as_the_server(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = runner("dalle-server", cli.main, capsys, monkeypatch, tmp_path)
    here = ("--weights", weights, "--device", "cpu", "--seed", 1)
    unknown = command("generate", "an appel", *here)
    assert unknown.status == 0, unknown.err
    assert "I don't know 'an appel'. Closest: an apple" in unknown.err
    assert "painted as: a cat, the nearest that I can paint" in command("generate", "two kittens", *here).err
    refused = command("generate", "an appel", "--on-unknown", "refuse", *here)
    assert refused.status == 1
    assert refused.err.strip().endswith(
        "text must be something that the model knows, got 'an appel'. Closest: an apple"
    )
    (tmp_path / "lines.txt").write_text("an appel\na blue circle\n")
    lines = command("generate", "--prompts", "lines.txt", "--on-unknown", "refuse", *here)
    assert lines.status == 1
    assert "an appel" in lines.err
    (told,) = [json.loads(line) for line in (tmp_path / "lines" / "manifest.jsonl").read_text().splitlines()]
    assert (told["text"], told["fit"]) == ("a blue circle", "known")
