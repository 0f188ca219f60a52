"""A command line run in the test's own process, in an empty folder, and what it left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Result:
    """Exit status, stdout and stderr."""

    status: int
    out: str
    err: str


Run = Callable[..., Result]


def runner(
    program: str,
    main: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
) -> Run:
    """A function that runs `main` with its arguments on sys.argv, in `folder`."""
    monkeypatch.chdir(folder)
    for name, value in (("OMP_WAIT_POLICY", "PASSIVE"), ("OMP_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)  # what `main` would set, and leave behind

    def command(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        return Result(status, *capsys.readouterr())

    return command
