"""Threads for calls that may hang, such as those of a disk or of a name server. The end of the process waits for none.

The threads of Python's own executor hold the process until their calls have ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any


class Threads(Executor):
    """At most so many threads, each started when a call comes. name: of them."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Call the function on a thread. Raises RuntimeError after `shutdown`."""
        if self._closed:
            raise RuntimeError(f"the threads {self._name} take no more calls")
        future: Future[Any] = Future()
        self._calls.put(partial(_call, future, partial(function, *arguments, **named)))
        if len(self._threads) < self._most:
            self._threads.append(threading.Thread(target=self._work, name=self._name, daemon=True))
            self._threads[-1].start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, of an Executor
        """Take no more calls. wait: until those that were taken have ended."""
        self._closed = True
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call  # it may hold a picture


def _call(future: Future[Any], function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
