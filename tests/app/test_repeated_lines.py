"""Log lines that a client can cause in any number: the log writes few of them, and tells how many others there were."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from app.logs import SELDOM, Handler, PlainLines


class Log:
    """A log with a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self._stream = io.StringIO()
        self.handler = Handler(self._stream, clock=lambda: self.now)
        self.handler.setFormatter(PlainLines())
        self.seen = 0

    def new(self) -> list[str]:
        """The lines since the last call, without their times."""
        lines = [line.partition(" ")[2] for line in self._stream.getvalue().splitlines()]
        self.seen, start = len(lines), self.seen
        return lines[start:]


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log()
    loggers = [logging.getLogger(name) for name in ("test.lines", "uvicorn.error")]
    for logger in loggers:
        logger.addHandler(made.handler)
        logger.propagate = False
    loggers[0].setLevel("INFO")
    yield made
    for logger in loggers:
        logger.removeHandler(made.handler)
        logger.propagate = True


def say(what: str, *arguments: object, **options: object) -> None:
    logging.getLogger("test.lines").error(what, *arguments, extra={"seldom": True}, **options)  # type: ignore[arg-type]


def test_the_first_is_written_at_once_and_the_others_together(log: Log) -> None:
    for number in range(1000):
        say("bad client %d", number)
    assert log.new() == ["error bad client 0"]
    log.handler.tell_repeated()
    assert log.new() == []
    log.now += SELDOM
    log.handler.tell_repeated()
    assert log.new() == ["error bad client 999 times=999"]
    say("bad client %d", 7)
    assert log.new() == []
    log.now += SELDOM
    say("bad client %d", 8)
    assert log.new() == ["error bad client 8 times=2"]
    say("bad client %d", 9)
    log.handler.tell_repeated(at_once=True)
    assert log.new() == ["error bad client 9"]


def test_what_is_quiet_for_a_while_is_written_at_once_again(log: Log) -> None:
    say("one")
    for _ in range(2):
        log.now += SELDOM
        log.handler.tell_repeated()
    say("one")
    assert log.new() == ["error one", "error one"]


def test_lines_that_differ_do_not_hide_one_another(log: Log) -> None:
    for _ in range(3):
        say("one")
        say("two")
        logging.getLogger("test.lines").info("ordinary")
    ordinary = ["info ordinary"] * 2
    assert log.new() == ["error one", "error two", "info ordinary", *ordinary]


def test_exceptions_are_alike_that_come_from_the_same_place(log: Log) -> None:
    def fail(number: int) -> None:
        try:
            raise (ValueError, KeyError)[number % 2](number)
        except (ValueError, KeyError) as error:
            say("a fault", exc_info=error)

    for number in range(10):
        fail(number)
    assert [line for line in log.new() if line.startswith("error")] == ["error a fault", "error a fault"]


def test_warnings_of_the_http_library_are_among_them(log: Log) -> None:
    for _ in range(10):
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    assert log.new() == ["warning Invalid HTTP request received."]
