"""What a foreign file is, for `dalle-server inspect`: read safely, and never walked without a bound."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from model.families.text.sentencepiece import read_model
from model.importing.archives import Shape
from model.importing.files import Text, Weights
from model.importing.recognise import read_files
from model.limits import shown

MAX_FACTS = 40  # of a file's own settings
MAX_WALKED = 200_000  # values looked at
STATES = ("weights", "state_dict", "model", "module", "model_state_dict")

Facts = list[tuple[str, str]]


def describe_files(paths: Sequence[Path]) -> list[tuple[Path, Facts]]:
    """The facts of each file. Raises CheckpointError for the first that cannot be read."""
    return [(path, facts(file)) for path, file in zip(paths, read_files(paths), strict=True)]


def facts(file: Weights | Text) -> Facts:
    """What a file is, line by line: name and value."""
    if isinstance(file, Text):
        return [("kind", file.kind), *_text_facts(file)]
    found: Facts = [("kind", f"weights, {file.container}"), ("bytes", f"{file.size:,}")]
    from model.importing.licences import LICENCES
    from model.importing.read import roles_of, unknown  # which imports torch, for a file that can be read

    roles = roles_of(file)
    found.append(("model", ", ".join(roles) if roles else unknown(file)))
    found += [("licence of its code", LICENCES[role]) for role in roles]
    content = file.content
    if isinstance(content, dict):
        for key in ("version", "vae_class_name", "epoch", "global_step"):
            if isinstance(content.get(key), str | int | float):
                found.append((key, _plain(content[key])))
        for key in ("hparams", "vae_params"):
            if isinstance(content.get(key), dict):
                found += _settings(key, content[key])
    tensors = list(_tensors(content))
    if tensors:
        types = Counter(tensor.dtype for tensor in tensors)
        found.append(("tensors", ", ".join(f"{count} of {name}" for name, count in types.most_common())))
        found.append(("values", f"{sum(math.prod(tensor.shape) for tensor in tensors):,}"))
    return found


def _text_facts(file: Text) -> Facts:
    values = file.content
    if file.kind == "tokenizer json":
        vocabulary = values["model"].get("vocab")
        return [("model", _plain(values["model"].get("type"))), ("tokens", f"{len(vocabulary or ()):,}")]
    if file.kind == "vocab json":
        return [("tokens", f"{len(values):,}")]
    if file.kind == "yaml":
        model = values.get("model")
        return [("target", _plain(model.get("target") if isinstance(model, dict) else None))]
    if file.kind == "sentencepiece":
        return [("tokens", f"{len(read_model(values, str(file.path)).scores):,}")]
    if file.kind == "t5 config":
        return _settings("t5", values)
    if file.kind == "shard list":
        return [("tensors", f"{len(values):,}")]
    return [("lines", f"{len(file.content.splitlines()):,}")]


def _settings(place: str, values: dict[Any, Any]) -> Facts:
    return [(f"{place}.{_plain(key)}", _plain(value)) for key, value in list(values.items())[:MAX_FACTS]]


def _plain(value: Any) -> str:
    text = shown(value)
    return text[1:-1] if isinstance(value, str) else text


def _tensors(content: Any) -> Iterator[Shape]:
    """The tensors of the state dict; or those within pickled modules, a bounded number."""
    if isinstance(content, dict):
        inside = next((content[key] for key in STATES if isinstance(content.get(key), dict)), content)
        yield from (value for value in inside.values() if isinstance(value, Shape))
        return
    queue, seen = [content], 0
    known: set[int] = set()
    while queue and seen < MAX_WALKED:
        value = queue.pop()
        seen += 1
        if id(value) in known:
            continue
        known.add(id(value))
        if isinstance(value, Shape):
            yield value
        elif isinstance(value, dict):
            queue += list(value.values())[:MAX_WALKED]
        elif getattr(value, "state", None) is not None:
            queue.append(value.state)
