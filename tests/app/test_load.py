"""A short run of `load`: everything at once, and nothing lost."""

from __future__ import annotations

from collections.abc import Callable

from tests.app.live import Live
from tests.app.load import check


def test_three_books_agree(start: Callable[..., Live]) -> None:
    server = start(queue=24, flags=["--log", "json"]).ready()
    for clients, seconds, leave in ((40, 1.0, 0.2), (60, 0.0, 0.9)):  # a crowd; and one of which most leave
        figures = check(server, 4, clients, seconds, leave, wait=1)
        assert figures["wrong"] == []
        assert figures["pictures"] > 0
        assert figures["left"] > 0
        assert figures["requests"] >= clients
