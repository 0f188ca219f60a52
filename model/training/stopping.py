"""SIGTERM and Ctrl-C end a run after its step. A second one ends it at once, as if nobody had listened."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopping:
    """Use it in a `with` statement. received: the signal that came while it lasted, None for none."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():  # Python gives signals to no other one
            for number in SIGNALS:
                if (
                    signal.getsignal(number) is not signal.SIG_IGN
                ):  # ignored on purpose, as in the background of a shell
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self.__exit__()
