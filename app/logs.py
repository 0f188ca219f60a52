"""Log lines on stderr: one a request and one an occurrence, plain or JSON. Never a prompt, nor a part of one.

`extra={"fields": {...}}` of a log call are further fields of its line.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import sys
import time
from typing import Any, Literal

_salt = secrets.token_bytes(16)  # of this process: equal prompts can be seen to be equal, and nothing more


def configure(form: Literal["plain", "json"], level: str) -> None:
    """Send every logger of this process to stderr in one form; of uvicorn's own lines only warnings and errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else PlainLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("dalle").setLevel(level.upper())
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it warns of every form that a client got wrong


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
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _time(record), "level": record.levelname.lower(), "message": record.getMessage()}
        line |= _fields(record)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _plain(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text and text else json.dumps(text)
