"""The part of the checkpoint that the HTTP process reads: its configuration, tokenizer and styles, and no tensors.

The worker process compares the whole folder with its SHA256SUMS before it says that it is ready.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from model.config import CheckpointConfig
from model.config_file import CONFIG, CONFIG_BYTES, from_json
from model.errors import PromptTooLong
from model.files import check_folder, read_file
from model.gallery import GALLERY, GALLERY_BYTES, SHEET, SHEET_BYTES, Gallery
from model.gallery import parse as read_gallery
from model.styles import Styles
from model.things import THINGS, THINGS_BYTES, Things, parse
from model.tokenizer import TOKENIZER, TOKENIZER_BYTES
from model.tokenizers import AnyTokenizer, parse_tokenizer


@dataclass(frozen=True)
class ServedCheckpoint:
    """The model that this server serves, without its tensors.

    styles: those of the config, with the things that they know.
    known: SHA-256 of the files that were read, by name. A worker must find the same sums.
    """

    path: Path
    config: CheckpointConfig
    tokenizer: AnyTokenizer
    styles: Styles
    known: dict[str, str]
    things: Things = field(default_factory=Things)
    gallery: Gallery | None = None

    @classmethod
    def read(cls, path: Path) -> ServedCheckpoint:
        """Read config.json and the texts that serving needs in the folder `path`.

        Raises CheckpointError, which names the file.
        """
        check_folder(path)
        files = {CONFIG: read_file(path / CONFIG, CONFIG_BYTES)}
        config = from_json(files[CONFIG], str(path / CONFIG))  # before the tokenizer, which an image tokenizer has not
        files[TOKENIZER] = read_file(path / TOKENIZER, TOKENIZER_BYTES)
        for name, most in ((THINGS, THINGS_BYTES), (GALLERY, GALLERY_BYTES), (SHEET, SHEET_BYTES)):
            if (path / name).exists():
                files[name] = read_file(path / name, most)
        things = parse(files[THINGS], str(path / THINGS)) if THINGS in files else Things()
        tokenizer = parse_tokenizer(config, files[TOKENIZER], str(path / TOKENIZER))

        def read(name: str, at_most: int) -> bytes:
            files[name] = read_file(path / name, at_most)
            return files[name]

        styles = Styles.read(config.styles, path, read)
        both = GALLERY in files and SHEET in files
        gallery = read_gallery(files[GALLERY], str(path / GALLERY), files[SHEET]) if both else None
        known = {name: sha256(data).hexdigest() for name, data in files.items()}
        return cls(path, config, tokenizer, styles, known, things, gallery)

    def tokenize(self, text: str, truncate: bool) -> tuple[list[int], int]:
        """The ids that the model reads, and the number of tokens of the whole text. Raises PromptTooLong."""
        tokenizer = self.tokenizer
        text_ids = tokenizer.encode(text, truncate=True)
        tokens = len(text_ids) - tokenizer.specials
        if tokens == tokenizer.max_tokens:  # there may be more
            tokens = tokenizer.count(text)
            if tokens > tokenizer.max_tokens and not truncate:
                raise PromptTooLong(tokens, tokenizer.max_tokens)
        return text_ids, tokens
