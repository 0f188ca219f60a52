"""Image tokenizers of other people's models: which files are theirs, and their tensors as a `Part` of ours.

    role = roles(content)         what a weights file is
    part = read_vae(given)        the image tokenizer of its own files
    part = vae_of(keys, ...)      that within a dalle.pt of DALLE-pytorch

Of the files only what training needs is left out: a discriminator and its loss (loss.*), LlamaGen's count of used codes
(quantize.codebook_used), and all that a file has beside its tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from model.errors import CheckpointError
from model.importing.calls import Inert
from model.importing.files import Given, Part, Weights
from model.importing.image import dalle_pytorch_vae, openai_pickles, vqgans
from model.importing.state import Keys, state_dict
from model.limits import shown

DISCRETE_VAE = "discrete vae"
OPENAI_ENCODER = "openai dvae encoder"
OPENAI_DECODER = "openai dvae decoder"
TAMING = "taming vqgan"
DETOKER = "min-dalle detoker"
LLAMAGEN = "llamagen vq"
CODEBOOKS = ("quantize.embedding.weight", "quantize.embed.weight")  # of taming's two classes


def roles(content: Any) -> str | None:
    """What a weights file's content is here, one of the names above; None where it is nothing of ours."""
    if isinstance(content, Inert):
        return {"dall_e.encoder.Encoder": OPENAI_ENCODER, "dall_e.decoder.Decoder": OPENAI_DECODER}.get(content.name)
    if not isinstance(content, dict):
        return None
    weights = content.get("weights")
    if isinstance(weights, dict) and "hparams" in content and "codebook.weight" in weights:
        return DISCRETE_VAE
    for state in (content, content.get("state_dict"), content.get("model")):
        if not isinstance(state, dict):
            continue
        if "decoder.conv_blocks.0.res.0.conv1.weight" in state:
            return LLAMAGEN
        if any(f"{prefix}{key}" in state for prefix in ("", "model.") for key in CODEBOOKS):
            return TAMING
        if "embedding.weight" in state and "decoder.up.0.block.0.conv1.weight" in state:
            return DETOKER
    return None


def read_vae(given: Given, grid: int | None = None, codes: int | None = None) -> Part:
    """The image tokenizer of the given files. grid, codes: image tokens a side and ids, of the transformer with it.

    The setting image_size says the pixels a side of a VQGAN or a dVAE, whose tensors do not tell it. unknown_index is
    asked for where a codebook is renumbered.
    Raises CheckpointError where there is none, where there are two, or naming what in the file is wrong.
    """
    found = {role: given.weight(role) for role in (DISCRETE_VAE, TAMING, DETOKER, LLAMAGEN)}
    files = {role: file for role, file in found.items() if file is not None}
    encoder, decoder = given.weight(OPENAI_ENCODER), given.weight(OPENAI_DECODER)
    if len(files) + (encoder is not None or decoder is not None) > 1:
        paths = [file.path for file in (*files.values(), encoder, decoder) if file is not None]
        raise CheckpointError(f"{paths[1]}: a second image tokenizer; {paths[0]} is one too")
    for role, file in files.items():
        return _read_file(role, file, given, grid, codes)
    if encoder is None or decoder is None:
        have = encoder or decoder
        if have is None:
            raise CheckpointError("the files have no image tokenizer: give the file of the VAE too")
        needed = "encoder.pkl" if encoder is None else "decoder.pkl"
        raise CheckpointError(f"{have.path}: one half of OpenAI's dVAE: give the other, {needed}, too")
    return openai_pickles.read(_module(encoder), _module(decoder), _image_size(given), grid)


def check_codes(vae: Part, codes: int, key: str) -> None:
    """Raises CheckpointError unless the image tokenizer has so many codes. key: of the transformer's table of them."""
    if vae.config.codes != codes:
        raise CheckpointError(f"the image tokenizer must have {codes} codes, as {key} has, got {vae.config.codes}")


def _module(file: Weights) -> Keys:
    where = str(file.path)
    return Keys(openai_pickles.parameters(file.content, where), where)


def _read_file(role: str, file: Weights, given: Given, grid: int | None, codes: int | None) -> Part:
    where, content = str(file.path), file.content
    if role == DISCRETE_VAE:
        keys = Keys(state_dict(content["weights"], f"{where}: weights"), where)
        part = dalle_pytorch_vae.read(keys, content["hparams"])
        keys.finish()
        return part
    state = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)), content)
    keys = Keys(state_dict(state, where), where)
    if role == DETOKER:
        return vqgans.read_min_dalle(keys)
    if role == LLAMAGEN:
        return vqgans.read_llamagen(keys, _image_size(given), grid)
    text = given.text("yaml")
    unknown = partial(given.setting, "unknown_index")
    return _taming(keys, text.content if text else None, _image_size(given), grid, codes, unknown)


def vae_of(
    keys: Keys, vae_params: Any, yaml: Any = None, grid: int | None = None, codes: int | None = None
) -> Part | None:
    """The image tokenizer in the weights of a dalle.pt: its `vae.*`, which are used up. None where it has none.

    vae_params: what the file calls so. yaml: of a VQGAN, if it is given. grid, codes: image tokens a side, and
    ids, of the transformer. Raises CheckpointError naming the file and the key.
    """
    if not keys.names("vae."):
        return None
    inside = keys.part("vae.")
    if inside.names("model."):
        return vqgan(inside, yaml, grid, codes)
    return openai(inside, grid) if inside.names("enc.") else discrete_vae(inside, vae_params)


def discrete_vae(keys: Keys, vae_params: Any) -> Part:
    """DALLE-pytorch's own, `vae.` taken off the keys' fronts. Raises CheckpointError as `vae_of` does."""
    part = dalle_pytorch_vae.read(keys, vae_params, "vae_params")
    keys.finish()
    return part


def vqgan(keys: Keys, yaml: Any = None, grid: int | None = None, codes: int | None = None) -> Part:
    """A VQGAN in `model.*`, `vae.` taken off the keys' fronts. Raises CheckpointError as `vae_of` does."""
    part = _taming(keys, yaml, None, grid, codes)
    keys.finish()
    return part


def openai(keys: Keys, grid: int | None = None) -> Part:
    """OpenAI's dVAE in `enc.*` and `dec.*`, `vae.` taken off the keys' fronts. Raises as `vae_of` does."""
    part = openai_pickles.read(keys.part("enc."), keys.part("dec."), None, grid)
    keys.finish()
    return part


def _taming(
    keys: Keys,
    yaml: Any,
    image_size: int | None,
    grid: int | None,
    codes: int | None,
    unknown: Callable[[], str | None] = lambda: None,
) -> Part:
    wrapped = [f"model.{key}" for key in CODEBOOKS if f"model.{key}" in keys]  # ruDALL-E's and DALLE-pytorch's class
    inside = keys.part("model.") if wrapped else keys
    part = vqgans.read_taming(inside, yaml, image_size, grid, codes, unknown)
    keys.finish()
    return part


def _image_size(given: Given) -> int | None:
    said = given.setting("image_size")
    if said is not None and not (said.isascii() and said.isdigit() and 0 < len(said) <= 4):
        raise CheckpointError(f"image_size must be a number of pixels, got {shown(said)}")
    return None if said is None else int(said)
