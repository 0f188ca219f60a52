"""An `Imported` model becomes a native checkpoint: compared with the network that it is for, then written at once.

Nothing is copied but a shard at a time, so the peak of memory is the mapped files and one shard.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.checkpoints.blank import blank
from model.checkpoints.native import check_parts_agree, write
from model.checkpoints.networks import AnyVAE, network
from model.config import CheckpointConfig, ImageConfig, SamplingDefaults
from model.config_file import check
from model.errors import CheckpointError
from model.families.text.config import TextConfig
from model.importing.files import Imported, Part
from model.limits import one_line, shown


def write_import(imported: Imported, out: Path, provenance: dict[str, Any]) -> CheckpointConfig | ImageConfig:
    """Write the model to the folder `out`, all or nothing. Returns its config. Raises CheckpointError."""
    config = config_of(imported, provenance)
    check(config, str(out))
    check_part(imported.vae, str(out))
    states = {"vae": imported.vae.state}
    if imported.transformer is not None:
        assert isinstance(config, CheckpointConfig)
        check_part(imported.transformer, str(out))
        check_parts_agree(config, imported.tokenizer, out)
        states["transformer"] = imported.transformer.state
    write(out, config, imported.tokenizer, states)
    return config


def config_of(imported: Imported, provenance: dict[str, Any]) -> CheckpointConfig | ImageConfig:
    """The config.json of the model."""
    facts = {"family": imported.family, **imported.facts, **provenance}
    created = int(time.time())
    if imported.transformer is None:
        return ImageConfig(imported.name, imported.licence, imported.vae.config, facts, created)
    sampling = imported.sampling or SamplingDefaults(guidance=1.0)
    codes = imported.transformer.config.image_vocab
    return CheckpointConfig(
        name=imported.name,
        licence=imported.licence,
        vae=imported.vae.config,
        transformer=imported.transformer.config,
        sampling=replace(sampling, top_k=min(sampling.top_k, codes)),
        provenance=facts,
        created=created,
        completes=False,
        tokenizer=TextConfig(imported.tokenizer.kind),
    )


def built(part: Part, where: str) -> AnyVAE:
    """The image tokenizer of a part, in memory, float32. where: names it. Raises CheckpointError."""
    check_part(part, where)
    vae: AnyVAE = network(part.config)  # type: ignore[assignment]
    vae.load_state_dict(dict(part.state))  # a copy, as float32
    return vae.eval()


def check_part(part: Part, where: str) -> None:
    """Raises CheckpointError where the tensors are not those of the config's network, by name and shape."""
    try:
        with blank():
            wanted = {key: tuple(tensor.shape) for key, tensor in network(part.config).state_dict().items()}
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{where}: no model can be built: {one_line(error)}") from None
    for key, shape in wanted.items():
        found = part.state.get(key)
        if found is None or tuple(found.shape) != shape:
            what = "nothing" if found is None else tuple(found.shape)
            raise CheckpointError(f"{where}: {key} must have the shape {shape}, got {what}")
    if extra := [key for key in part.state if key not in wanted]:
        raise CheckpointError(f"{where}: {shown(extra[0])} belongs to nothing in this model")
