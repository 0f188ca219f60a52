"""What the HTTP process reads of the checkpoint: its configuration and its tokenizer, never a tensor.

The worker process compares the whole folder with its SHA256SUMS before it says that it is ready.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model.config import CheckpointConfig, read_config
from model.errors import PromptTooLong
from model.files import check_folder
from model.tokenizer import Tokenizer


@dataclass(frozen=True)
class ServedCheckpoint:
    """The model that this server serves, as far as requests are concerned."""

    path: Path
    config: CheckpointConfig
    tokenizer: Tokenizer

    @classmethod
    def read(cls, path: Path) -> ServedCheckpoint:
        """Read config.json and tokenizer.json in the folder `path`. Raises CheckpointError naming the file."""
        check_folder(path)
        config = read_config(path / "config.json")
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
