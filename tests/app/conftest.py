"""A checkpoint that paints a picture of 64 x 64 in milliseconds, and one server over it for the session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.app.live import Live
from tests.app.puppets import player
from tests.app.quick import save_quick


@pytest.fixture(scope="session")
def quick_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the checkpoint of `quick`. Shared: copy it before you damage it."""
    return save_quick(tmp_path_factory.mktemp("checkpoints") / "quick")


@pytest.fixture(scope="session")
def live(quick_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A ready server that no test ends or damages."""
    with Live(quick_checkpoint, tmp_path_factory.mktemp("live") / "log") as server:
        yield server.ready()


@pytest.fixture
def start(quick_checkpoint: Path, tmp_path: Path) -> Iterator[Callable[..., Live]]:
    """start(weights=None, **options of Live): servers of this test's own, ended after it."""
    servers: list[Live] = []

    def begin(weights: Path | str | None = None, **options: Any) -> Live:
        server = Live(weights or quick_checkpoint, tmp_path / f"log-{len(servers)}", **options)
        servers.append(server)
        return server

    yield begin
    for server in servers:
        server.__exit__(None, None, None)


@pytest.fixture
def play(quick_checkpoint: Path) -> Callable[..., None]:
    """play(scene, ready=True, **settings): run an async scene on a pool over puppets, see tests.app.puppets."""
    return player(quick_checkpoint)
