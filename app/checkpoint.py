"""The part of the checkpoint that the HTTP process reads: its configuration and its tokenizer, and no tensors.

The worker process compares the whole folder with its SHA256SUMS before it says that it is ready.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import CheckpointConfig, from_dict
from model.errors import CheckpointError, PromptTooLong
from model.tokenizer import Tokenizer


@dataclass(frozen=True)
class ServedCheckpoint:
    """The model that this server serves, without its tensors."""

    path: Path
    config: CheckpointConfig
    tokenizer: Tokenizer

    @classmethod
    def read(cls, path: Path) -> ServedCheckpoint:
        """Read config.json and tokenizer.json in the folder `path`. Raises CheckpointError, which names the file."""
        file = path / "config.json"
        try:
            values: Any = json.loads(file.read_bytes())
        except FileNotFoundError:
            what = "no such folder" if not path.is_dir() else "no checkpoint: config.json is missing"
            raise CheckpointError(f"{path}: {what}") from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file}: {error}") from None
        config = from_dict(values, str(file))
        return cls(path, config, Tokenizer.load(path / "tokenizer.json", config.transformer.text_tokens))

    def tokenize(self, text: str, truncate: bool) -> tuple[list[int], int]:
        """The ids that the model reads, and the number of tokens of the whole text. Raises PromptTooLong."""
        tokenizer = self.tokenizer
        text_ids = tokenizer.encode(text, truncate=True)
        tokens = len(text_ids) - 2  # without <bos> and <eot>
        if tokens == tokenizer.max_tokens:  # there may be more
            tokens = tokenizer.count(text)
            if tokens > tokenizer.max_tokens and not truncate:
                raise PromptTooLong(tokens, tokenizer.max_tokens)
        return text_ids, tokens
