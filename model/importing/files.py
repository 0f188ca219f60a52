"""What the readers of this room hand to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.config import SamplingDefaults

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Weights:
    """One file with tensors, as it was read.

    container: "torch zip", "legacy torch", "safetensors" or "pickle". content: what was saved: dicts, lists, tuples,
    texts, numbers, None, tensors (mapped from the file, not read yet) or each one's `Shape`, and `Inert` for instances
    of classes. Lists and tuples may hold each other many times over, so nobody walks or prints them without a bound.
    """

    path: Path
    container: str
    content: Any = field(repr=False)
    size: int = 0  # bytes


@dataclass(frozen=True)
class Text:
    """One file without tensors.

    kind: "yaml", "tokenizer json", "vocab json", "t5 config", "shard list", "merges", "youtokentome", "sentencepiece".
    content: of yaml and json the values, of sentencepiece the bytes, else the lines.
    """

    path: Path
    kind: str
    content: Any = field(repr=False)


@dataclass(frozen=True)
class Part:
    """One network of ours: a config, and every tensor of that network under our names, float32 or float16."""

    config: Any
    state: Mapping[str, Tensor] = field(repr=False)


@dataclass(frozen=True)
class Imported:
    """What a family's reader made of its files. transformer, tokenizer: None for an image tokenizer alone.

    sampling: what its authors paint with, None for ours. facts: lines of `dalle-server inspect` and of the checkpoint's
    provenance, name -> text.
    """

    name: str
    family: str
    vae: Part
    transformer: Part | None = None
    tokenizer: Any = None
    sampling: SamplingDefaults | None = None
    licence: str = "unknown; see where the weights come from"
    facts: Mapping[str, str] = field(default_factory=dict)


class Given:
    """The files of one import: weights by role, and texts by kind; and the settings of --set, each used up when asked.

    A role is what `recognise` calls a weights file, such as "dalle-pytorch" or "taming vqgan". No role is there twice:
    the second file of a role that may have several is "t5, file 2".
    """

    def __init__(
        self, weights: Mapping[str, Weights], texts: Mapping[str, Text], settings: Mapping[str, str] | None = None
    ) -> None:
        self.weights = dict(weights)
        self.texts = dict(texts)
        self._settings = dict(settings or {})
        self._used: set[str] = set()
        self.asked: set[str] = set()  # keys of --set that a reader looked for

    def weight(self, role: str) -> Weights | None:
        """The weights file of that role, marked as used; None where there is none."""
        self._used.add(role)
        return self.weights.get(role)

    def weights_of(self, role: str) -> list[Weights]:
        """The files of that role, of which there may be several, marked as used."""
        names = [name for name in self.weights if name == role or name.startswith(f"{role}, file ")]
        self._used.update(names)
        return [self.weights[name] for name in names]

    def text(self, kind: str) -> Text | None:
        """The text file of that kind, marked as used; None where there is none."""
        self._used.add(kind)
        return self.texts.get(kind)

    def take_text(self, kind: str) -> Text | None:
        """The text file of that kind, which is gone then, so that no other reader takes it for its own."""
        return self.texts.pop(kind, None)

    def setting(self, key: str) -> str | None:
        """The value of --set KEY=VALUE, marked as used; None where it was not given."""
        self.asked.add(key)
        return self._settings.pop(key, None)

    def says(self, key: str) -> bool:
        """Whether --set has a value for this key, which stays."""
        return key in self._settings

    @property
    def unused_files(self) -> list[Path]:
        """Files that no reader asked for."""
        both: dict[str, Weights | Text] = {**self.weights, **self.texts}
        return [file.path for role, file in both.items() if role not in self._used]

    @property
    def unused_settings(self) -> list[str]:
        """Keys of --set that no reader asked for."""
        return sorted(self._settings)
