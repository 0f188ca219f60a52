"""What an image tokenizer's file has wrong is named: the key, the argument, both shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from model.errors import CheckpointError
from model.importing.calls import Inert
from model.importing.files import Given, Weights
from model.importing.image import read_vae, roles, vae_of
from model.importing.state import Keys
from tests.families.image.originals import original
from tests.families.image.test_originals import given, pickled, under, with_haar

VAE = original("discrete-vae-1.6.6")
VQGAN = original("vqgan")


def vae(hparams: dict[str, Any] | None = None, changes: dict[str, torch.Tensor] | None = None) -> Given:
    state = {**VAE.state, **(changes or {})}
    return given({"hparams": VAE.about if hparams is None else hparams, "weights": state})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_layers": 10**9}, "num_layers must be an integer from 1 to 8, got 1000000000"),
        ({"num_resnet_blocks": 10**9}, "num_resnet_blocks must be an integer from 0 to"),
        ({"hidden_dim": "64"}, "hidden_dim must be an integer from 1 to 16384, got '64'"),
        ({"num_tokens": 41}, r"codebook.weight. must have the shape \(41, 12\), got \(40, 12\)"),
        ({"image_size": 34}, "image_size must be a multiple of 4"),
        ({"normalization": ((0.5,) * 4, (1.0, 1.0, 0.0, 1.0))}, "std must have no 0"),
        ({"normalization": 3}, "normalization must be two lists of numbers, got 3"),
        ({"normalization": ((0.5,) * 4, ("x",) * 4)}, "normalization: std must be"),
        ({"depth": 3}, "'depth' is no argument of a DiscreteVAE"),
    ],
)
def test_an_argument_that_cannot_be(change: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        read_vae(vae({**VAE.about, **change}))
    assert "last.ckpt" in str(caught.value)


def test_a_tensor_too_few_too_many_or_of_another_kind() -> None:
    state = VAE.state
    less = {key: tensor for key, tensor in state.items() if key != "decoder.1.net.2.bias"}
    with pytest.raises(CheckpointError, match=r"'decoder.1.net.2.bias' is missing"):
        read_vae(given({"hparams": VAE.about, "weights": less}))
    with pytest.raises(CheckpointError, match="'encoder.9.weight' belongs to nothing in this model"):
        read_vae(vae(None, {"encoder.9.weight": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match="'codebook.weight' must be of a floating type, got int64"):
        read_vae(vae(None, {"codebook.weight": torch.zeros(40, 12, dtype=torch.int64)}))
    with pytest.raises(CheckpointError, match="'codebook.weight' must be finite numbers, got NaN"):
        read_vae(vae(None, {"codebook.weight": torch.full((40, 12), torch.nan)}))
    bad = {**{f"vae.{key}": tensor for key, tensor in state.items()}, "vae.codebook.weight": torch.zeros(2, 2)}
    with pytest.raises(CheckpointError, match=r"'vae.codebook.weight' must have the shape \(40, 12\), got \(2, 2\)"):
        vae_of(Keys(bad, "dalle.pt"), VAE.about)
    with pytest.raises(CheckpointError, match="vae_params must be the arguments of a DiscreteVAE, got null"):
        vae_of(Keys({f"vae.{key}": tensor for key, tensor in state.items()}, "dalle.pt"), None)


def test_what_a_vqgan_has_wrong() -> None:
    state = VQGAN.state
    held = {f"vae.model.{key}": tensor for key, tensor in {**state, "encoder.extra": torch.zeros(3)}.items()}
    with pytest.raises(CheckpointError, match="'vae.model.encoder.extra' belongs to nothing"):
        vae_of(Keys(held, "dalle.pt"), None)
    with pytest.raises(CheckpointError, match=r"decoder.conv_in.weight must have 4 axes, got the shape \(3,\)"):
        read_vae(given({"state_dict": {**state, "decoder.conv_in.weight": torch.zeros(3)}}))
    thin = {**state, "decoder.up.0.block.0.conv1.weight": torch.zeros(20, 32, 3, 3)}
    with pytest.raises(CheckpointError, match="widths must be multiples of 32, got 20, 64, 64"):
        read_vae(given({"state_dict": thin}))
    many = {**state, **{f"decoder.up.{i}.block.0.conv1.weight": torch.zeros(32, 32, 3, 3) for i in range(3, 60)}}
    with pytest.raises(CheckpointError, match="widths must be a list of 1 to 8 integers"):
        read_vae(given({"state_dict": many}))
    ru = with_haar(original("rudalle-dwt").state)
    ru["model.decoder.idwt.g1_row"] = ru["model.decoder.idwt.g0_row"]
    with pytest.raises(CheckpointError, match="idwt.g1_row must be the filter of the Haar wavelet"):
        read_vae(given({"state_dict": ru}))


@pytest.mark.parametrize(
    ("used", "said"),
    [
        (torch.arange(3.0), r"quantize.used must be a list of 1 to 60 integers, got a tensor \(3,\) of float32"),
        (torch.arange(61), r"must be a list of 1 to 60 integers, got a tensor \(61,\)"),
        (torch.arange(0), r"must be a list of 1 to 60 integers, got a tensor \(0,\)"),
        (torch.zeros(2, 2, dtype=torch.int64), r"must be a list of 1 to 60 integers, got a tensor \(2, 2\)"),
        (torch.tensor([0, 60]), "must be of rows from 0 to 59, got 0 to 60"),
        (torch.tensor([-1, 3]), "must be of rows from 0 to 59, got -1 to 3"),
    ],
)
def test_numbers_that_no_codebook_has(used: torch.Tensor, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        read_vae(given({"state_dict": {**VQGAN.state, "quantize.used": used}}))


def test_what_becomes_of_a_code_without_a_number() -> None:
    held = {"state_dict": {**VQGAN.state, "quantize.used": torch.arange(3)}}
    for bad in ("3", "-1", "best", "1e2"):
        with pytest.raises(CheckpointError, match="unknown_index must be random, extra or a number from 0 to 2, got"):
            read_vae(given(held, unknown_index=bad))
    yaml = changed(VQGAN.about, "model.params.remap", "used.npy")
    assert read_vae(given(held, yaml)).config.codes == 3
    both = changed(yaml, "model.params.unknown_index", 1)
    assert read_vae(given(held, both)).config.unknown == 1
    assert read_vae(given(held, both, unknown_index="extra")).config.unknown == 3
    with pytest.raises(CheckpointError, match="the yaml says remap 'used.npy', and the file has no quantize.used"):
        read_vae(given({"state_dict": VQGAN.state}, yaml))
    with pytest.raises(CheckpointError, match="the yaml says remap null, and the file has quantize.used"):
        read_vae(given(held, VQGAN.about))


def changed(yaml: Any, path: str, value: Any) -> Any:
    """A copy of nested dicts with another value at "model.params.n_embed", say."""
    head, _, rest = path.partition(".")
    return {**yaml, head: changed(yaml[head], rest, value) if rest else value}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("model.params.n_embed", 1024, "the yaml says n_embed 1024, and the file's tensors 60"),
        ("model.params.ddconfig.ch_mult", [1, 2], "the yaml says ddconfig.ch_mult"),
        ("model.params.ddconfig.attn_resolutions", [8], "the yaml says ddconfig.attn_resolutions"),
        ("model.params.ddconfig.resolution", 10**9, "ddconfig.resolution must be an integer from 8 to 1024"),
        ("model.target", "taming.models.vqgan.GumbelVQ", "and the file has no quantize.proj"),
        ("model.params.ddconfig.tanh_out", True, "the yaml says ddconfig.tanh_out true, which is not read"),
        ("model.target", "os.system", "the yaml's model.target must be one of VQModel"),
        ("model.params", 3, "the yaml's params must be an object, got 3"),
        ("model.params.ddconfig", None, "the yaml's ddconfig must be an object, got null"),
    ],
)
def test_a_yaml_that_belongs_to_other_weights(path: str, value: Any, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        read_vae(given({"state_dict": VQGAN.state}, changed(VQGAN.about, path, value)))


def test_the_picture_has_the_size_that_is_said() -> None:
    held = {"state_dict": VQGAN.state}
    assert read_vae(given(held)).config.image_size == 256
    assert read_vae(given(held, VQGAN.about)).config.image_size == 32
    assert read_vae(given(held, VQGAN.about), grid=16).config.image_size == 64
    assert read_vae(given(held, VQGAN.about, image_size="128")).config.image_size == 128
    for bad in ("-1", "99999", "12.5", "٣"):
        with pytest.raises(CheckpointError, match="image_size must be a number of pixels"):
            read_vae(given(held, image_size=bad))
    with pytest.raises(CheckpointError, match="image_size must be a multiple of 4"):
        read_vae(given(held, image_size="30"))


def test_one_image_tokenizer_is_asked_for() -> None:
    state = original("openai-dvae").state
    encoder = Weights(Path("a.pkl"), "pickle", pickled(under(state, "enc."), "dall_e.encoder.Encoder"))
    with pytest.raises(CheckpointError, match="a.pkl: one half of OpenAI's dVAE: give the other, decoder.pkl, too"):
        read_vae(Given({"openai dvae encoder": encoder}, {}))
    other = vae().weights["discrete vae"]
    with pytest.raises(CheckpointError, match="a.pkl: a second image tokenizer; last.ckpt is one too"):
        read_vae(Given({"openai dvae encoder": encoder, "discrete vae": other}, {}))
    with pytest.raises(CheckpointError, match="the files have no image tokenizer"):
        read_vae(Given({}, {}))


def test_a_pickled_module_that_is_none() -> None:
    state = original("openai-dvae").state
    decoder = Weights(Path("b.pkl"), "pickle", pickled(under(state, "dec."), "dall_e.decoder.Decoder"))
    loop = Inert("dall_e.encoder.Encoder")
    loop.state = {"_modules": {"again": loop}}
    wide = Inert("dall_e.encoder.Encoder")
    wide.state = {"_modules": {str(i): 3 for i in range(9)}}
    held = Inert("dall_e.encoder.Encoder")
    held.state = {"_parameters": {"w": [1, 2]}}
    for module, said in (
        (loop, "too many modules"),
        (wide, "'0.' must be a pickled torch module, got 3"),
        (held, "'w' must be a tensor, got a list of 2"),
        (Inert("dall_e.encoder.Encoder"), "must be a pickled torch module"),
    ):
        assert roles(module) == "openai dvae encoder"
        files = {"openai dvae encoder": Weights(Path("a.pkl"), "pickle", module), "openai dvae decoder": decoder}
        with pytest.raises(CheckpointError, match=said):
            read_vae(Given(files, {}))


def test_other_files_have_no_role() -> None:
    within: object = {"hparams": {}, "weights": {"vae.codebook.weight": 1}}
    contents: list[object] = [None, 3, [], {}, {"weights": "auxiliary"}, within]
    for content in contents:
        assert roles(content) is None
    assert roles(Inert("os.system")) is None
