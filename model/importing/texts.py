"""The small files beside the weights: yaml, config.json, and tokenizers of several kinds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from model.errors import CheckpointError
from model.families.text.sentencepiece import begins_model
from model.files import parse_json, read_file
from model.importing.files import Text
from model.limits import one_line, shown

TEXT_BYTES = 2**24  # of a tokenizer: some 250,000 tokens
YAML_BYTES = 2**16  # of a yaml: a config has some 2,000


class _Plain(yaml.SafeLoader):  # type: ignore[misc]
    """Plain values only: no tag of another language, no key twice, no alias, which could stand for a billion values."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key, times in Counter(keys).items() if times > 1]:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {shown(twice[0])} stands in one object twice", None
            )
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "it refers back to a value, which is not read here", None)
        return super().compose_node(parent, index)


def read_text(path: Path) -> Text:
    """The file by what it holds. Raises CheckpointError for a text that is none of these."""
    data = read_file(path, TEXT_BYTES)
    if begins_model(data[:8]):
        return Text(path, "sentencepiece", data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CheckpointError(f"{path}: neither weights nor a text, so nothing that is read here") from None
    begin = text.lstrip()[:1]
    if begin in ("{", "["):
        return _json(path, text)
    lines = text.splitlines()
    if lines and "#version" in lines[0]:
        return Text(path, "merges", text)
    if len(lines) > 2 and all(len(line.split()) == 2 and _are_numbers(line) for line in lines[:2]):
        return Text(path, "youtokentome", text)
    if len(lines) > 2 and all(len(line.split(" ")) == 2 for line in lines[:50]) and ":" not in lines[0]:
        return Text(path, "merges", text)
    return Text(path, "yaml", _yaml(path, data, text))


def _are_numbers(line: str) -> bool:
    return all(word.isascii() and word.isdigit() for word in line.split())


def _json(path: Path, text: str) -> Text:
    values = parse_json(text.encode(), str(path))
    if isinstance(values, dict):
        if isinstance(values.get("model"), dict):
            return Text(path, "tokenizer json", values)
        if len(values) > 1 and all(type(value) is int for value in values.values()):
            return Text(path, "vocab json", values)
        if values.get("model_type") == "t5":
            return Text(path, "t5 config", values)
        if isinstance(values.get("weight_map"), dict):
            return Text(path, "shard list", values["weight_map"])
        if len(values) < 4 and ("error" in values or "message" in values):
            raise CheckpointError(f"{path}: a server's answer and not the file: {shown(next(iter(values.values())))}")
    raise CheckpointError(f"{path}: a JSON file, but neither a tokenizer nor a vocabulary")


def _yaml(path: Path, data: bytes, text: str) -> Any:
    if len(data) > YAML_BYTES or "\0" in text or ":" not in text:
        raise CheckpointError(
            f"{path}: no weights, tokenizer or config that is known here; it begins {shown(text[:40])}"
        )
    try:
        values = yaml.load(text, _Plain)
    except RecursionError:
        raise CheckpointError(f"{path}: no yaml that is read here: it nests too deep") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, AttributeError) as error:
        told = getattr(error, "problem", None) or error
        raise CheckpointError(f"{path}: no yaml that is read here, nothing in it was run: {one_line(told)}") from None
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{path}: no weights, tokenizer or config that is known here; it begins {shown(text[:40])}"
        )
    return values
