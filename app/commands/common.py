"""Options that several commands share, and functions that read and write picture files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from model.errors import DataError, InvalidRequest
from model.training.knobs import knobs
from model.training.options import LoopOptions

if TYPE_CHECKING:
    from PIL import Image

Weights = Annotated[Path, Option(help="Folder of the checkpoint.")]
Device = Annotated[str, Option(help=knobs(LoopOptions)["device"].help)]
Seed = Annotated[int | None, Option(help="The same seed gives the same result.", show_default="random")]
DEFAULT_WEIGHTS = Path("weights/default")
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


def save_image(image: Image.Image, path: Path, texts: Mapping[str, object]) -> None:
    """Write a picture. A PNG holds `texts` in its text chunks. Raises DataError."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, str(text))
    try:
        if path.suffix.lower() == ".png":
            image.save(path, pnginfo=info)
        else:
            image.save(path, quality=95)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None


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
