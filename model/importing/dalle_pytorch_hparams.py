"""What `hparams` of a DALLE-pytorch file says: the arguments of the model, as train_dalle.py saves them.

Their number grew with the versions: ff_dropout and attn_dropout from 0.13, stable from 0.14, shift_tokens and
rotary_emb from 1.0.1, shared_attn_ids, shared_ff_ids and share_input_output_emb from 1.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model.errors import CheckpointError
from model.importing.state import kind
from model.limits import shown

_ATTENTION = ("full", "axial_row", "axial_col", "conv_like", "mlp")
_SPARSE = (
    "attn_types has 'sparse', DeepSpeed's block-sparse attention, which is not supported: only DeepSpeed's kernels "
    "say which blocks it sees"
)


@dataclass(frozen=True)
class Hparams:
    """What `hparams` says, checked. None where the file leaves it to its keys."""

    text_vocab: int
    text_tokens: int
    dim: int
    depth: int
    heads: int
    head_dim: int
    attention: tuple[str, ...]
    reversible: bool
    stable: bool
    sandwich: bool
    tied: bool
    shift: bool | None
    rotary: bool | None
    shared_attention: tuple[int, ...]
    shared_feed: tuple[int, ...]


def read_hparams(found: Any, where: str) -> Hparams:
    """`hparams`, checked. Older files lack the last keys. Raises CheckpointError naming the key."""
    place = f"{where}: hparams"
    if not isinstance(found, dict):
        raise CheckpointError(f"{place} must be an object, got {kind(found)}")
    left = dict(found)

    def number(key: str, default: int | None = None) -> int:
        value = left.pop(key, default)
        if type(value) is not int or not 1 <= value <= 2**20:
            raise CheckpointError(f"{place}: {key} must be an integer from 1 to {2**20}, got {kind(value)}")
        return value

    def flag(key: str) -> bool | None:
        value = left.pop(key, None)
        if value is not None and not isinstance(value, bool):
            raise CheckpointError(f"{place}: {key} must be true or false, got {kind(value)}")
        return value

    depth = number("depth")
    if depth > 256:
        raise CheckpointError(f"{place}: depth must be an integer from 1 to 256, got {depth}")
    left.pop("vae", None)  # as the package itself leaves it out
    for unused in ("loss_img_weight", "ff_dropout", "attn_dropout"):  # of training
        value = left.pop(unused, 0)
        if type(value) not in (int, float) or not 0 <= value <= 2**20:
            raise CheckpointError(f"{place}: {unused} must be a number from 0 to {2**20}, got {kind(value)}")
    flag("optimize_for_inference")  # the same numbers in another order
    if left.pop("sparse_attn", False):
        raise CheckpointError(f"{place}: {_SPARSE.replace('attn_types has', 'sparse_attn stands for')}")
    said = Hparams(
        text_vocab=number("num_text_tokens", 10000),
        text_tokens=number("text_seq_len", 256),
        dim=number("dim"),
        depth=depth,
        heads=number("heads", 8),
        head_dim=number("dim_head", 64),
        attention=_attention(left.pop("attn_types", None), depth, place),
        reversible=bool(flag("reversible")),
        stable=bool(flag("stable")),
        sandwich=bool(flag("sandwich_norm")),
        tied=bool(flag("share_input_output_emb")),
        shift=flag("shift_tokens"),
        rotary=flag("rotary_emb"),
        shared_attention=_shared(left.pop("shared_attn_ids", None), "shared_attn_ids", depth, place),
        shared_feed=_shared(left.pop("shared_ff_ids", None), "shared_ff_ids", depth, place),
    )
    if left:
        raise CheckpointError(f"{place}: unknown key {shown(next(iter(left)))}")
    return said


def _attention(found: Any, depth: int, place: str) -> tuple[str, ...]:
    """attn_types, repeated over the layers."""
    if found is None:
        found = ("full",)
    if isinstance(found, str):
        found = found[:4096].split(",")
    if not isinstance(found, list | tuple) or not 1 <= len(found) <= 256:
        raise CheckpointError(f"{place}: attn_types must be a list of 1 to 256 names, got {kind(found)}")
    for one in found:
        if one == "sparse" and isinstance(one, str):
            raise CheckpointError(f"{place}: {_SPARSE}")
        if not isinstance(one, str) or one not in _ATTENTION:
            raise CheckpointError(f"{place}: attn_types must be of {', '.join(_ATTENTION)}, got {kind(one)}")
    return tuple(found[layer % len(found)] for layer in range(depth))


def _shared(found: Any, key: str, depth: int, place: str) -> tuple[int, ...]:
    """Names of what layers share, repeated over the layers -> numbers that count up from 0; () for None."""
    if found is None:
        return ()
    if not isinstance(found, list | tuple) or not 1 <= len(found) <= 256:
        raise CheckpointError(f"{place}: {key} must be a list of 1 to 256 names, got {kind(found)}")
    for one in found:
        if not isinstance(one, str | int) or len(str(one)[:101]) > 100:
            raise CheckpointError(f"{place}: {key} must be of names, got {kind(one)}")
    numbers: dict[str | int, int] = {}
    return tuple(numbers.setdefault(found[layer % len(found)], len(numbers)) for layer in range(depth))
