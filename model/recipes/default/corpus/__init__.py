"""The default corpus: drawings from public packages, rendered and put together into captioned pictures.

    from model.recipes.default.corpus import Plan, build
    build(Path("data/common"), Plan(selection="common"))

`builder` leads through it; `plan` says what is made; `emoji`, `icons`, `clipart` and `faces` are the sources.
"""

from .builder import SELECTIONS, SOURCES, build, default_cache
from .manifest import Summary, notice
from .plan import Plan

__all__ = ["SELECTIONS", "SOURCES", "Plan", "Summary", "build", "default_cache", "notice"]
