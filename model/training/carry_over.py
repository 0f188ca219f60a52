"""A transformer's knowledge carried over from one VAE's codes to another's, so that a new VAE costs no new start.

Both VAEs read the same pictures into the same grid, so each new code is known by the old codes that stand at its
places: its vector begins as their mean, and its bias as their mean bias plus the logarithm of the share of each old
code that became it. On 124 drawings, of which the old transformer could tell a token from the words alone with 0.25
bits, the new one began at 10.0 bits (and 16.5 for another drawing's words), and stood at 2.0 after 200 steps.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.training.data import Pixels
from model.training.pictures import Pictures
from model.training.prepare import to_tensor, vae_digest
from model.transformer import Transformer
from model.vae import VAE

PICTURES = 1024  # read by both VAEs
_LIKELY = 2.0  # times that a code must be seen for its own part to count half
log = logging.getLogger(__name__)


@torch.no_grad()
def carry_over(transformer: Transformer, old: Tensor, new: Tensor) -> None:
    """Rewrite the transformer's table of codes in place. old, new: int64 ids of the same shape, place for place.

    Codes of the new VAE that are not among `new` get the mean vector of their FSQ levels and the smallest bias.
    """
    local = transformer.local
    table, bias, count = local.codes(), local.bias, transformer.config.image_vocab
    pairs, times = torch.unique(old.flatten() * count + new.flatten(), return_counts=True)
    before, after, weight = pairs // count, pairs % count, times.to(table.dtype)
    seen_before = torch.zeros_like(bias).index_add_(0, before, weight)
    seen = torch.zeros_like(bias).index_add_(0, after, weight)
    share = (weight / seen[after]).unsqueeze(-1)  # of the new code's places that the old one had
    vectors = torch.zeros_like(table).index_add_(0, after, table[before] * share)
    likely = bias[before] + (weight / seen_before[before]).log()
    biases = torch.zeros_like(bias).index_add_(0, after, likely * share.squeeze(-1))
    known = seen > 0

    levels = transformer.config.code_levels
    ids = torch.arange(count, device=table.device)
    digits = [(ids // math.prod(levels[:i])) % size for i, size in enumerate(levels)]
    one_hot = torch.cat([torch.nn.functional.one_hot(d, size) for d, size in zip(digits, levels, strict=True)], dim=1)
    one_hot = one_hot.to(table.dtype)
    trust = seen.clamp(max=50).sqrt().unsqueeze(-1)
    ridge = 0.3 * torch.eye(one_hot.shape[1], dtype=table.dtype, device=table.device)  # a level may be unseen
    left = torch.cat([(one_hot * trust)[known], ridge])
    right = torch.cat([(vectors * trust)[known], table.new_zeros(len(ridge), table.shape[1])])
    shared = torch.linalg.lstsq(left, right).solution
    own = (vectors - one_hot @ shared) * (seen / (seen + _LIKELY)).unsqueeze(-1)
    local.codes.own.copy_(own)
    for part, values in zip(local.codes.shared, shared.split(list(levels)), strict=True):
        part.copy_(values)
    local.bias.copy_(torch.where(known, biases, biases[known].min()))


@torch.inference_mode()
def _tokens(vae: VAE, pictures: Sequence[Pixels], batch: int = 16) -> Tensor:
    device = next(vae.parameters()).device
    parts = [vae.encode(to_tensor(np.stack(pictures[i : i + batch]), device)) for i in range(0, len(pictures), batch)]
    return torch.cat(parts).flatten(1).clone()


def to_new_vae(transformer: Transformer, old: VAE, new: VAE, pictures: Pictures, seed: int = 0) -> bool:
    """Make a transformer of `old` a start for the codes of `new`. False, and nothing done, where both encode alike."""
    if vae_digest(old) == vae_digest(new):
        return False
    log.info("the VAE is another one: its codes are compared with the old ones on %d pictures", PICTURES)
    randoms = [np.random.default_rng((seed, number)) for number in range(PICTURES)]
    read = pictures.draw(0, 0, randoms)
    carry_over(transformer, _tokens(old, read), _tokens(new, read))
    return True
