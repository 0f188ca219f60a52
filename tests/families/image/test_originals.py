"""Image tokenizers of other families paint and encode as their authors' own code does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.errors import CheckpointError
from model.families.image.build import network
from model.importing.calls import Inert
from model.importing.files import Given, Part, Text, Weights
from model.importing.image import discrete_vae, openai, read_vae, roles, vae_of, vqgan
from model.importing.state import Keys
from tests.families.image.originals import Original, original, picture

HAAR = 0.5**0.5


def given(content: object, yaml: object = None, **settings: str) -> Given:
    """The files of an import: weights, told apart by what they hold, and a yaml."""
    role = roles(content)
    assert role is not None
    texts = {} if yaml is None else {"yaml": Text(Path("model.yaml"), "yaml", yaml)}
    return Given({role: Weights(Path("last.ckpt"), "torch zip", content)}, texts, settings)


def pickled(state: dict[str, Tensor], name: str) -> Inert:
    """A torch module as it is read from a pickle."""
    module = Inert(name)
    own = {key: tensor for key, tensor in state.items() if "." not in key}
    inside: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        head, dot, rest = key.partition(".")
        if dot:
            inside.setdefault(head, {})[rest] = tensor
    modules = {head: pickled(below, "torch.nn.modules.container.Sequential") for head, below in inside.items()}
    module.state = {"training": False, "_parameters": own, "_buffers": {}, "_modules": {**modules, "relu": None}}
    return module


def under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def with_haar(state: dict[str, Tensor]) -> dict[str, Tensor]:
    filters = {"g0": torch.tensor([HAAR, HAAR]), "g1": torch.tensor([HAAR, -HAAR])}
    shapes = {"col": (1, 1, 2, 1), "row": (1, 1, 1, 2)}
    added = {f"model.decoder.idwt.{f}_{axis}": filters[f].view(shapes[axis]) for f in filters for axis in shapes}
    return {**state, **added}


def read(name: str, made: Original) -> Part:
    """The original as its own file would have it, read."""
    state = made.state
    if name.startswith("discrete-vae"):
        return read_vae(given({"hparams": made.about, "weights": state}))
    if name == "openai-dvae":
        files = {
            f"openai dvae {half}": Weights(Path(f"{half}.pkl"), "pickle", pickled(under(state, key), "dall_e"))
            for half, key in (("encoder", "enc."), ("decoder", "dec."))
        }
        return read_vae(Given(files, {}, {"image_size": "32"}))
    if name == "kakaobrain-vqgan":
        return read_vae(given({"state_dict": state}), grid=8)
    if name.endswith("remap"):
        held = {**state, "quantize.used": torch.tensor(made.about["used"])}
        return read_vae(given({"state_dict": held}, {"model": made.about["model"]}, unknown_index="extra"))
    if name.startswith("vqgan"):
        colours = {"colorize": torch.zeros(3, 7, 1, 1)}  # of a log of segmentations
        return read_vae(given({"state_dict": {**state, **colours}, "epoch": 3}, made.about))
    if name == "rudalle-dwt":
        return read_vae(given({"state_dict": with_haar(state)}), grid=8)
    if name == "llamagen-vq":
        used = {**state, "quantize.codebook_used": torch.zeros(65536)}
        return read_vae(given({"model": used}, image_size="32"))
    return read_vae(given(state))


NAMES = (
    "discrete-vae-1.6.6", "discrete-vae-0.14.3", "openai-dvae", "vqgan", "vqgan-gumbel", "rudalle-dwt",
    "min-dalle-detoker", "llamagen-vq", "kakaobrain-vqgan", "vqgan-remap", "vqgan-gumbel-remap",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_pictures_and_codes_are_the_originals(name: str) -> None:
    made = original(name)
    part = read(name, made)
    net = network(part.config).eval()
    net.load_state_dict(dict(part.state))
    painted = net.decode(made.ids)
    config = part.config
    assert painted.shape == (1, config.channels, config.image_size, config.image_size)
    assert (painted[..., :: made.stride, :: made.stride] - made.painted).abs().max() < 1e-4
    assert torch.equal(net.decode(made.ids.flatten(1)), painted)
    if made.codes is None:
        with pytest.raises(ValueError, match="no image encoder"):
            net.encode(painted)
        return
    seen = picture(config.image_size, config.channels)
    assert torch.equal(net.encode(seen), made.codes)
    crowd = net.encode(torch.cat([painted, seen, painted, painted, painted, seen]))
    assert torch.equal(crowd[[1, 5]], made.codes.repeat(2, 1, 1))


def test_a_code_without_a_number_becomes_what_is_said() -> None:
    """taming draws a token by chance where nothing is said. Here it is the nearest code that has a number."""
    made = original("vqgan-remap")
    held = {"state_dict": {**made.state, "quantize.used": torch.tensor(made.about["used"])}}
    assert made.codes is not None
    known = made.codes != 37
    for said, token in (("5", 5), ("random", None)):
        part = read_vae(given(held, image_size="32", unknown_index=said))
        assert (part.config.codes, part.config.grid) == (37, 8)
        net = network(part.config).eval()
        net.load_state_dict(dict(part.state))
        found = net.encode(picture(32))
        assert torch.equal(found[known], made.codes[known])
        if token is not None:
            assert found[~known].eq(token).all()
    plain = {**made.state, "quantize.embedding.weight": made.state["quantize.embedding.weight"][made.about["used"]]}
    part = read_vae(given({"state_dict": plain}, image_size="32"))
    net.load_state_dict(dict(part.state))
    assert torch.equal(net.encode(picture(32)), found)


def test_a_renumbered_codebook_keeps_the_bounds_of_a_config() -> None:
    made = original("vqgan-gumbel-remap")
    held = {**made.state, "quantize.used": torch.tensor(made.about["used"])}
    keys = Keys({f"vae.model.{key}": tensor for key, tensor in held.items()}, "dalle.pt")
    with pytest.raises(CheckpointError, match="codes must be an integer from 1 to 32768, got 40000"):
        vae_of(keys, None, grid=8, codes=40_000)


def test_ids_beyond_the_numbered_codes_are_painted_as_the_first() -> None:
    made = original("vqgan-gumbel-remap")
    held = {**made.state, "quantize.used": torch.tensor(made.about["used"])}
    keys = Keys({f"vae.model.{key}": tensor for key, tensor in held.items()}, "dalle.pt")
    part = vae_of(keys, None, grid=8, codes=40)
    assert part is not None
    assert (part.config.codes, part.config.known) == (40, 19)
    net = network(part.config).eval()
    net.load_state_dict(dict(part.state))
    assert torch.equal(net.decode(torch.full((1, 64), 30)), net.decode(torch.zeros(1, 64, dtype=torch.int64)))
    assert int(net.encode(picture(32)).max()) < 19


def test_a_transformers_file_holds_its_image_tokenizer() -> None:
    own, taming, dvae = original("discrete-vae-1.6.6"), original("vqgan"), original("openai-dvae")
    for made, prefix, params in ((own, "", own.about), (taming, "model.", None), (dvae, "", None)):
        weights = {f"vae.{prefix}{key}": tensor for key, tensor in made.state.items()}
        if prefix:  # what taming, its EMAVQ and latent diffusion keep of training
            kept = ("loss.x", "model_ema.decay", "quantize.embedding.cluster_size", "quantize.embedding.embed_avg")
            weights |= {f"vae.model.{key}": torch.zeros(1) for key in kept}
        keys = Keys(weights, "dalle.pt")
        grid = made.ids.shape[-1]
        part = vae_of(keys, params, grid=grid)
        keys.finish()
        assert part is not None
        assert part.config.grid == grid
        net = network(part.config).eval()
        net.load_state_dict(dict(part.state))
        got = net.decode(made.ids)[..., :: made.stride, :: made.stride]
        assert (got - made.painted).abs().max() < 1e-4
    assert vae_of(Keys({"to_logits.0.weight": torch.zeros(1)}, "dalle.pt"), None) is None


def test_the_three_kinds_can_be_asked_for_by_name() -> None:
    own, taming, dvae = original("discrete-vae-0.14.3"), original("vqgan-gumbel"), original("openai-dvae")
    assert discrete_vae(Keys(own.state, "dalle.pt"), own.about).config.codes == 24
    held = {f"model.{key}": tensor for key, tensor in taming.state.items()}
    assert vqgan(Keys(held, "dalle.pt"), taming.about).config.codes == 30
    assert openai(Keys(dvae.state, "dalle.pt")).config.image_size == 256
