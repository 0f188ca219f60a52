"""A short run of `load`: many clients at once, and no request is lost."""

from __future__ import annotations

from collections.abc import Callable

from tests.app.live import REPLICAS, Live
from tests.app.load import Crowd, check


def test_three_books_agree(start: Callable[..., Live]) -> None:
    server = start(queue=24, flags=["--log", "json"]).ready()
    for crowd in (Crowd(40, seconds=1, leave=0.5, wait=0.1), Crowd(60, seconds=0, leave=0.9, wait=0.1)):
        figures = check(server, 4 * (REPLICAS or 1), crowd)
        assert figures["wrong"] == []
        assert figures["pictures"] > 0
        assert figures["left"] > 0
        assert figures["requests"] >= crowd.clients
