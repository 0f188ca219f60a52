"""Models go back to DALLE-pytorch as they came: the same keys, shapes and bits; what it cannot compute is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import model
from app.cli import main
from model.config import VAEConfig
from model.errors import CheckpointError
from model.exporting.dalle_pytorch import check, content_of, hparams
from model.exporting.image import VAEFile, vae_file
from model.families.image.build import network as image_network
from model.families.image.config import DiscreteVAEConfig, OpenAIDVAEConfig, VQGANConfig
from model.families.text.youtokentome_plain import PlainYouTokenToMe
from model.importing.dalle_pytorch import OLD_PLACES, read_transformer
from model.importing.image import vae_of
from model.importing.image.taming_yaml import check_yaml
from model.importing.state import Keys
from model.vae import VAE
from tests.families.dalle_pytorch.originals import imported, network, original
from tests.families.dalle_pytorch.test_import import BPE, MIX, whole
from tests.families.image.originals import original as image_original
from tests.running import Run, runner

TEXTS = Path(__file__).parents[1] / "data" / "families" / "text"
SMALL = VQGANConfig(codes=8, code_dim=32, latent=32, stem=32, widths=(32, 64), blocks=1, attention=(1,))


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    return runner("dalle-server", main, capsys, monkeypatch, tmp_path)


def same(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def test_import_export_import_gives_the_same_bits(command: Run, tmp_path: Path) -> None:
    content = whole()
    torch.save(content, tmp_path / "dalle.pt")
    (tmp_path / "bpe.json").write_text(json.dumps(BPE))
    assert command("import", "dalle.pt", "bpe.json", "--out", "one").status == 0
    done = command("export", "one", "--format", "dalle-pytorch", "--out", "back/given.pt")
    assert (done.status, done.out.split()) == (0, ["back/given.pt", "back/given.json"])
    assert command("import", "back/given.json", "back/given.pt", "--out", "two").status == 0
    one, two = (model.load(tmp_path / name, "cpu").checkpoint for name in ("one", "two"))
    assert same(one.transformer, two.transformer)
    assert same(one.vae, two.vae)
    assert one.tokenizer.to_bytes() == two.tokenizer.to_bytes()
    assert (one.config.transformer, one.config.vae) == (two.config.transformer, two.config.vae)
    back = torch.load(tmp_path / "back" / "given.pt", weights_only=True)
    assert back["weights"].keys() == content["weights"].keys()
    assert all(torch.equal(back["weights"][key], tensor) for key, tensor in content["weights"].items())
    assert back["vae_params"].items() >= {"image_size": 16, "num_tokens": 11}.items()
    again = command("export", "one", "--format", "dalle-pytorch", "--out", "back/given.pt")
    assert (again.status, again.err.count("\n")) == (1, 1)
    assert "back/given.json: exists, so it is not replaced" in again.err
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["given.json", "given.pt"]


@pytest.mark.parametrize("name", ["1.4.2-shared", "1.5.2-reversible-conv", "1.6.6-mix", "1.6.6-rotary"])
def test_keys_and_arguments_are_those_of_the_package(name: str) -> None:
    made = original(name)
    part = imported(made.content)
    back = content_of(network(part), VAEFile("DiscreteVAE", None, {}), "it", OLD_PLACES)
    weights = made.content["weights"]
    assert back["weights"].keys() == weights.keys()
    assert all(torch.equal(back["weights"][key], tensor) for key, tensor in weights.items())
    assert read_transformer(back["hparams"], Keys(back["weights"], "dalle.pt"), (1, 6, 6)).config == part.config
    theirs = {key: value for key, value in made.content["hparams"].items() if not key.startswith("shared")}
    theirs["attn_types"] = tuple(theirs["attn_types"])
    assert {key: back["hparams"][key] for key in theirs} == theirs


def test_what_the_package_cannot_compute_is_refused_with_the_reason() -> None:
    centred, gated = (imported(original(name).content).config for name in ("1.1.8-sandwich", "0.12.0-mlp"))
    with pytest.raises(CheckpointError, match="^it: conv_like meant another window until DALLE-pytorch 1.4.2"):
        check(centred, "it")
    attention = tuple("full" if kind == "conv_centred" else kind for kind in gated.attention)
    with pytest.raises(CheckpointError, match="^it: a layer is of the kind mlp, which DALLE-pytorch 1.6.6 does not"):
        check(dataclasses.replace(gated, attention=attention), "it")
    part = imported(original("1.6.6-rotary").content)
    turned: Any = network(part)
    turned.cos += 0.5
    with pytest.raises(CheckpointError, match="^it: its rotary positions must be those that DALLE-pytorch 1.6.6"):
        content_of(turned, VAEFile("DiscreteVAE", None, {}), "it")


def test_rotary_positions_that_were_rounded_to_float16_go_back_rounded() -> None:
    content = original("1.6.6-rotary").content
    content["weights"] = {key: tensor.half() for key, tensor in content["weights"].items()}
    back = content_of(network(imported(content)).float(), VAEFile("DiscreteVAE", None, {}), "it")
    assert torch.equal(back["weights"]["transformer.pos_emb"], content["weights"]["transformer.pos_emb"].float())


def test_our_own_models_are_refused(command: Run) -> None:
    root = Path(__file__).parents[2]
    done = command("export", root / "weights" / "default", "--format", "dalle-pytorch", "--out", "no.pt")
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert "the transformer must be of DALLE-pytorch's shape, which --preset dalle-pytorch-512x12 trains" in done.err
    assert not Path("no.pt").exists()
    done = command("export", "run", "--format", "dalle-pytorch", "--out", "no.pt", "--name", "x")
    assert "--name" in done.err
    assert "a .pt of DALLE-pytorch" in done.err


@pytest.mark.parametrize("name", ["vqgan", "vqgan-gumbel"])
def test_a_vqgan_goes_back_under_taming_s_names_with_its_yaml(name: str) -> None:
    config = dataclasses.replace(SMALL, quantiser="gumbel" if name == "vqgan-gumbel" else "nearest")
    vae = image_network(config)
    found = vae_file(vae, "it")
    assert (found.class_name, found.params) == ("VQGanVAE", None)
    theirs = {key for key in image_original(name).shapes if not key.startswith("loss.")}
    assert {key.removeprefix("model.").split(".")[0] for key in found.weights} == {key.split(".")[0] for key in theirs}
    assert {key for key in found.weights if "quant" in key} == {f"model.{key}" for key in theirs if "quant" in key}
    assert check_yaml(found.yaml, config, "it", renumbered=False) is None
    back = vae_of(Keys({f"vae.{key}": tensor for key, tensor in found.weights.items()}, "it"), None, found.yaml)
    assert back is not None
    assert back.config == config
    assert all(torch.equal(tensor, back.state[key]) for key, tensor in vae.state_dict().items())


def test_openai_s_dvae_goes_back_under_its_names() -> None:
    config = OpenAIDVAEConfig(width=8, code_dim=8, blocks=1)
    vae = image_network(config)
    found = vae_file(vae, "it")
    assert found.class_name == "OpenAIDiscreteVAE"
    back = vae_of(Keys({f"vae.{key}": tensor for key, tensor in found.weights.items()}, "it"), None)
    assert back is not None
    assert back.config == config
    assert all(torch.equal(tensor, back.state[key]) for key, tensor in vae.state_dict().items())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (VAEConfig(), "no class for the image tokenizer, which is this project's own"),
        (DiscreteVAEConfig(image_size=24, layers=1, width=8), "sides that are a power of two, got 24 pixels"),
        (OpenAIDVAEConfig(image_size=64, width=8, codes=9), "pictures of 256 pixels and 8192 codes, got 64 and 9"),
        (dataclasses.replace(SMALL, image_size=64), "pictures of 256 pixels, got 64"),
        (dataclasses.replace(SMALL, known=3), "a code for each token and a token for each code, got others"),
        (dataclasses.replace(SMALL, attention=()), "attention at its lowest resolution, .* got none there"),
        (dataclasses.replace(SMALL, quantiser="cosine"), "the nearest code or Gumbel's, got cosine codes"),
        (dataclasses.replace(SMALL, stem=64, widths=(32, 64)), "multiples of its first width, 64, got widths of 32"),
        (dataclasses.replace(SMALL, encodes=False), "an encoder, got none"),
    ],
)
def test_image_tokenizers_that_the_package_has_not_are_refused(config: Any, message: str) -> None:
    with torch.device("meta"):
        vae = VAE(config) if isinstance(config, VAEConfig) else image_network(config)
    with pytest.raises(CheckpointError, match=message):
        vae_file(vae, "it")


def test_the_file_of_youtokentome_is_written_as_it_was_read() -> None:
    text = (TEXTS / "bpe.model").read_text()
    read: Any = PlainYouTokenToMe.read(text, "bpe.model", 64)
    again = PlainYouTokenToMe.read(read.to_model(), "again", 64)
    assert again.to_bytes() == read.to_bytes()
    assert sorted(read.to_model().split("\n")) == sorted([*text.rstrip("\n").split("\n"), ""])


def test_kinds_of_attention_are_told_once() -> None:
    config = imported(original(MIX).content).config
    assert hparams(config)["attn_types"] == ("full", "conv_like", "axial_col", "axial_row")
    four = dataclasses.replace(config, attention=("full", "axial_row") * 2)
    assert hparams(four)["attn_types"] == ("full", "axial_row")
