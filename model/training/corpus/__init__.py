"""The default corpus: drawings from public packages, rendered and put together into captioned pictures.

    from model.training.corpus import build
    build(Path("data/common"), selection="common")

`builder` leads through it; `emoji`, `icons`, `clipart` and `faces` are the sources.
"""

from .builder import SELECTIONS, SOURCES, build, default_cache
from .manifest import Summary, notice

__all__ = ["SELECTIONS", "SOURCES", "Summary", "build", "default_cache", "notice"]
