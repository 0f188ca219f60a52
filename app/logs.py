"""Log lines on stderr: one a request and one an occurrence, plain or JSON. Never a prompt, nor a part of one.

`extra={"fields": {...}}` of a log call are further fields of its line. Of an exception the kind and the places in the
code are told, not the words: of one that nobody foresaw, these may repeat what a client sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
import sys
import threading
import time
import traceback
from typing import Any, Literal

log = logging.getLogger("dalle")
_salt = secrets.token_bytes(16)  # of this process: equal prompts can be seen to be equal, and nothing more


def configure(form: Literal["plain", "json"], level: str) -> None:
    """Send every logger of this process to stderr in one form; of other packages' lines only warnings and errors.

    Warnings, and what ends a thread, are logged as well.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else PlainLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("dalle").setLevel(level.upper())
    logging.captureWarnings(True)
    threading.excepthook = _thread_ended


def on_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Log what goes wrong on the event loop and nobody catches, without asyncio's words: they repeat arguments."""
    loop.set_exception_handler(lambda _, context: _unforeseen("on the event loop", context.get("exception")))


def _thread_ended(ended: threading.ExceptHookArgs) -> None:
    _unforeseen("in a thread", ended.exc_value)


def _unforeseen(where: str, error: BaseException | None) -> None:
    log.error("a fault of ours %s", where, exc_info=error)


def places(error: BaseException | None) -> str:
    """The kinds of an exception and of its causes, each with the lines of code that it went through."""
    parts = []
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
        parts.append("\n".join([*lines, f"{type(error).__module__}.{type(error).__qualname__}"]))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\nafter\n".join(parts)


def prompt_fields(text: str) -> dict[str, Any]:
    """What a log may know of a prompt: its length, and a hash that nobody can look up."""
    digest = hashlib.blake2b(text.encode(), key=_salt, digest_size=6)
    return {"characters": len(text), "prompt_hash": digest.hexdigest()}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


class PlainLines(logging.Formatter):
    """TIME LEVEL MESSAGE key=value ..."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [_time(record), record.levelname.lower(), record.getMessage()]
        parts += [f"{name}={_plain(value)}" for name, value in _fields(record).items()]
        line = " ".join(parts)
        line = line if line.isprintable() else line.encode("unicode_escape").decode()  # a client's path ends no line
        return f"{line}\n{places(record.exc_info[1])}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _time(record), "level": record.levelname.lower(), "message": record.getMessage()}
        line |= _fields(record)
        if record.exc_info:
            line["traceback"] = places(record.exc_info[1])
        return json.dumps(line, default=str)


def _plain(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text and text else json.dumps(text)
