"""Several models side by side, on the real server: which one paints, what is told of each, and a broken one."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from app.checkpoint import ServedCheckpoint
from app.load_settings import load_settings
from app.models import Models
from app.settings import Settings, SettingsError
from model.errors import CheckpointError, DalleError
from tests.app.live import REPLICAS, Live
from tests.app.quick import save_quick

TEXT = "a red apple"
UNKNOWN = "model must be quick, other, broken, dall-e-3 or gpt-image-1, got "


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with other weights, whose name in config.json is not the one that it is served under."""
    return save_quick(tmp_path_factory.mktemp("models") / "other", name="elsewhere", seed=7)


@pytest.fixture(scope="module")
def broken(quick_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose weights have one wrong byte."""
    path = tmp_path_factory.mktemp("models") / "broken"
    shutil.copytree(quick_checkpoint, path)
    file = path / "transformer-1-of-1.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def several(
    quick_checkpoint: Path, other: Path, broken: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """A server of three models, of which the third cannot be loaded."""
    flags = ["--weights", str(quick_checkpoint), "--weights", f"other={other}", "--weights", f"broken={broken}"]
    flags += ["--served-model-name", "dall-e-3", "--served-model-name", "gpt-image-1=other"]
    with Live(quick_checkpoint, tmp_path_factory.mktemp("several") / "log", flags) as server:
        yield server.ready()


def pixels(picture: str) -> bytes:
    return Image.open(io.BytesIO(base64.b64decode(picture))).tobytes()


def painted(server: Live, **fields: object) -> bytes:
    """The pixels of the pictures of a request that must succeed."""
    return b"".join(map(pixels, server.pictures(text=TEXT, **fields)))


def test_a_mixed_load_gives_the_pictures_of_each_model_alone(
    several: Live, live: Live, quick_checkpoint: Path, other: Path, start: Callable[..., Live]
) -> None:
    asked = [(model, seed) for seed in range(6) for model in ("quick", "other")]
    with ThreadPoolExecutor(8) as threads:
        mixed = [*threads.map(lambda one: painted(several, model=one[0], seed=one[1], num_images=2), asked)]
    assert several.metrics()['dalle_model_loaded{model="other"}'] == 1
    tight = start(f"{quick_checkpoint},other={other}", memory=1).ready()  # room for one model
    for (model, seed), pictures in zip(asked, mixed, strict=True):
        server = live if model == "quick" else tight
        assert pictures == painted(server, model=model, seed=seed, num_images=2), (model, seed)
    assert len(tight.workers()) == (REPLICAS or 1)
    assert tight.client.get("/readyz").status_code == 200
    assert "quick was put away" in tight.log


def test_the_answer_names_the_model(several: Live) -> None:
    for asked, served, name in (
        (None, "quick", "quick"),
        ("other", "other", "elsewhere"),
        ("dall-e-3", "quick", "quick"),
    ):
        answer = several.generate(text=TEXT, seed=1, **({"model": asked} if asked else {}))
        assert answer.headers["X-Model"] == served
        picture = Image.open(io.BytesIO(base64.b64decode(answer.json()[0])))
        assert picture.info["Model"] == name  # as `generate --like` looks for it in config.json
    stream = several.client.post("/v1/images/generations", json={"prompt": TEXT, "model": "other", "stream": True})
    assert stream.headers["X-Model"] == "other"


def test_aliases_are_the_operators_and_unknown_models_are_refused(several: Live, live: Live) -> None:
    client = openai.OpenAI(base_url=f"{several.url}/v1", api_key="none", max_retries=0)
    extra: dict[str, Any] = {"extra_body": {"seed": 3}}
    for alias, model in (("dall-e-3", "quick"), ("gpt-image-1", "other")):
        answers = [client.images.generate(prompt=TEXT, model=name, **extra) for name in (alias, model)]
        first, second = (answer.data[0].b64_json for answer in answers if answer.data)
        assert first == second
    assert [model.id for model in client.models.list()] == ["quick", "other", "broken", "dall-e-3", "gpt-image-1"]
    with pytest.raises(openai.NotFoundError, match="model must be quick, other, broken, dall-e-3 or gpt-image-1, got"):
        client.images.generate(prompt=TEXT, model="dall-e-2")
    refused = several.generate(text=TEXT, model="/etc/passwd")
    assert (refused.status_code, refused.json()) == (404, {"Error": f"{UNKNOWN}/etc/passwd"})
    assert live.generate(text=TEXT, model="dall-e-3").status_code == 404
    for path in ("/things", "/gallery", "/gallery.webp", "/v1/models/x"):
        assert several.client.get(path, params={"model": "x"}).status_code == 404


def test_one_folder_is_listed_as_ever(live: Live) -> None:
    listed = live.client.get("/v1/models").json()
    assert listed["data"][0].pop("sampling")["top_p"] == 1
    assert listed == {
        "object": "list",
        "data": [{"id": "quick", "object": "model", "created": 0, "owned_by": "dalle-server"}],
    }


def test_a_model_that_cannot_be_loaded_fails_its_own_requests(several: Live) -> None:
    for _ in range(2):
        failed = several.generate(text=TEXT, model="broken")
        assert failed.status_code == 500
        assert failed.json() == {"Error": "the model broken cannot be loaded; the server's log says why"}
    said = several.client.post("/v1/images/generations", json={"prompt": TEXT, "model": "broken"}).json()["error"]
    assert said["code"] == "model_failed"
    several.wait(lambda: "broken cannot be loaded: " in several.log, "no line about it")
    assert several.generate(text=TEXT, model="other").status_code == 200
    assert several.client.get("/readyz").status_code == 200


# --- what settings name


def settings(monkeypatch: pytest.MonkeyPatch, weights: str) -> Settings:
    monkeypatch.setenv("DALLE_WEIGHTS", weights)
    return load_settings()


def test_a_folder_of_checkpoints_serves_each_under_its_folders_name(
    quick_checkpoint: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(quick_checkpoint, tmp_path / "one")
    shutil.copytree(other, tmp_path / "two")
    (tmp_path / "notes").mkdir()
    found = Models.read(settings(monkeypatch, str(tmp_path)))
    assert [*found.served] == ["one", "two"]
    assert found.default == "one"


def test_an_image_tokenizer_alone_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vae": {"family": "openai-dvae"}}))
    with pytest.raises(CheckpointError, match="an image tokenizer alone, which cannot paint"):
        ServedCheckpoint.read(tmp_path)


def test_a_checkpoint_that_cannot_be_read_is_left_out_unless_it_is_the_first(
    quick_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"name": "x"}))
    found = Models.read(settings(monkeypatch, f"{quick_checkpoint},bad={tmp_path}"))
    assert ([*found.served], found.unreadable) == (["quick"], frozenset({"bad"}))
    with pytest.raises(DalleError, match="^the model bad cannot be loaded"):
        found.named("bad")
    with pytest.raises(CheckpointError):
        Models.read(settings(monkeypatch, f"bad={tmp_path},{quick_checkpoint}"))


@pytest.mark.parametrize(
    ("weights", "names", "message"),
    [
        ("{0},{0}", "", "weights must name every model differently, got two of the name quick"),
        ("a={0}", "a", "served_model_name must hold new names, got that of the model a"),
        ("a={0}", "x=b", "served_model_name must name models, got b; there is a"),
        ("a={0}", "x=", 'DALLE_SERVED_MODEL_NAME must be names, or NAME=MODEL, separated by commas, got "x="'),
    ],
)
def test_names_that_cannot_be_meant_stop_the_start(
    quick_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, weights: str, names: str, message: str
) -> None:
    monkeypatch.setenv("DALLE_SERVED_MODEL_NAME", names)
    with pytest.raises(SettingsError, match=f"^{message}"):
        Models.read(settings(monkeypatch, weights.format(quick_checkpoint)))
