"""Options that several commands share, and functions that read and write picture files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from model.errors import DataError, InvalidRequest
from model.files import SHIPPED, find
from model.training.knobs import knobs
from model.training.options import LoopOptions

if TYPE_CHECKING:
    from PIL import Image


def checkpoint(path: Path | None) -> Path | None:
    """The callback of an option that names a checkpoint: weights/default works in every working directory."""
    return path and find(path)


Weights = Annotated[Path, Option(help="Folder of the checkpoint.", callback=checkpoint)]
Device = Annotated[str, Option(help=knobs(LoopOptions)["device"].help)]
Seed = Annotated[int | None, Option(help="The same seed gives the same result.", show_default="random")]
DEFAULT_WEIGHTS = SHIPPED
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def out(meaning: str, **more: Any) -> Any:
    """The option -o, --out. meaning: its help. more: further arguments of Option."""
    return Option("-o", "--out", help=meaning, **more)


def temperature(default: str) -> Any:
    """The option --temperature. default: the words that --help shows as its default."""
    return Option(help="How freely tokens are drawn, 0 to 5. 0 takes the likeliest token.", show_default=default)


def top_k(default: str) -> Any:
    """The option --top-k. default: the words that --help shows as its default."""
    return Option(help="Draw from the k likeliest tokens only. 0 draws from all.", show_default=default)


def check_out(path: Path) -> None:
    """Check that a picture can be written to `path`, before hours of work. Raises InvalidRequest."""
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidRequest("out", f"--out must end in one of {', '.join(SUFFIXES)}, got {path}")
    if not path.parent.is_dir():
        raise InvalidRequest("out", f"--out must be in a folder that exists, got {path}")
    if path.is_dir():
        raise InvalidRequest("out", f"--out must be a file, got the folder {path}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InvalidRequest("out", f"--out must be a file that can be written to, got {path}")


def check_out_folder(path: Path) -> None:
    """Check that `path` is a folder, or can become one, and can be written to. Raises InvalidRequest."""
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if os.path.lexists(folder))
    if not there.is_dir():
        raise InvalidRequest("out", f"--out must be a folder or a new name in one, got {path}; {there} is none")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InvalidRequest("out", f"--out must be in a folder that can be written to, got {path}")


def utf8(text: str | None) -> str | None:
    """The callback of an option or argument that is a text. Raises InvalidRequest unless it was typed in UTF-8."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        byte = ord(error.object[error.start]) & 0xFF  # Python keeps a byte that is not UTF-8 as a lone surrogate
        found = f"the byte 0x{byte:02x} after {error.start} characters; is the terminal set to UTF-8?"
        raise InvalidRequest("text", f"the text must be UTF-8, got {found}") from None
    return text


def save_image(image: Image.Image, path: Path, texts: Mapping[str, object]) -> None:
    """Write a picture, whole or not at all. A PNG holds `texts` in its text chunks. Raises DataError."""
    from PIL.PngImagePlugin import PngInfo

    from model.written import told, whole

    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, str(text))
    options: dict[str, Any] = {"pnginfo": info} if path.suffix.lower() == ".png" else {"quality": 95}
    if path.exists() and not path.is_file():  # a pipe or a device
        with told(path):
            image.save(path, **options)
        return
    with whole(path) as partial:
        image.save(partial, **options)


def read_image(path: Path, size: int) -> Image.Image:
    """The middle square of the picture in the file, as RGB of size x size, upright and on white. Raises DataError."""
    from PIL import Image, UnidentifiedImageError

    from model.picture_files import PictureError
    from model.squares import square
    from model.upright import open_picture

    try:
        return square(open_picture(path.read_bytes())[0], size)
    except PictureError as error:
        raise DataError(f"{path} {error}") from None
    except UnidentifiedImageError:
        raise DataError(f"{path} must be a picture of a known format") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
