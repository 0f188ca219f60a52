"""Files of DALLE-pytorch are read as their version means them, or refused by the name of what is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.errors import CheckpointError
from model.importing import dalle_pytorch, image
from model.importing.dalle_pytorch import read, roles, weights_of
from model.importing.files import Given, Text, Weights
from tests.families.dalle_pytorch.originals import imported, original
from tests.families.image.originals import original as image_original
from tests.families.image.originals import tensors

MIX = "1.6.6-mix"
GONE = "transformer.layers.layers.1.1.fn.fn.fn.fn.net.0.weight"


def refused(content: dict[str, Any]) -> str:
    with pytest.raises(CheckpointError) as caught:
        imported(content)
    message = str(caught.value)
    assert message.startswith("dalle.pt: ")
    assert "\n" not in message
    return message


def changed(
    name: str, hparams: dict[str, Any] | None = None, weights: dict[str, Tensor | None] | None = None
) -> dict[str, Any]:
    """A file with other hparams and weights; None takes a key away."""
    content = original(name).content
    for key, value in (hparams or {}).items():
        content["hparams"][key] = value
        if value is None:
            del content["hparams"][key]
    for name, tensor in (weights or {}).items():
        content["weights"][name] = tensor
        if tensor is None:
            del content["weights"][name]
    return content


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        (None, "conv_centred"),
        ("1.1.6", "conv_centred"),
        ("1.4.2", "conv_centred"),
        ("1.5.0", "conv_like"),
        ("1.6.6", "conv_like"),
    ],
)
def test_conv_like_means_what_it_meant_in_the_version(version: str | None, kind: str) -> None:
    content = original(MIX).content
    content["version"] = version
    assert imported(content).config.attention == ("full", kind, "axial_col", "axial_row")


def test_older_hparams_lack_what_the_keys_tell() -> None:
    content = changed("1.1.8-sandwich", {"shift_tokens": None, "rotary_emb": None})
    config = imported(content).config
    assert config.shift
    assert config.rotary
    assert not imported(original("0.12.0-mlp").content).config.rotary


def test_shared_layers_are_kept_once() -> None:
    part = imported(original("1.4.2-shared").content)
    assert part.config.shared_attention == (0, 1, 0, 1)
    assert part.config.shared_feed == (0, 0, 1, 0)
    assert sum(name.endswith("qkv.weight") for name in part.state) == 2
    assert "text_table.weight" not in part.state


@pytest.mark.parametrize(
    ("hparams", "message"),
    [
        (
            {"attn_types": ["full", "sparse"]},
            "hparams: attn_types has 'sparse', DeepSpeed's block-sparse attention, which is not supported",
        ),
        (
            {"attn_types": ["full", "fast"]},
            "hparams: attn_types must be of full, axial_row, axial_col, conv_like, mlp, got 'fast'",
        ),
        ({"attn_types": []}, "hparams: attn_types must be a list of 1 to 256 names, got a list of 0"),
        ({"attn_types": [["full"]]}, "hparams: attn_types must be of .*, got a list of 1"),
        ({"sparse_attn": True}, "hparams: sparse_attn stands for 'sparse', DeepSpeed's"),
        ({"attn_dropout": "0.1"}, "hparams: attn_dropout must be a number from 0 to 1048576, got '0.1'"),
        ({"loss_img_weight": float("nan")}, "hparams: loss_img_weight must be a number from 0 to 1048576, got nan"),
        ({"optimize_for_inference": 1}, "hparams: optimize_for_inference must be true or false, got 1"),
        ({"window": 3}, "hparams: unknown key 'window'"),
        ({"depth": 10**9}, "hparams: depth must be an integer from 1 to "),
        ({"depth": 300}, "hparams: depth must be an integer from 1 to 256, got 300"),
        ({"dim": None}, "hparams: dim must be an integer from 1 to 1048576, got null"),
        ({"dim": 12}, r"'to_logits.1.weight' must have the shape \(35, 12\), got \(35, 10\)"),
        ({"heads": True}, "hparams: heads must be an integer from 1 to 1048576, got true"),
        ({"heads": 3}, r"to_qkv.weight' must have the shape \(72, 10\), got \(48, 10\)"),
        ({"depth": 3}, "'transformer.layers.layers.3.0.scale' belongs to nothing in this model, and"),
        ({"depth": 5}, "the key 'transformer.layers.layers.4.0.scale' is missing"),
        ({"reversible": True}, "must be like transformer.layers.blocks.N.f, as reversible in hparams says"),
        ({"reversible": 1}, "hparams: reversible must be true or false, got 1"),
        (
            {"shift_tokens": False},
            "hparams has shift_tokens false, and the keys of weights are those of a model with the opposite",
        ),
        ({"rotary_emb": True}, "hparams has rotary_emb true, and the keys"),
        ({"sandwich_norm": True}, "the key 'transformer.layers.layers.0.0.norm_out.weight' is missing"),
        ({"share_input_output_emb": True}, "'text_emb.linear.weight' is missing"),
        ({"num_text_tokens": 30}, "num_text_tokens and text_seq_len make 35 text ids, and to_logits.1 has no row"),
        ({"num_text_tokens": 20}, r"'text_emb.weight' must have the shape \(25, 10\), got \(24, 10\)"),
        ({"attn_types": ["mlp"]}, "the key 'transformer.layers.layers.0.0.sgu.proj.weight' is missing"),
        (
            {"shared_attn_ids": ["a"]},
            "shared_attention: layers that share one must be of one kind, got full and conv_like",
        ),
        ({"shared_ff_ids": ["a"]}, "layer 1 must repeat what it shares with an earlier one, and its w1.weight differs"),
        ({"shared_ff_ids": [None]}, "hparams: shared_ff_ids must be of names, got null"),
        ({"shared_ff_ids": "ab"}, "hparams: shared_ff_ids must be a list of 1 to 256 names, got 'ab'"),
    ],
)
def test_hparams_are_refused_by_name(hparams: dict[str, Any], message: str) -> None:
    assert re.search(message, refused(changed(MIX, hparams)))


@pytest.mark.parametrize(
    ("name", "key", "tensor", "message"),
    [
        (MIX, "to_logits.0.bias", None, "'to_logits.0.bias' is missing"),
        (MIX, "text_emb.weight", torch.full((24, 10), torch.nan), "'text_emb.weight' must be finite numbers, got NaN"),
        (MIX, "text_emb.weight", torch.full((24, 10), torch.inf), "be finite numbers of float32, got inf to inf"),
        (MIX, "text_emb.weight", torch.full((24, 10), -1e39, dtype=torch.float64), r"float32, got -1e\+39 to -1e"),
        (MIX, "text_emb.weight", torch.zeros(24, 10).char(), "'text_emb.weight' must be of a floating type"),
        (MIX, "transformer.extra", torch.zeros(1), "'transformer.extra' belongs to nothing in this model"),
        (MIX, "transformer.layers.odd", torch.zeros(1), "'transformer.layers.odd' must be like"),
        (MIX, "image_pos_emb.weights_0", torch.zeros(4, 10), r"weights_0 must have the shape \(1, side, 1, 10\)"),
        (MIX, "to_logits.1.weight", torch.zeros(350), r"'to_logits.1.weight' must have the shape \(35, 10\)"),
        (MIX, "to_logits.1.weight", torch.zeros(36, 10), r"'to_logits.1.weight' must have the shape \(35, 10\), got"),
        (MIX, "to_logits.1.bias", torch.zeros(36), r"'to_logits.1.bias' must have the shape \(35,\), got \(36,\)"),
        (MIX, "image_emb.weight", torch.zeros(12, 10), r"'image_emb.weight' must have the shape \(11, 10\), got"),
        (MIX, "to_logits.1.bias", torch.tensor(1.0), r"'to_logits.1.bias' must have the shape \(35,\), got \(\)"),
        (MIX, GONE, None, f"the key '{GONE}' is missing"),
        ("1.0.8-full", "transformer.pos_emb", None, "the key 'transformer.pos_emb' is missing"),
        (MIX, "text_pos_emb.weight", None, "the key 'text_pos_emb.weight' is missing"),
        ("1.0.8-full", "transformer.pos_emb", torch.zeros(1, 1, 20, 12), "pos_emb must have a row for each of 5 text"),
        ("1.0.8-full", "transformer.pos_emb", torch.zeros(1, 1, 21, 4), r"pos_emb must have the shape \(1, 22, 6\)"),
        ("1.4.2-shared", "text_emb.linear.weight", torch.zeros(35, 12), 'must repeat to_logits.1, and differs'),
    ],
)  # fmt: skip
def test_weights_are_refused_by_name(name: str, key: str, tensor: Tensor | None, message: str) -> None:
    assert re.search(message, refused(changed(name, weights={key: tensor})))


def test_what_is_no_checkpoint_of_the_package_is_refused() -> None:
    content = original(MIX).content
    others: list[Any] = [None, [], {}, {"hparams": {}, "weights": {}}, content["weights"]]
    assert roles(content) == "dalle-pytorch"
    assert [roles(other) for other in others] == [None] * 5
    with pytest.raises(CheckpointError, match=r"^x: unknown key 'optimiser'; known are epoch, "):
        weights_of({**content, "optimiser": 1}, "x")
    with pytest.raises(
        CheckpointError, match=r"^x: weights is 'see aux', a note that DeepSpeed keeps them in a folder"
    ):
        weights_of({**content, "weights": "see aux"}, "x")
    for version in (3, "1", "1.x", "1.6.6+" + "9" * 99):
        assert "version must be like '1.6.6', got" in refused({**content, "version": version})
    assert "version must be below 1.7" in refused({**content, "version": "1.7.0"})


# The whole file: image tokenizer and text tokenizer too.

BPE: dict[str, Any] = {"model": {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(19)}, "unk_token": "w1"}}


def whole(codes: int = 11) -> dict[str, Any]:
    """A dalle.pt with a DiscreteVAE in it, of 4 x 4 tokens."""
    content = original(MIX).content
    made = image_original("discrete-vae-1.6.6")
    shapes = {key: [codes if size == 40 else size for size in shape] for key, shape in made.shapes.items()}
    content["weights"].update({f"vae.{key}": tensor for key, tensor in tensors(shapes).items()})
    content["vae_params"] = {**made.about, "image_size": 16, "num_tokens": codes}
    return content


def given(content: dict[str, Any], texts: dict[str, Any]) -> Given:
    assert roles(content) == dalle_pytorch.ROLE
    return Given(
        {dalle_pytorch.ROLE: Weights(Path("dalle.pt"), "torch zip", content)},
        {kind: Text(Path(f"{kind}.json"), kind, value) for kind, value in texts.items()},
    )


def test_a_whole_file_is_read() -> None:
    found = read(given(whole(), {"tokenizer json": BPE}))
    assert found.transformer is not None
    assert found.vae.config.codes == found.transformer.config.image_vocab == 11
    assert found.tokenizer.encode("w3") == [3]
    assert found.facts["version"] == "1.6.6"


def test_an_image_tokenizer_beside_the_file_must_be_the_one_within() -> None:
    content = whole()
    weights = {key.removeprefix("vae."): x for key, x in content["weights"].items() if key.startswith("vae.")}
    beside = {"hparams": content["vae_params"], "weights": weights}

    def both(file: dict[str, Any], other: dict[str, Any]) -> Given:
        files = given(file, {"tokenizer json": BPE})
        files.weights[image.DISCRETE_VAE] = Weights(Path("vae.pt"), "torch zip", other)
        return files

    files = both(content, beside)
    read(files)
    assert files.unused_files == []
    without = {**content, "weights": original(MIX).content["weights"]}
    assert read(both(without, beside)).vae.config.codes == 11  # some publish the transformer alone
    weights["decoder.5.bias"] = weights["decoder.5.bias"] + 1
    with pytest.raises(CheckpointError, match=r"^vae.pt: the image tokenizer beside it is another one than the vae.*"):
        read(both(content, beside))


def test_the_parts_must_fit_each_other() -> None:
    with pytest.raises(CheckpointError, match=r"^dalle.pt: the image tokenizer must have 11 codes and 4 tokens a side"):
        read(given(whole(codes=12), {"tokenizer json": BPE}))
    with pytest.raises(
        CheckpointError, match=r"^dalle.pt: weights have no vae.*: give the file of the image tokenizer"
    ):
        read(given(original(MIX).content, {"tokenizer json": BPE}))
    with pytest.raises(CheckpointError, match=r"^dalle.pt: give the file of its text tokenizer too, one of 19 ids"):
        read(given(whole(), {}))
    other = {"model": {**BPE["model"], "vocab": {"w1": 1, "w2": 19}}}
    with pytest.raises(
        CheckpointError, match=r"^tokenizer json.json: the tokenizer must have 19 ids, as num_text_tokens"
    ):
        read(given(whole(), {"tokenizer json": other}))
