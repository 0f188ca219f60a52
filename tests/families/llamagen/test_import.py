"""A model of LlamaGen's classes, from its files to pictures: imported, drawn by the engine, served over HTTP."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import model
from app.checkpoint import ServedCheckpoint
from app.cli import main
from model.checkpoints.describe import describe
from model.errors import CheckpointError, InvalidRequest
from model.importing.read import read_import
from model.importing.write import write_import
from tests.app.live import Live
from tests.families.image.originals import original
from tests.families.llamagen.originals import SCALE, arrays, published, state, trained, vq
from tests.running import Run, runner

SETTINGS = {"heads": "2", "image_size": "32"}


def pixels(pictures: list[str]) -> list[bytes]:
    return [Image.open(io.BytesIO(base64.b64decode(picture))).tobytes() for picture in pictures]


def saved(folder: Path, **contents: Any) -> list[Path]:
    for name, content in contents.items():
        torch.save(content, folder / name)
    return [folder / name for name in contents]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llamagen")
    write_import(read_import(saved(folder, one=vq(), two=published()), SETTINGS), folder / "model", {})
    return folder / "model"


def test_the_engine_draws_what_the_original_draws(imported: Path) -> None:
    golden, painter = arrays(), model.load(imported, "cpu")
    text = golden["text_ids"]
    assert torch.equal(painter.draw(text[:1], top_k=1)[0], golden["greedy"][0])
    assert torch.equal(painter.draw(text, top_k=1), golden["greedy"])
    assert torch.equal(painter.draw(text, top_k=1, guidance=SCALE), golden["guided"])
    assert torch.equal(painter.draw(text[1:2], top_k=1, guidance=SCALE), golden["guided"][1:2])


def test_pictures_of_codes_are_those_of_the_original(imported: Path) -> None:
    made, painter = original("llamagen-vq"), model.load(imported, "cpu")
    painted = painter.vae.decode(made.ids)
    assert (painted[..., :: made.stride, :: made.stride] - made.painted).abs().max() < 1e-4


def test_a_prompt_is_a_class(imported: Path) -> None:
    assert describe(imported).problems == ()
    served = ServedCheckpoint.read(imported)
    assert served.tokenize("golden retriever", truncate=False) == ([207], 1)
    assert served.tokenize("0", truncate=True) == ([0], 1)
    with pytest.raises(InvalidRequest, match="text must be a class, a number from 0 to 999, or a name"):
        served.tokenize("a red apple", truncate=True)


def test_it_is_served_over_http(imported: Path, tmp_path: Path) -> None:
    with Live(imported, tmp_path / "log") as live:
        live.ready()
        body = {"text": "Golden Retriever", "num_images": 2, "seed": 7, "guidance": 2.0}
        first, number = (live.client.post("/generate", json=changed) for changed in (body, {**body, "text": "207"}))
        assert first.status_code == 200, first.text
        one, two = pixels(first.json())
        assert one != two
        assert pixels(number.json()) == [one, two]
        refused = live.client.post("/generate", json={**body, "text": "crane"})
        assert refused.status_code == 422
        assert "a name of classes 134 and 517: say the number" in refused.json()["Error"]


def test_a_training_file_tells_its_pictures_size(tmp_path: Path) -> None:
    files = saved(tmp_path, one=trained(), two=vq())
    found = read_import(files, {"heads": "2"})
    assert found.transformer is not None
    assert found.transformer.config.grid == found.vae.config.grid == 8
    assert found.tokenizer.encode("tabby") == [281]
    with pytest.raises(
        CheckpointError, match="trained on 8 image tokens a side, as its args say, and 64 pixels are 16"
    ):
        read_import(files, SETTINGS | {"image_size": "64"})


def test_other_classes_have_numbers_alone(tmp_path: Path) -> None:
    few = published(**{"cls_embedding.embedding_table.weight": state()["cls_embedding.embedding_table.weight"][:13]})
    tokenizer = read_import(saved(tmp_path, one=few, two=vq()), SETTINGS).tokenizer
    assert (tokenizer.encode("11"), tokenizer.null) == ([11], [12])
    with pytest.raises(InvalidRequest, match=r"a number from 0 to 11, as this model was taught classes"):
        tokenizer.encode("tench")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    return runner("dalle-server", main, capsys, monkeypatch, tmp_path)


def test_inspect_tells_the_family_and_its_licence(command: Run, tmp_path: Path) -> None:
    done = command("inspect", *saved(tmp_path, one=published(), two=trained()))
    assert done.status == 0
    assert done.out.count("llamagen") == 2
    assert done.out.count("MIT") == 2


def test_refusals_are_one_line_and_leave_nothing(command: Run, tmp_path: Path) -> None:
    def refused(content: dict[str, Any], *more: object, settings: dict[str, str] = SETTINGS) -> str:
        files = saved(tmp_path, one=content)
        sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        done = command("import", *files, *more, *sets, "--out", tmp_path / "out")
        assert done.status == 1
        assert len(done.err.splitlines()) == 1
        assert not (tmp_path / "out").exists()
        return done.err.removeprefix("dalle-server: ")

    tokenizer = saved(tmp_path, two=vq())[0]
    assert "give the file of the VAE too" in refused(published())
    assert "say it by --set image_size=256, 384 or 512" in refused(published(), tokenizer, settings={"heads": "2"})
    assert "heads=N" in refused(published(), tokenizer, settings={"image_size": "32"})
    codes = torch.zeros(60, 16)
    wider = published(**{"tok_embeddings.weight": codes, "output.weight": codes})
    assert "must have 60 codes, as tok_embeddings has, got 50" in refused(wider, tokenizer)
    bad = published(**{"norm.weight": torch.full((16,), torch.inf)})
    assert "'norm.weight' must be finite" in refused(bad, tokenizer)
    texts = {"model": {**state(**{"cls_embedding.embedding_table.weight": torch.zeros(0)}),
                       "cls_embedding.uncond_embedding": torch.zeros(120, 16)}}  # fmt: skip
    assert "whose texts FLAN-T5-XL reads first: give the files of FLAN-T5-XL too" in refused(texts, tokenizer)
