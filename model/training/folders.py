"""The files of a data set's folder, in an order that depends only on their names.

Links to folders are followed, and every folder is read once, so that links may lead in a circle. Hidden files and
folders are left out: Jupyter, Git, macOS and others keep copies and notes of their own in them.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

TOOLS = frozenset({"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
CACHE = "CACHEDIR.TAG"  # marks a folder that holds a cache: bford.info/cachedir
HIDDEN = "hidden file or folder, or one of a tool"
CACHED = "folder that CACHEDIR.TAG marks as a cache"
TWICE = "link to a folder that is read already"
UNREADABLE = "folder that cannot be opened"
ODD = "neither a file nor a folder"
DANGLING = "link that leads nowhere"


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out."""
    return name.startswith(".") or name in TOOLS


def mark_cache(folder: Path) -> None:
    """Make the folder, and mark it as a cache, so that it is no part of the data set in which it may lie."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CACHE).write_text("Signature: 8a477f597d28d172789f06886806bc55\n")


def files_in(folder: Path, left_out: Callable[[str, Path], None] = lambda _kind, _path: None) -> list[Path]:
    """Every regular file below `folder`, sorted. `folder` itself may be hidden.

    left_out: is called with each thing that is passed over: its kind, one of the constants above, and its path.
    """
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    folders, links = [folder], deque[Path]()
    while folders or links:
        here = folders.pop() if folders else links.popleft()  # links last: a folder's own path goes first
        try:
            known = here.stat()
            with os.scandir(here) as entries:
                names = sorted(entry.name for entry in entries)
        except OSError:
            left_out(UNREADABLE, here)
            continue
        if (known.st_dev, known.st_ino) in seen:
            left_out(TWICE, here)
            continue
        seen.add((known.st_dev, known.st_ino))
        if CACHE in names and here != folder:
            left_out(CACHED, here)
            continue
        for name in names:
            path = here / name
            if is_hidden(name):
                left_out(HIDDEN, path)
            elif os.path.isdir(path):
                (links if path.is_symlink() else folders).append(path)
            elif os.path.isfile(path):
                found.append(path)
            else:
                left_out(ODD if os.path.exists(path) else DANGLING, path)
    return sorted(found)
