"""The part of the checkpoint that the HTTP process reads: its configuration and its tokenizer, and no tensors.

The worker process compares the whole folder with its SHA256SUMS before it says that it is ready.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from model.config import CONFIG, CONFIG_BYTES, CheckpointConfig, from_json
from model.errors import PromptTooLong
from model.files import check_folder, read_file
from model.things import THINGS, THINGS_BYTES, Things, parse
from model.tokenizer import TOKENIZER, TOKENIZER_BYTES, Tokenizer


@dataclass(frozen=True)
class ServedCheckpoint:
    """The model that this server serves, as far as requests are concerned.

    known: SHA-256 of the files that were read, by name; a worker must find the same ones.
    """

    path: Path
    config: CheckpointConfig
    tokenizer: Tokenizer
    known: dict[str, str]
    things: Things = field(default_factory=Things)

    @classmethod
    def read(cls, path: Path) -> ServedCheckpoint:
        """Read config.json, tokenizer.json and, if it is there, things.json in the folder `path`.

        Raises CheckpointError naming the file.
        """
        check_folder(path)
        files = {
            CONFIG: read_file(path / CONFIG, CONFIG_BYTES),
            TOKENIZER: read_file(path / TOKENIZER, TOKENIZER_BYTES),
        }
        if (path / THINGS).exists():
            files[THINGS] = read_file(path / THINGS, THINGS_BYTES)
        things = parse(files[THINGS], str(path / THINGS)) if THINGS in files else Things()
        config = from_json(files[CONFIG], str(path / CONFIG))
        tokenizer = Tokenizer.parse(files[TOKENIZER], str(path / TOKENIZER), config.transformer.text_tokens)
        known = {name: sha256(data).hexdigest() for name, data in files.items()}
        return cls(path, config, tokenizer, known, things)

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
