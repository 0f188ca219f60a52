"""The text chunks of a PNG that tell how it was painted. Whoever knows the prompt can paint it again.

    Software, Model, Seed, Index, Parameters (JSON), Prompt-SHA256, and Prompt if the client asked for it
    Style: its name, if the model has several
    Forced: the tokens that were kept (see `pack`), if the picture is an edit of another one

`dalle-server generate --like picture.png` reads them.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model import __version__
from model.config import SamplingDefaults
from model.errors import CheckpointError, DataError
from model.files import parse_json
from model.inference.requests import SamplingParams
from model.limits import build, shown

FREE = -1  # a token that the model draws
PARAMETER_BYTES = 4096  # of the chunk Parameters


@dataclass(frozen=True)
class Provenance:
    """How a picture was painted. model: the checkpoint's name. forced: as in GenerationRequest.

    prompt, prompt_hash: of the text that was painted, in its style. style: its name; the prompt says it already.
    """

    model: str
    index: int
    params: SamplingParams
    prompt_hash: str
    prompt: str | None = None
    forced: bytes | None = None
    style: str | None = None
    software: str = f"dalle-server {__version__}"

    def texts(self) -> dict[str, str]:
        """The text chunks."""
        parameters = dataclasses.asdict(self.params)
        seed = parameters.pop("seed")
        texts = {
            "Software": self.software,
            "Model": self.model,
            "Seed": str(seed),
            "Index": str(self.index),
            "Parameters": json.dumps(parameters),
            "Prompt-SHA256": self.prompt_hash,
        }
        if self.prompt is not None:
            texts["Prompt"] = self.prompt
        if self.style is not None:
            texts["Style"] = self.style
        if self.forced is not None:
            texts["Forced"] = pack(self.forced)
        return texts

    @classmethod
    def read(cls, texts: Mapping[str, str]) -> Provenance:
        """The reverse of `texts`. Raises DataError, which names the chunk that is missing or wrong."""
        chunk = ""
        try:
            values = {}
            for chunk in ("Software", "Model", "Prompt-SHA256"):
                values[chunk] = str(texts[chunk])
            numbers = {}
            for chunk in ("Seed", "Index"):
                numbers[chunk] = _number(texts[chunk])
            chunk = "Parameters"
            params = SamplingParams(seed=numbers["Seed"], **_parameters(texts[chunk]))
            chunk = "Forced"
            forced = unpack(texts[chunk]) if chunk in texts else None
        except KeyError:
            raise DataError(
                f"must be a single picture that dalle-server painted, got a file without the text chunk {chunk}"
            ) from None
        except (ValueError, CheckpointError) as error:
            raise DataError(f"must hold a text chunk {chunk} that can be read: {error}") from None
        return cls(
            model=values["Model"],
            index=numbers["Index"],
            params=params,
            prompt_hash=values["Prompt-SHA256"],
            prompt=str(texts["Prompt"]) if "Prompt" in texts else None,
            forced=forced,
            style=str(texts["Style"]) if "Style" in texts else None,
            software=values["Software"],
        )


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,19}", text):
        raise ValueError(f"it must be an integer of 0 or more, got {shown(text)}")
    return int(text)


def _parameters(text: str) -> dict[str, Any]:
    """The sampling parameters that the JSON object names. Raises CheckpointError for one that cannot be."""
    if len(text) > PARAMETER_BYTES:
        raise ValueError(f"it must have at most {PARAMETER_BYTES} characters, got {len(text)}")
    values = parse_json(text.encode(), "it")
    found = build(SamplingDefaults, values, "it")
    return {name: getattr(found, name) for name in values}


def prompt_hash(prompt: str) -> str:
    """The SHA-256 of the prompt in UTF-8, in hexadecimal."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def forced_tokens(tokens: bytes, keep: bytes) -> bytes:
    """A picture's tokens (little-endian int16). FREE stands for each token whose byte in `keep` is 0."""
    drawn = struct.unpack(f"<{len(keep)}h", tokens)
    kept = [token if keeps else FREE for token, keeps in zip(drawn, keep, strict=True)]
    return struct.pack(f"<{len(keep)}h", *kept)


def pack(forced: bytes) -> str:
    """Forced tokens as text: zlib, then base64."""
    return base64.b64encode(zlib.compress(forced, 9)).decode()


def unpack(text: str) -> bytes:
    """The reverse of `pack`. Raises ValueError for a text that cannot be unpacked or holds more than 1 MiB."""
    try:
        inflater = zlib.decompressobj()
        forced = inflater.decompress(base64.b64decode(text, validate=True), 1 << 20)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(str(error)) from None
    if not inflater.eof:
        raise ValueError("it is incomplete or too long")
    return forced
