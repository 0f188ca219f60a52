"""Log lines on stderr, plain or JSON: one for each request and each event. They never hold a prompt or a part of it.

`extra={"fields": {...}}` of a log call adds fields to its line. For an exception the log shows its class and the lines
of code. It does not show the message, which may repeat what a client sent.

Lines that a client can cause in any number have `extra={"seldom": True}`. Of equal lines one is written in SELDOM
seconds. Its field `times` tells how many it stands for. Warnings and errors of SELDOM_LOGGERS are treated in the same
way.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TextIO

SELDOM = 10.0  # seconds
SELDOM_LOGGERS = frozenset({"uvicorn.error", "asyncio"})
log = logging.getLogger("dalle")
_salt = secrets.token_bytes(16)  # new in every process: a hash shows which prompts are equal, and nothing more


def configure(form: Literal["plain", "json"], level: str) -> None:
    """Send the lines of all loggers of this process to stderr in one form. Of other packages only warnings and errors.

    Python's warnings are logged, and so is an exception that ends a thread.
    """
    handler = Handler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else PlainLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("dalle").setLevel(level.upper())
    logging.captureWarnings(True)
    threading.excepthook = _thread_ended


def tell_repeated(at_once: bool = False) -> None:
    """Write the lines that have been held back for SELDOM seconds, or all of them. Call it regularly."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Handler):
            handler.tell_repeated(at_once)


def on_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Log exceptions that nobody catches on the event loop, without asyncio's message, which repeats arguments."""
    loop.set_exception_handler(lambda _, context: _unforeseen("on the event loop", context.get("exception")))


def _thread_ended(ended: threading.ExceptHookArgs) -> None:
    _unforeseen("in a thread", ended.exc_value)


def _unforeseen(where: str, error: BaseException | None) -> None:
    log.error("a fault of ours %s", where, exc_info=error, extra={"seldom": True})


def places(error: BaseException | None) -> str:
    """The class of an exception, with the lines of code that it passed through; then the same of each of its causes."""
    parts = []
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
        parts.append("\n".join([*lines, f"{type(error).__module__}.{type(error).__qualname__}"]))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\nafter\n".join(parts)


def prompt_fields(text: str) -> dict[str, Any]:
    """The fields of a log line about a prompt: its length, and a hash that nobody outside this process can compute."""
    digest = hashlib.blake2b(text.encode(), key=_salt, digest_size=6)
    return {"characters": len(text), "prompt_hash": digest.hexdigest()}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


@dataclass
class _Repeated:
    """Equal lines. until: monotonic seconds; none is written before. times: how many are held back. last: of these."""

    until: float
    times: int = 0
    last: logging.LogRecord | None = None


class Handler(logging.StreamHandler[TextIO]):
    """Writes lines to a stream. Of many equal lines it writes only some. clock: returns monotonic seconds."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._clock = clock
        self._repeated: dict[object, _Repeated] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, or only count it."""
        if not getattr(record, "seldom", record.name in SELDOM_LOGGERS and record.levelno >= logging.WARNING):
            super().emit(record)
            return
        where = places(record.exc_info[1]) if record.exc_info else ""
        alike = (record.name, record.levelno, str(record.msg), where)  # no arguments: a client may have sent them
        found = self._repeated.setdefault(alike, _Repeated(-math.inf))
        found.times += 1
        found.last = record
        self._tell(found, self._clock())

    def tell_repeated(self, at_once: bool = False) -> None:
        """Write the lines that have been held back for SELDOM seconds, or all of them."""
        now = self._clock()
        self.acquire()
        try:
            for alike, found in list(self._repeated.items()):
                if found.last is not None:
                    self._tell(found, math.inf if at_once else now)
                elif now >= found.until:
                    del self._repeated[alike]
        finally:
            self.release()

    def _tell(self, found: _Repeated, now: float) -> None:
        if found.last is None or now < found.until:
            return
        if found.times > 1:
            found.last.fields = {**_fields(found.last), "times": found.times}
        super().emit(found.last)
        found.until, found.times, found.last = self._clock() + SELDOM, 0, None


class PlainLines(logging.Formatter):
    """Formats a line as TIME LEVEL MESSAGE key=value ..."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [_time(record), record.levelname.lower(), record.getMessage()]
        parts += [f"{name}={_plain(value)}" for name, value in _fields(record).items()]
        line = " ".join(parts)
        line = (
            line if line.isprintable() else line.encode("unicode_escape").decode()
        )  # a client's path cannot begin a new line
        return f"{line}\n{places(record.exc_info[1])}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """Formats a line as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _time(record), "level": record.levelname.lower(), "message": record.getMessage()}
        line |= _fields(record)
        if record.exc_info:
            line["traceback"] = places(record.exc_info[1])
        return json.dumps(line, default=str)


def _plain(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text and text else json.dumps(text)
