"""A training run in a process of its own that ends as `kill -9` ends one, at a step that the test chooses."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

_KILLER = """
import logging, os, signal
class Killer(logging.Handler):
    def emit(self, record):
        if " step {step} of " in record.getMessage():
            os.kill(os.getpid(), signal.SIGKILL)
logging.getLogger().addHandler(Killer())
logging.getLogger().setLevel("INFO")
"""


def killed(script: str, step: int, *arguments: object) -> None:
    """Run Python code that trains and logs every step, and kill it when it logs this one."""
    command = [sys.executable, "-c", _KILLER.replace("{step}", str(step)) + script, *map(str, arguments)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], timeout=300)
    assert ended.returncode == -signal.SIGKILL, "the run ended before it was killed"
