"""Why worker processes die, what is done then, and when the server has to end.

- Crash: a signal such as SIGSEGV, or the process ended by itself. Hang: it made no step for too long, and the
  supervisor ended it. Start: it failed, crashed or hung before it was ready. Another worker is started at once; the
  server ends when such deaths come too often.
- Killed: somebody else ended it, such as the kernel's OOM killer, an operator or a container runtime. That is not
  the fault of the worker or of a request, so it never ends the server. Another worker is started after a wait. The wait
  doubles with every such death, and is short again once a worker has been ready for a while.
"""

from __future__ import annotations

import signal
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

BUDGET = 5  # deaths within WINDOW that end the server; those that were killed from outside do not count
WINDOW = 60.0  # seconds
FIRST_WAIT = 0.5  # seconds
LONGEST_WAIT = 15.0  # seconds
CALM = 30.0  # seconds; once a worker was ready for so long, the next wait is FIRST_WAIT again

# With these signals people, container runtimes and the kernel end processes. After their first moments workers ignore
# all of them except SIGKILL and SIGQUIT.
OUTSIDE = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM})


class Cause(StrEnum):
    """Why a worker died."""

    CRASH = "crash"
    HANG = "hang"
    KILLED = "killed"
    START = "start"


@dataclass(frozen=True)
class Death:
    """The end of a worker that the server did not ask for. text: what happened, as in "worker 7 TEXT"."""

    cause: Cause
    text: str

    @classmethod
    def by_status(cls, status: int | None, ready: bool, memory: str = "") -> Death:
        """The death of a worker whose pipe ended.

        status: its exit status, or minus the number of the signal that ended it. None if it closed its pipe, went on
        running and was then killed here.
        ready: whether it had loaded its model. memory: what is known of a shortage of memory. The text repeats it after
        a SIGKILL.
        """
        if status is not None and -status in OUTSIDE:
            text = f"was killed from outside by {_signal_name(-status)}" + ("" if ready else " while it loaded")
            return cls(Cause.KILLED, f"{text}; {memory}" if memory and -status == signal.SIGKILL else text)
        if status is None:
            text = "closed its pipe but went on running, and was killed"
        elif status < 0:
            text = f"crashed with {_signal_name(-status)}"
        else:
            text = f"ended by itself with status {status}"
        return cls(Cause.CRASH, text) if ready else cls(Cause.START, f"{text} before it was ready")


class Deaths:
    """The deaths of all workers since the server's start."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {cause.value: 0 for cause in Cause}
        self._times: deque[float] = deque(maxlen=BUDGET)

    def add(self, death: Death, now: float) -> str | None:
        """Count a death at `now`, in monotonic seconds. Returns why the server has to end, None if it goes on."""
        self.counts[death.cause] += 1
        if death.cause is Cause.KILLED:
            return None
        self._times.append(now)
        if len(self._times) < BUDGET or now - self._times[0] > WINDOW:
            return None
        return f"{BUDGET} workers died within {WINDOW:g} s, and the last one {death.text}"


class Backoff:
    """How long to wait before a worker is started in the place of one that died."""

    def __init__(self) -> None:
        self._next = FIRST_WAIT

    def after(self, cause: Cause, ready_seconds: float) -> float:
        """Seconds to wait. ready_seconds: how long the worker that died had been ready, 0.0 if it never was."""
        if ready_seconds >= CALM:
            self._next = FIRST_WAIT
        if cause is not Cause.KILLED:
            return 0.0
        wait = self._next
        self._next = min(2 * wait, LONGEST_WAIT)
        return wait


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"signal {number}"
