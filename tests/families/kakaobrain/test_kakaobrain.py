"""kakaobrain's minDALL-E computes, draws and tokenizes as the original does, and its files are read strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml  # type: ignore[import-untyped]
from torch import Tensor

import model
from app.checkpoint import ServedCheckpoint
from app.cli import main
from model.checkpoints.describe import describe
from model.errors import CheckpointError
from model.families.text.kakaobrain import KakaobrainTokenizer
from model.importing import kakaobrain
from model.importing.read import read_import
from model.importing.state import Keys
from model.importing.write import write_import
from tests.families.image.originals import original
from tests.running import Run, runner

DATA = Path(__file__).parents[2] / "data" / "families" / "kakaobrain"
COMPUTED = ("text_ids", "image_ids", "text_logits", "image_logits", "greedy")
TOKENS: dict[str, Any] = json.loads((DATA / "tokenizer.json").read_text())
HPARAMS = {"embed_dim": 16, "n_layers": 3, "n_heads": 2, "gelu_use_approx": False}
HEADS = {"heads": "2"}
NONE: Mapping[str, Tensor] = {}


def arrays() -> dict[str, Tensor]:
    return {key: torch.from_numpy(array) for key, array in np.load(DATA / "mindalle.npz").items()}


def state(changes: Mapping[str, Tensor] = NONE) -> dict[str, Tensor]:
    """The original's tensors. An empty change takes one out."""
    whole = {**{key: tensor for key, tensor in arrays().items() if key not in COMPUTED}, **changes}
    return {key: tensor for key, tensor in whole.items() if tensor.numel()}


def written(folder: Path, **hparams: object) -> list[Path]:
    """The five files of a model, under names that say nothing."""
    torch.save({"state_dict": state(), "epoch": 2}, folder / "one")
    torch.save({"state_dict": original("kakaobrain-vqgan").state}, folder / "two")
    (folder / "three").write_text(json.dumps(TOKENS["vocab"]))
    (folder / "four").write_text(TOKENS["merges"])
    (folder / "five").write_text(
        yaml.safe_dump({"stage1": {"type": "vqgan"}, "stage2": {"hparams": HPARAMS | hparams}})
    )
    return [folder / name for name in ("one", "two", "three", "four", "five")]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return written(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def imported(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "model"
    write_import(read_import(files, HEADS), out, {})
    return out


def test_logits_are_those_of_the_original(imported: Path) -> None:
    golden, transformer = arrays(), model.load(imported, "cpu").transformer
    text, image = golden["text_ids"], golden["image_ids"]
    got = transformer.logits(text, image)
    assert got.shape == (3, 6 + 64, 40 + 50)
    torch.testing.assert_close(got[:, :5, :40], golden["text_logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(got[:, 5:69, 40:], golden["image_logits"], atol=1e-4, rtol=0)
    for masked in (got[:, :5, 40:], got[:, 5:, :40], got[:, 69]):
        assert bool((masked == float("-inf")).all())
    short = transformer.logits(text[:1, :2], image[:1, :9])  # padded inside
    torch.testing.assert_close(short[:, 5:, 40:], got[:1, 5:15, 40:], atol=1e-4, rtol=0)


def test_cached_equals_uncached_with_rows_at_different_places(imported: Path) -> None:
    golden = arrays()
    transformer: Any = model.load(imported, "cpu").transformer
    text, image, want = golden["text_ids"], golden["image_ids"], golden["image_logits"]
    cache, none = transformer.new_cache(3), torch.zeros(1, 0, dtype=torch.int64)
    hidden = transformer.prefill(cache, torch.tensor([1, 0]), text[:2])
    for i in range(9):  # slot 1 runs ahead
        ahead = transformer.decode(cache, slice(1, 2), image[:1, i : i + 1])
    places, rows, of_slot = [0, 9], [hidden[1], ahead[0]], [1, 0]  # by slot
    for _ in range(54):
        for slot, place in enumerate(places):
            got = transformer.image_logits(rows[slot][None], none)[0]
            torch.testing.assert_close(got, want[of_slot[slot], place], atol=1e-4, rtol=0)
        fed = torch.stack([image[of_slot[slot], place] for slot, place in enumerate(places)])[:, None]
        rows = list(transformer.decode(cache, slice(0, 2), fed))
        places = [place + 1 for place in places]


def test_the_engine_draws_what_the_original_draws(imported: Path) -> None:
    golden, painter = arrays(), model.load(imported, "cpu")
    assert torch.equal(painter.draw(golden["text_ids"], top_k=1), golden["greedy"])
    assert torch.equal(painter.draw(golden["text_ids"][:1, :2], top_k=1), golden["greedy"][:1])
    two = painter.draw(golden["text_ids"][:1].repeat(2, 1), seed=5, guidance=2.0)
    assert torch.equal(two[:1], painter.draw(golden["text_ids"][:1], seed=5, guidance=2.0))
    assert not torch.equal(two[0], two[1])
    made = original("kakaobrain-vqgan")
    painted = painter.vae.decode(made.ids)[..., :: made.stride, :: made.stride]
    assert (painted - made.painted).abs().max() < 1e-4


def test_texts_are_cut_as_in_the_original(imported: Path) -> None:
    assert describe(imported).problems == ()
    served = ServedCheckpoint.read(imported)
    tokenizer = KakaobrainTokenizer.parse((imported / "tokenizer.json").read_bytes(), "tokenizer.json", 256)
    for text, ids in TOKENS["texts"].items():
        assert tokenizer.encode(text) == ids
        assert served.tokenizer.encode(text, truncate=True) == ids[:6]
    pad = TOKENS["vocab"]["[PAD]"]
    assert tokenizer.null == [pad]
    assert tokenizer.decode([34, pad]) == "ab"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    return runner("dalle-server", main, capsys, monkeypatch, tmp_path)


def test_inspect_tells_the_family_and_its_licence(files: list[Path], command: Run) -> None:
    done = command("inspect", files[0])
    assert done.status == 0
    assert "kakaobrain minDALL-E" in done.out
    assert "Apache-2.0" in done.out


def test_what_the_files_have_wrong_is_named(files: list[Path], tmp_path: Path) -> None:
    def said(changes: Mapping[str, Tensor], heads: str | None = "2") -> str:
        with pytest.raises(CheckpointError) as caught:
            kakaobrain.read_transformer(Keys(state(changes), "stage2.ckpt"), heads, 22)
        return str(caught.value)

    key = "blocks.1.attn.query.weight"
    assert said({key: torch.zeros(0)}) == f"stage2.ckpt: the key {key!r} is missing"
    assert "must have the shape (16, 16), got (16, 5)" in said({key: torch.zeros(16, 5)})
    assert f"{key!r} must be finite numbers, got NaN" in said({key: torch.full((16, 16), torch.nan)})
    assert "'sos' belongs to nothing in this model" in said({"sos": torch.zeros(1, 1, 16)})
    assert "a row for each token of a square, got 63" in said({"pos_emb_img.weight": torch.zeros(63, 16)})
    assert "heads of a model 16 wide must be said by --set heads=N; known are 24 at width 1536" in said({}, None)
    assert "heads must divide dim 16, got 3" in said({}, "3")
    with pytest.raises(CheckpointError, match=r"give bpe-16k-merges.txt too"):
        read_import(files[:3], HEADS)
    with pytest.raises(CheckpointError, match=r"stage2.hparams.gelu_use_approx must be false here, got true"):
        read_import(written(tmp_path, gelu_use_approx=True), HEADS)
