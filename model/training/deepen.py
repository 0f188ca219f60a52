"""A trained VAE with a deeper decoder: the new blocks begin as the identity, so that it decodes as before, and learn.

Codes, and all that was learnt on them, stay valid: what a decoder may cost can be decided after the transformer is
trained. (Net2DeeperNet, Chen et al. 1511.05641.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from model.errors import DataError
from model.training.train_vae import channels_last
from model.vae import VAE
from model.vae.vae import ResidualBlock


def deepen(vae: VAE, depths: Mapping[str, int]) -> VAE:
    """vae with as many decoder blocks as `depths` says, by field of its config; the new ones after the old ones.

    Raises DataError for a depth below the one that it has: no block is taken away.
    """
    for field, depth in depths.items():
        if depth < getattr(vae.config, field):
            raise DataError(f"{field}: {depth}, and the VAE to start from has {getattr(vae.config, field)}")
    changes: dict[str, Any] = dict(depths)
    deeper = VAE(replace(vae.config, **changes))
    with torch.no_grad():
        for blocks, old in (
            (deeper.decoder.blocks, vae.decoder.blocks),
            (deeper.decoder.mid_blocks, vae.decoder.mid_blocks),
        ):
            for block in list(blocks)[len(old) :]:
                assert isinstance(block, ResidualBlock)
                assert block.conv2.bias is not None
                block.conv2.bias.zero_()  # its kernel is zero from the start
    deeper.load_state_dict({**deeper.state_dict(), **vae.state_dict()})
    return channels_last(deeper)
