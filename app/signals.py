"""What a server does at signals. It runs on the event loop.

At SIGTERM or SIGINT it drains: it finishes what was accepted, within a limit, and ends. At a second such signal the
rest fails at once.

At SIGHUP the file of API keys is read again. Without such a file the server drains, unless it was started with SIGHUP
ignored, as by `nohup`. SIGHUP never shortens the drain limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

SAME_SIGNAL = 1.0  # seconds within which a second signal counts as the first one
ENDING = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """drain: drains the server within so many seconds, and ends it. seconds: how many the first signal gives.

    reload: called at SIGHUP; if None, SIGHUP drains.
    """

    def __init__(
        self,
        drain: Callable[[float], Awaitable[None]],
        seconds: float,
        reload: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._drain = drain
        self._seconds = seconds
        self._reload = reload
        self._reloading: set[asyncio.Future[None]] = set()
        self._draining: asyncio.Future[None] | None = None
        self._asked: float | None = None  # when SIGTERM or SIGINT came, monotonic

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """While this lasts signals are handled. On the main thread only."""
        loop = asyncio.get_running_loop()
        handlers: dict[signal.Signals, Callable[[], Any]] = dict.fromkeys(ENDING, self.end)
        if self._reload is not None or signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            handlers[signal.SIGHUP] = self.hang_up
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def end(self) -> None:
        """Drain. A second call more than SAME_SIGNAL later ends the wait.

        One Ctrl-C may come twice, because a parent such as GNU make passes on the signal that it gets.
        """
        now = time.monotonic()
        if self._asked is None:
            self._asked = now
            self._begin_draining()
        elif now - self._asked > SAME_SIGNAL and self._draining is not None:
            self._draining.cancel()
            self._draining = asyncio.ensure_future(self._drain(0))

    def hang_up(self) -> None:
        """Reload the API keys, or drain. A SIGHUP during the drain does not cut it short."""
        if self._reload is None:
            self._begin_draining()
            return
        task = asyncio.ensure_future(self._reload())
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

    def _begin_draining(self) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain(self._seconds))
