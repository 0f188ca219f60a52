"""A store of each kind: over SQLite, and over a real PostgreSQL where its programs are installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.jobs.folder import Folder
from app.jobs.store import Store


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.sqlite3"
    found: str = request.getfixturevalue("postgres_database")
    return found


@pytest.fixture
def make_store(address: str, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """A function that opens the same store again, as another server would."""
    opened: list[Store] = []

    def make() -> Store:
        opened.append(Store(address, Folder(str(tmp_path / "pictures"))))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(make_store: Callable[[], Store]) -> Store:
    """One opened store."""
    return make_store()
