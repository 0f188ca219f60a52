"""taming's renumbered codebooks: image token i is the row used[i] of the codebook (quantize.py, remap).

Rows without a number are found by the encoder too. What such a row becomes is unknown_index of the class, which no
file has: "random", as taming's own networks have it, "extra", a token more, or the number of a token. taming draws a
random token anew for each picture. Here the nearest row with a number is taken, so that a picture has one answer.
"""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from model.errors import CheckpointError
from model.families.image.config import VQGANConfig
from model.importing.files import Part
from model.importing.state import kind
from model.limits import build, shown

RANDOM, EXTRA = "random", "extra"


def renumbered(part: Part, used: Tensor, unknown: str | None, codes: int | None, where: str) -> Part:
    """The part with its codebook in the order of its tokens. used: the row of each. unknown: as above, None is random.

    codes: ids of the transformer that comes with it, which may be more than there are tokens. Those above are painted
    as taming's extra token is, as token 0. where: names the file and the key. Raises CheckpointError.
    """
    config: VQGANConfig = part.config
    rows = config.codes
    if used.dtype != torch.int64 or used.dim() != 1 or not 1 <= len(used) <= rows:
        raise CheckpointError(f"{where} must be a list of 1 to {rows} integers, got {kind(used)}")
    if not 0 <= int(used.min()) <= int(used.max()) < rows:
        message = f"must be of rows from 0 to {rows - 1}, got {int(used.min())} to {int(used.max())}"
        raise CheckpointError(f"{where} {message}")
    known = len(used)
    tokens, other = _unknown(RANDOM if unknown is None else unknown, known)
    ids = max(tokens, codes or 0)
    codebook = [part.state["codebook.weight"][used]]
    nameless = 0
    if other is not None and config.quantiser != "gumbel":  # Gumbel's choice is among those with a number
        left = torch.ones(rows, dtype=torch.bool)
        left[used] = False
        codebook.append(part.state["codebook.weight"][left])
        nameless = int(left.sum())
    changed = {
        "codes": ids,
        "known": known if ids > known else 0,
        "nameless": nameless,
        "unknown": (other or 0) if nameless else 0,
    }
    numbered = build(VQGANConfig, asdict(config) | changed, where, "the VQGAN")
    logits = {key: part.state[key][used] for key in part.state if key.startswith("code_logits.")}
    return Part(numbered, {**part.state, **logits, "codebook.weight": torch.cat(codebook)})


def _unknown(said: str, known: int) -> tuple[int, int | None]:
    """How many tokens there are, and which of them is a row without a number; None for the nearest with one."""
    if said == RANDOM:
        return known, None
    if said == EXTRA:
        return known + 1, known
    if said.isascii() and said.isdigit() and len(said) < 6 and int(said) < known:
        return known, int(said)
    allowed = f"{RANDOM}, {EXTRA} or a number from 0 to {known - 1}"
    raise CheckpointError(f"unknown_index must be {allowed}, got {shown(said)}")
