"""The default corpus: drawings from public packages, rendered and composed into captioned pictures.

    from model.recipes.default.corpus import Plan, build
    build(Path("data/common"), Plan(selection="common"))

`builder` is the whole build, `plan` says what is made, and `emoji`, `icons`, `clipart` and `faces` are the sources.
"""

from .builder import SELECTIONS, SOURCES, build, default_cache
from .manifest import Summary, notice
from .plan import Plan

__all__ = ["SELECTIONS", "SOURCES", "Plan", "Summary", "build", "default_cache", "notice"]
