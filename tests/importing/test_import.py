"""Another project's model, from its file to pictures: imported, loaded, drawn by the engine, served over HTTP."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import model
from app.checkpoint import ServedCheckpoint
from app.cli import main
from model.checkpoints.describe import describe
from model.config import CheckpointConfig
from model.errors import CheckpointError, InvalidRequest
from model.importing.files import Imported
from model.importing.read import read_import
from model.importing.write import write_import
from model.inference.requests import top_k_of
from tests.app.live import Live
from tests.families.dalle_pytorch.originals import original
from tests.families.dalle_pytorch.test_import import BPE, MIX, whole
from tests.running import Run, runner


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dalle.pt and its tokenizer, under names that say nothing."""
    folder = tmp_path_factory.mktemp("foreign")
    torch.save(whole(), folder / "one")
    (folder / "two").write_text(json.dumps(BPE))
    return folder / "one", folder / "two"


@pytest.fixture(scope="module")
def imported(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `dalle-server import` writes."""
    out = tmp_path_factory.mktemp("imported") / "model"
    write_import(read_import(files, {}), out, {})
    return out


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    return runner("dalle-server", main, capsys, monkeypatch, tmp_path)


def test_the_logits_are_those_of_the_original(imported: Path) -> None:
    made, painter = original(MIX), model.load(imported, "cpu")
    text, image = painter.transformer.config.text_columns, painter.transformer.config.image_vocab
    logits = painter.transformer.logits(made.text_ids, made.image_ids)
    positions = painter.transformer.config.text_positions(0)
    assert logits.shape[2] == text + image
    found = logits[:, positions - 1 : positions - 1 + made.image_logits.shape[1], text:]
    assert (found - made.image_logits).abs().max() < 1e-4


def test_the_engine_draws_what_the_original_draws(imported: Path) -> None:
    made, painter = original(MIX), model.load(imported, "cpu")
    alone = painter.draw(made.text_ids[:1], top_k=1)
    assert torch.equal(alone[0], made.greedy)
    crowd = painter.draw(torch.cat([made.text_ids[:1].repeat(3, 1), made.text_ids[1:]]), top_k=1)
    assert torch.equal(crowd[:3], made.greedy.expand(3, -1))


def test_rows_differ_by_their_index_and_seeds_repeat(imported: Path) -> None:
    made, painter = original(MIX), model.load(imported, "cpu")
    two = painter.draw(made.text_ids[:1].repeat(2, 1), seed=5, guidance=2.0)
    assert not torch.equal(two[0], two[1])
    assert torch.equal(two[:1], painter.draw(made.text_ids[:1], seed=5, guidance=2.0))


def test_guidance_leaves_the_text_alone(imported: Path) -> None:
    made, painter = original(MIX), model.load(imported, "cpu")
    text = made.text_ids[:1].clone()
    drawn = painter.draw(text, temperature=0.0, guidance=3.0)
    assert torch.equal(text, made.text_ids[:1])
    asked, null = (painter.transformer.logits(ids, drawn[:, :4])[0] for ids in (text, torch.zeros_like(text)))
    first = painter.transformer.config.max_text - 1
    guided = (null + (asked - null) * 3.0)[first : first + 4, painter.transformer.config.text_columns :]
    assert torch.equal(guided.argmax(-1), drawn[0, :4])


def test_filter_thres_counts_text_columns_too(imported: Path) -> None:
    config = model.load(imported, "cpu").transformer.config
    columns = config.text_columns + config.image_vocab
    assert top_k_of(0.5, config) == 0  # more than there are codes: nothing is filtered
    assert top_k_of(1 - 3.5 / columns, config) == 3
    assert top_k_of(1.0, config) == 1
    with pytest.raises(InvalidRequest, match="filter_thres"):
        top_k_of(1.5, config)


def test_pictures_are_painted_and_the_text_cannot_be_completed(imported: Path) -> None:
    painter = model.load(imported, "cpu")
    pictures = painter.generate("w3 w4", n=2, seed=1)
    assert [picture.size for picture in pictures] == [(16, 16), (16, 16)]
    with pytest.raises(InvalidRequest, match="not trained to continue texts"):
        painter.complete("w3")


def test_its_image_tokenizer_loads_alone(imported: Path) -> None:
    vae = model.load_vae(imported, "cpu")
    ids = torch.zeros(1, 4, 4, dtype=torch.int64)
    assert vae.decode(ids).shape == (1, 4, 16, 16)  # it was made with transparency


def test_the_folder_is_described_and_served_without_tensors(imported: Path) -> None:
    assert describe(imported).problems == ()
    served = ServedCheckpoint.read(imported)
    assert served.tokenize("w3", truncate=False) == ([3], 1)


def test_it_is_served_over_http(imported: Path, tmp_path: Path) -> None:
    with Live(imported, tmp_path / "log") as live:
        live.ready()
        body = {"text": "w3", "num_images": 2, "seed": 7, "guidance": 2.0}
        first, again = (live.client.post("/generate", json=body) for _ in range(2))
        assert first.status_code == 200
        assert first.json() == again.json()
        refused = live.client.post("/generate", json={**body, "complete": True})
        assert "complete must be left out" in refused.json()["Error"]
        refused = live.client.post("/generate", json={**body, "top_k": 12})
        assert "top_k must be an integer from 0 to 11" in refused.json()["Error"]
        one = live.client.post("/generate", json={**body, "filter_thres": 0.99})  # none of 35 columns, so the likeliest
        assert one.json() == live.client.post("/generate", json={**body, "top_k": 1}).json()
        all_of_them = live.client.post(
            "/generate", data={"text": "w3", "num_images": 2, "seed": 7, "guidance": 2, "filter_thres": 0.5}
        )
        assert all_of_them.json() == first.json()
        refused = live.client.post("/generate", json={**body, "top_k": 5, "filter_thres": 0.9})
        told = "filter_thres must be left out where top_k is given, got 0.9 and top_k 5"
        assert (refused.status_code, refused.json()["Error"]) == (422, told)
        refused = live.client.post("/generate", json={**body, "filter_thres": 1.5})
        assert "filter_thres must be a number from 0 to 1, got 1.5" in refused.json()["Error"]


def test_the_command_imports_in_any_order_and_inspects(files: tuple[Path, Path], command: Run, tmp_path: Path) -> None:
    one, two = files
    done = command("import", two, one, "--licence", "MIT", "--out", "made")
    assert (done.status, done.out.strip()) == (0, "made")
    found = describe(tmp_path / "made")
    assert found.config is not None
    assert (found.config.licence, found.problems) == ("MIT", ())
    rows = [line.split("  ")[0].strip() for line in command("inspect", "made").out.splitlines()]
    assert rows.count("version") == rows.count("provenance.version") == 1  # of the checkpoint, and of the package
    done = command("inspect", one, two)
    assert done.status == 0
    assert "dalle-pytorch" in done.out


def test_files_may_have_any_names(files: tuple[Path, Path], command: Run, tmp_path: Path) -> None:
    """A name need not be text: here Latin-1, and as long as a name can be."""
    names = [tmp_path / os.fsdecode(name) for name in (b"caf\xe9.pt", b"a\nb" + b"c" * 252)]
    for name, file in zip(names, files, strict=True):
        name.symlink_to(file)
    assert command("import", *names, "--out", tmp_path / "made").status == 0
    found = json.loads((tmp_path / "made" / "config.json").read_text())["provenance"]["files"]
    assert found == ["caf\\udce9.pt", "a\\nb" + "c" * 252]
    assert command("inspect", tmp_path / "made").status == 0


def refused(command: Run, tmp_path: Path, *arguments: object) -> str:
    before = sorted(tmp_path.iterdir())
    done = command("import", *arguments, "--out", tmp_path / "out")
    assert done.status == 1
    assert len(done.err.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before
    return done.err.removeprefix("dalle-server: ")


def test_refusals_leave_nothing(files: tuple[Path, Path], command: Run, tmp_path: Path) -> None:
    one, two = files
    assert "unknown key" in refused(command, tmp_path, one, two, "--set", "colour=1")
    assert "KEY=VALUE" in refused(command, tmp_path, one, two, "--set", "heads")
    assert "a second" in refused(command, tmp_path, one, two, two)
    assert "no file has weights" in refused(command, tmp_path, two)
    assert "tokenizer" in refused(command, tmp_path, one)
    for change, says in (
        ({"to_logits.1.bias": torch.zeros(3)}, r"to_logits\.1\.bias.* must have the shape"),
        ({"to_logits.1.bias": torch.zeros(35, dtype=torch.int64)}, r"to_logits\.1\.bias"),
        ({"no.such": torch.zeros(3)}, r"no\.such.* belongs to nothing"),
    ):
        content: dict[str, Any] = whole()
        content["weights"].update(change)
        torch.save(content, tmp_path / "bad")
        assert re.search(says, refused(command, tmp_path, tmp_path / "bad", two))


def test_what_stands_there_is_not_replaced(files: tuple[Path, Path], command: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    assert "is no checkpoint" in refused(command, tmp_path, *files)
    assert (tmp_path / "out" / "mine").read_text() == "kept"


def test_an_image_tokenizer_alone_does_not_paint(files: tuple[Path, Path], tmp_path: Path) -> None:
    whole_model = read_import(files, {})
    alone: Imported = dataclasses.replace(whole_model, transformer=None, tokenizer=None)
    config = write_import(alone, tmp_path / "vae", {})
    assert not isinstance(config, CheckpointConfig)
    assert describe(tmp_path / "vae").problems == ()
    assert model.load_vae(tmp_path / "vae", "cpu").config == whole_model.vae.config
    with pytest.raises(CheckpointError, match="an image tokenizer alone"):
        model.load(tmp_path / "vae", "cpu")
