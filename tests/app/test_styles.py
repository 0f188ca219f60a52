"""Styles over both contracts, the command line and the provenance: what is asked for, painted and told."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import openai
import pytest
from PIL import Image

import model
from app import cli
from tests.app.live import Live, ledger
from tests.revising import CIRCLE, KITTEN
from tests.running import Run, runner
from tests.styling import APPLE, CAT, MINE, with_styles

GENERATIONS = "/v1/images/generations"
DEEP = "a 3d cat"


@pytest.fixture(scope="module")
def weights(quick_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_styles(quick_checkpoint, tmp_path_factory.mktemp("styles") / "quick")


@pytest.fixture(scope="module")
def server(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A ready server over a checkpoint with two styles."""
    with Live(weights, tmp_path_factory.mktemp("styles-log") / "log") as live:
        yield live.ready()


def chunks(picture: str) -> dict[str, str]:
    return in_file(base64.b64decode(picture))


def in_file(data: bytes) -> dict[str, str]:
    image = Image.open(io.BytesIO(data))
    image.load()
    return dict(image.text)  # type: ignore[attr-defined]


def texts(answer: Any) -> list[str]:
    found: list[str] = json.loads(unquote(answer.headers["x-revised-prompts"]))
    return found


def test_four_pictures_are_two_of_each_style_and_each_is_told(server: Live) -> None:
    answer = server.generate(text=KITTEN, num_images=4, seed=2, embed_prompt=True)
    assert answer.status_code == 200, answer.text
    styles = answer.headers["x-styles"].split(",")
    assert sorted(styles) == ["3d", "3d", "flat", "flat"]
    assert unquote(answer.headers["x-revised-prompt"]) == CAT  # as clients know it that know no styles
    assert texts(answer) == [{"flat": CAT, "3d": DEEP}[style] for style in styles]
    for picture, style, text in zip(answer.json(), styles, texts(answer), strict=True):
        told = chunks(picture)
        assert (told["Style"], told["Prompt"]) == (style, text)
        alone = server.generate(text=KITTEN, seed=2, index=int(told["Index"]), embed_prompt=True)
        assert alone.json() == [picture]
        assert alone.headers["x-styles"] == style
        again = server.generate(text=text, seed=2, index=int(told["Index"]), revise=False)
        as_told, as_sent = (Image.open(io.BytesIO(base64.b64decode(one))) for one in (again.json()[0], picture))
        assert as_told.tobytes() == as_sent.tobytes()


def test_a_style_can_be_asked_for(server: Live) -> None:
    deep = server.generate(text=APPLE, num_images=2, seed=1, style="3d")
    assert deep.headers["x-styles"] == "3d,3d"
    assert "x-revised-prompt" not in deep.headers
    assert texts(deep) == ["a 3d red apple"] * 2
    flat = server.generate(text=APPLE, num_images=2, seed=1, style="flat")
    assert flat.headers["x-styles"] == "flat,flat"
    assert "x-revised-prompts" not in flat.headers
    assert server.generate(text=APPLE, num_images=2, seed=1, style=None).headers["x-styles"] in ("flat,3d", "3d,flat")
    circle = server.generate(text=CIRCLE, num_images=2, seed=1, style="3d")  # which 3d does not know
    assert circle.headers["x-styles"] == "flat,flat"
    assert (circle.headers["x-prompt-fit"], circle.headers["x-missing-style"]) == ("near", "3d")
    for known in (deep, flat, server.generate(text=CIRCLE, seed=1)):
        assert known.headers["x-prompt-fit"] == "known"
        assert "x-missing-style" not in known.headers
    assert circle.json() == server.generate(text=CIRCLE, num_images=2, seed=1).json()
    form = server.client.post("/generate", data={"text": APPLE, "seed": "1", "style": "3d"})
    assert form.json() == deep.json()[:1]
    mine = server.generate(text=MINE, num_images=2, seed=1)
    assert (mine.headers["x-styles"], unquote(mine.headers["x-revised-prompt"])) == ("3d,3d", CAT)
    assert texts(mine) == [DEEP] * 2
    assert mine.json() == server.generate(text=KITTEN, num_images=2, seed=1, style="3d").json()
    as_it_is = server.generate(text=CAT, num_images=2, seed=1, revise=False)
    assert as_it_is.headers["x-styles"] == "flat,flat"


def test_an_unknown_style_is_refused_with_those_there_are(server: Live, live: Live) -> None:
    before = ledger(server.metrics())["accepted"]
    refused = server.generate(text=CAT, style="glossy")
    assert refused.status_code == 422
    assert refused.json()["Error"] == "style must be one of auto, flat, 3d, got 'glossy'"
    refused = server.client.post(GENERATIONS, json={"prompt": CAT, "style": "glossy"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "style")
    assert refused.json()["error"]["message"] == "style must be one of auto, flat, 3d, got 'glossy'"
    assert server.generate(text=CAT, style="vivid").status_code == 422  # a value of the other API
    assert server.generate(text=CAT, style=3).json()["Error"] == "style must be a text of 1 to 32 characters, got 3"
    assert server.generate(text=CAT, style="x" * 99).status_code == 422
    assert ledger(server.metrics())["accepted"] == before
    refused = live.generate(text=CAT, style="3d")
    assert refused.json()["Error"] == "style must be auto for a model without styles, got '3d'"
    plain = live.generate(text=CAT, style="auto", seed=1)
    assert plain.status_code == 200
    assert not {"x-styles", "x-revised-prompts"} & set(plain.headers)
    assert "Style" not in chunks(plain.json()[0])


def test_the_openai_package_asks_for_styles_and_is_told_of_each_picture(server: Live, weights: Path) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)

    def ask(style: Any = openai.omit, **more: Any) -> list[tuple[str | None, str]]:
        answer = client.images.generate(prompt=KITTEN, n=4, style=style, extra_body={"seed": 2, **more})
        return [(picture.revised_prompt, (picture.model_extra or {})["style"]) for picture in answer.data or []]

    auto = ask()
    assert sorted(auto, key=str) == [(DEEP, "3d"), (DEEP, "3d"), (CAT, "flat"), (CAT, "flat")]
    assert ask("vivid") == ask("natural") == ask(style="auto") == auto
    assert ask(style="flat") == [(CAT, "flat")] * 4
    sent = client.images.generate(prompt=KITTEN, n=2, extra_body={"seed": 2, "style": "3d"})
    assert [picture.revised_prompt for picture in sent.data or []] == [DEEP] * 2
    missing = client.images.generate(prompt=CIRCLE, extra_body={"seed": 2, "style": "3d"})
    assert missing.model_extra == {"prompt_fit": "near", "missing_style": "3d"}
    plain = client.images.generate(prompt=APPLE, n=2, extra_body={"seed": 2})
    assert {picture.revised_prompt for picture in plain.data or []} == {None, "a 3d red apple"}
    best = client.images.generate(prompt=KITTEN, n=1, extra_body={"seed": 2, "best_of": 4})
    (painted,) = model.load(weights, "cpu").generate(KITTEN, seed=2, best_of=4)
    (picture,) = best.data or []
    assert (picture.revised_prompt, (picture.model_extra or {})["style"]) == (
        painted.info["revised"], painted.info["style"],
    )  # fmt: skip


def test_a_stream_tells_it_with_every_picture(server: Live) -> None:
    body = {"prompt": KITTEN, "seed": 2, "n": 4, "stream": True, "partial_images": 1}
    lines = server.client.post(GENERATIONS, json=body).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    done = {event["index"]: event for event in events if event["type"] == "image_generation.completed"}
    whole = server.client.post(GENERATIONS, json={"prompt": KITTEN, "seed": 2, "n": 4}).json()["data"]
    for picture in whole:
        event = done[picture["index"]]
        assert event["b64_json"] == picture["b64_json"]
        assert (event["revised_prompt"], event["style"]) == (picture["revised_prompt"], picture["style"])
    assert {event["style"] for event in done.values()} == {"flat", "3d"}


def test_a_job_tells_it_of_every_picture(server: Live) -> None:
    body = {"prompts": [CIRCLE, KITTEN], "seed": 2, "style": "3d"}
    job = server.client.post("/v1/jobs", json=body).json()["id"]

    def ended() -> Any:
        told = server.client.get(f"/v1/jobs/{job}").json()
        return told if told["state"] == "completed" else None

    circle, cat = sorted(server.wait(ended, "the job has not ended")["pictures"], key=lambda one: one["number"])
    assert (circle["style"], circle["prompt_fit"], circle["missing_style"]) == ("flat", "near", "3d")
    assert (cat["style"], cat["prompt_fit"], cat["missing_style"]) == ("3d", "near", None)


def test_a_request_that_comes_twice_is_told_the_same(server: Live) -> None:
    fields = {"text": KITTEN, "seed": 3, "num_images": 3}
    both = [server.client.post("/generate", json=fields, headers={"Idempotency-Key": "styles"}) for _ in range(2)]
    assert both[1].headers["idempotent-replayed"] == "true"
    assert both[0].json() == both[1].json()
    for name in ("x-styles", "x-revised-prompt", "x-revised-prompts", "x-seeds"):
        assert both[0].headers[name] == both[1].headers[name]
    other = server.client.post("/generate", json={**fields, "style": "3d"}, headers={"Idempotency-Key": "styles"})
    assert other.status_code == 409


def test_the_models_route_tells_the_styles(server: Live, live: Live) -> None:
    (served,) = server.client.get("/v1/models").json()["data"]
    assert served["styles"] == [{"name": "flat"}, {"name": "3d", "things": 2}]
    assert server.client.get(f"/v1/models/{served['id']}").json() == served
    (plain,) = live.client.get("/v1/models").json()["data"]
    assert set(plain) == {"id", "object", "created", "owned_by", "sampling"}


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner("dalle-server", cli.main, capsys, monkeypatch, tmp_path)


def test_the_command_line_paints_styles_and_paints_them_again(
    command: Run, weights: Path, server: Live, tmp_path: Path
) -> None:
    here = ("--weights", weights, "--device", "cpu")
    done = command("generate", KITTEN, "-n", 2, "--seed", 2, "-o", "cat.png", "--separate", *here)
    assert done.status == 0, done.err
    assert "painted as: " in done.err
    found = [in_file((tmp_path / name).read_bytes()) for name in ("cat-1.png", "cat-2.png")]
    assert {(one["Style"], one["Prompt"]) for one in found} == {("flat", CAT), ("3d", DEEP)}
    for name in ("cat-1.png", "cat-2.png"):
        assert command("generate", "--like", name, *here).status == 0
    served = server.generate(text=KITTEN, num_images=2, seed=2).json()  # their files hold a hash of the text only
    for i, picture in enumerate(served):
        (tmp_path / f"served-{i}.png").write_bytes(base64.b64decode(picture))
        for text in (KITTEN, CAT):
            again = command("generate", text, "--like", f"served-{i}.png", *here)
            assert again.status == 0, again.err
            assert "identical to " in again.err
    deep = command("generate", APPLE, "--style", "3d", "--seed", 2, *here)
    assert "painted as: a 3d red apple" in deep.err
    missing = command("generate", CIRCLE, "--style", "3d", "--seed", 2, *here)
    assert f"I know '{CIRCLE}', but not in 3d. So it is painted flat." in missing.err
    refused = command("generate", APPLE, "--style", "glossy", *here)
    assert refused.status == 1
    assert refused.err.strip().endswith("style must be one of auto, flat, 3d, got 'glossy'")
    assert "--style" in command("generate", "--like", "cat-1.png", "--style", "3d", *here).err
    shown = command("inspect", weights)
    assert 'flat; 3d ("3d" in captions, knows 2 things)' in shown.out
