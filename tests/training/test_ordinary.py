"""Stage 2 on image tokenizers of other projects, and in DALLE-pytorch's shape, which goes back to the package."""

from __future__ import annotations

import importlib
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import model
from app.checkpoint import ServedCheckpoint
from app.cli import main
from model.checkpoints.describe import describe
from model.checkpoints.native import write
from model.config import DALLE_PYTORCH_PRESETS, ImageConfig
from model.errors import DataError
from model.exporting.dalle_pytorch import write as write_back
from model.families.dalle_pytorch.transformer import DallePytorchTransformer
from model.families.image.build import network
from model.families.image.config import DiscreteVAEConfig, OpenAIDVAEConfig, VQGANConfig
from model.families.image.config import ImageConfig as AnyImageConfig
from model.importing.read import read_import
from model.importing.write import write_import
from model.training import export, train_transformer
from model.training.options import ExportOptions, LoopOptions, TransformerOptions
from model.training.prepare import prepare, tokenize, vae_digest
from tests.running import Run, runner

VQGAN = VQGANConfig(
    image_size=32, codes=24, code_dim=32, latent=32, stem=32, widths=(32, 32, 32), blocks=1, attention=(2,)
)
DVAE = OpenAIDVAEConfig(image_size=64, codes=20, width=8, code_dim=8, blocks=1)
DISCRETE = DiscreteVAEConfig(image_size=16, codes=18, code_dim=8, layers=2, width=8)
TINY = {
    "dim": 24, "depth": 2, "heads": 2, "head_dim": 12, "text_tokens": 8, "attention": ("full",) * 2,
    "rotary": True, "shift": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six captioned pictures."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((256, 256)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {('red', 'green', 'blue')[number % 3]} pattern number {number}")
    return folder


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    return runner("dalle-server", main, capsys, monkeypatch, tmp_path)


def image_tokenizer(config: AnyImageConfig, path: Path) -> Path:
    """The folder of an image tokenizer that stands alone, as `import` writes it."""
    torch.manual_seed(1)
    vae = network(config)
    write(path, ImageConfig("tiny", "none", config), None, {"vae": vae.state_dict()})
    return path


def options(corpus: Path, home: Path, steps: int, **changes: Any) -> TransformerOptions:
    loop = LoopOptions(out=home / "run", steps=steps, batch=2, report_every=1, save_every=1, sample_every=1000)
    values = {"preset": "dalle-pytorch-tiny", "vocabulary": 270, "prompts": (), "cache": home / "prepared", **changes}
    return TransformerOptions((corpus,), loop, **values)


@pytest.mark.parametrize("config", [VQGAN, DVAE], ids=["vqgan", "dvae"])
def test_stage_two_learns_on_another_project_s_codes_and_paints(
    config: AnyImageConfig, corpus: Path, command: Run, tmp_path: Path
) -> None:
    vae = image_tokenizer(config, tmp_path / "vae")
    done = command(
        "train", "transformer", corpus, "--vae", vae, "--out", "run", "--preset", "tiny", "--steps", 2, "--batch", 2,
        "--cache", "prepared", "--set", "vocabulary=270", "--set", "withhold=0.5", "--device", "cpu", "--prompt", "red",
    )  # fmt: skip
    assert (done.status, done.out.split()) == (0, ["run/checkpoint"]), done.err
    painter = model.load(tmp_path / "run" / "checkpoint", "cpu")
    assert (painter.transformer.config.image_vocab, painter.transformer.config.grid) == (config.codes, config.grid)
    imported = model.load_vae(vae, "cpu").state_dict()
    assert all(torch.equal(imported[key], tensor) for key, tensor in painter.vae.state_dict().items())
    assert painter.generate("a red pattern", seed=1)[0].size == (config.image_size, config.image_size)
    served = ServedCheckpoint.read(tmp_path / "run" / "checkpoint")
    assert served.config.vae == config
    assert describe(tmp_path / "run" / "checkpoint").problems == ()
    done = command("export", "run", "--vae", vae, "--out", "again", "--set", "guidance=1")
    assert done.status == 0, done.err


def test_tokens_are_known_by_all_that_decides_them(corpus: Path, tmp_path: Path) -> None:
    vae: Any = network(VQGAN)
    first = vae_digest(vae)
    with torch.no_grad():
        vae.decoder.conv_in.weight += 1
        vae.post_quant_conv.weight += 1
    assert vae_digest(vae) == first
    for part in (vae.codebook, vae.quant_conv):
        with torch.no_grad():
            part.weight += 1
        assert vae_digest(vae) != first
        first = vae_digest(vae)
    wider = network(VQGANConfig(**{**vars(VQGAN), "image_size": 64}))
    wider.load_state_dict(vae.state_dict())
    assert vae_digest(wider) != first
    tokens, _ = tokenize(prepare((corpus,), tmp_path), vae.eval(), torch.device("cpu"))
    assert tokens.shape == (6, 64)


def test_what_cannot_be_trained_is_refused_in_one_line(corpus: Path, command: Run, tmp_path: Path) -> None:
    vae = image_tokenizer(VQGAN, tmp_path / "vae")
    for stage, told in (("clip", "a CLIP must have a VAE of `train vae`, got one of vqgan"),):
        done = command("train", stage, corpus, "--vae", vae, "--out", "no")
        assert done.status == 1
        assert told in done.err.strip().splitlines()[-1]
    done = command("train", "vae", corpus, "--start", vae, "--out", "no")
    assert "a start must have a VAE of `train vae`, got one of vqgan" in done.err
    blind = image_tokenizer(VQGANConfig(**{**vars(VQGAN), "encodes": False}), tmp_path / "blind")
    done = command("train", "transformer", corpus, "--vae", blind, "--out", "no")
    assert "the VAE must have an encoder to train with, and this one has none" in done.err
    assert not (tmp_path / "no").exists()


@pytest.fixture
def trained(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two steps of a tiny model of DALLE-pytorch's shape in `run`, and its image tokenizer in `vae`."""
    monkeypatch.setitem(DALLE_PYTORCH_PRESETS, "dalle-pytorch-tiny", TINY)
    vae = export.find_vae(image_tokenizer(DISCRETE, tmp_path / "vae"))
    train_transformer.train(options(corpus, tmp_path, 2), vae)
    return tmp_path


def test_a_model_of_the_shape_is_trained_resumed_painted_and_goes_back(
    trained: Path, corpus: Path, command: Run
) -> None:
    vae = export.find_vae(trained / "vae")
    again, words = train_transformer.train(options(corpus, trained, 3), vae)
    assert isinstance(again, DallePytorchTransformer)
    lines = [json.loads(line) for line in (trained / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert again.config.text_vocab == words.vocab_size
    done = command("export", "run", "--vae", "vae", "--out", "made")
    assert done.status == 0, done.err
    painter: Any = model.load(trained / "made", "cpu")
    assert torch.equal(painter.transformer.cos, again.get_buffer("cos"))  # nothing is rounded
    assert painter.generate("a red pattern", seed=1)[0].size == (16, 16)
    for source in ("run", "made"):
        done = command("export", source, "--vae", "vae", "--format", "dalle-pytorch", "--out", f"back/{source}.pt")
        assert (done.status, done.out.split()) == (0, [f"back/{source}.pt", f"back/{source}.json"]), done.err
    one, two = (torch.load(trained / "back" / f"{name}.pt", weights_only=True) for name in ("run", "made"))
    assert all(torch.equal(two["weights"][key], tensor) for key, tensor in one["weights"].items())
    write_import(read_import([trained / "back" / "run.pt", trained / "back" / "run.json"], {}), trained / "came", {})
    came = model.load(trained / "came", "cpu")
    assert came.transformer.config == again.config
    assert came.tokenizer.encode("a red pattern") == words.encode("a red pattern")


def test_an_imported_model_learns_on(trained: Path, corpus: Path) -> None:
    vae = export.find_vae(trained / "vae")
    export.export(trained / "run", vae, trained / "made", ExportOptions())
    start = export.find_start(trained / "made")
    asked = options(corpus, trained / "finer", 1)
    finer, words = train_transformer.train(asked, vae, start.tokenizer, start.transformer)
    assert finer.config == start.transformer.config
    assert words.to_bytes() == train_transformer.load_tokenizer(trained / "finer" / "run").to_bytes()
    other = network(DiscreteVAEConfig(image_size=16, codes=19, code_dim=8, layers=2, width=8))
    with pytest.raises(
        DataError, match=r"the VAE must have 18 codes and 4 tokens a side, as the start's, got 19 and 4"
    ):
        train_transformer.train(asked, other, start.tokenizer, start.transformer)
    with pytest.raises(DataError, match="glimpses must be 0 for a transformer of DALLE-pytorch's shape, got 2"):
        train_transformer.train(options(corpus, trained / "no", 1, glimpses=2), vae)


def test_the_loss_falls_on_one_picture(trained: Path, corpus: Path) -> None:
    vae = export.find_vae(trained / "vae")
    asked = options(corpus, trained / "longer", 20, blind=0.0, withhold=0.0, easy_share=1.0, null_captions=0.0)
    train_transformer.train(asked, vae)
    lines = [json.loads(line) for line in (trained / "longer" / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.95 * lines[0]["loss"]


def test_the_original_package_loads_what_goes_back(trained: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("dalle_pytorch", exc_type=ImportError)
        tokenizers = importlib.import_module("dalle_pytorch.tokenizer")
    vae = export.find_vae(trained / "vae")
    checkpoint = export.assembled(trained / "run", vae, {})
    (path, words) = write_back(checkpoint, trained / "back.pt")
    content = torch.load(path, weights_only=True)
    theirs = package.DALLE(vae=package.DiscreteVAE(**content["vae_params"]), **content["hparams"])
    theirs.load_state_dict(content["weights"])
    theirs.eval()
    tokenizer = tokenizers.HugTokenizer(str(words))
    text = tokenizer.tokenize(["a red pattern"], content["hparams"]["text_seq_len"])
    assert [i for i in text[0].tolist() if i] == checkpoint.tokenizer.encode("a red pattern")
    image = torch.arange(16).view(1, 16)
    with torch.no_grad():
        expected = theirs(text.clone(), image.clone())
    found = checkpoint.transformer.logits(text, image)[:, :-1]
    allowed = expected > -1e30
    torch.testing.assert_close(found[allowed], expected[allowed], rtol=0, atol=1e-4)
