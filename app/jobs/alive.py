"""Tells whether the servers that share a SQLite file are alive.

Each holds a lock. The system opens it when the server dies. Another server then takes over its jobs at once, without
waiting for the end of a lease.
"""

from __future__ import annotations

import contextlib
import fcntl
from pathlib import Path


class Alive:
    """The locks beside a database file. name: of this server."""

    def __init__(self, database: Path, name: str) -> None:
        self._database = database
        self._own = self._path(name).open("w")
        fcntl.flock(self._own, fcntl.LOCK_EX)
        for path in database.parent.glob(f"{database.name}.*.alive"):  # of servers that died without a job
            self.dead(path.name.removeprefix(f"{database.name}.").removesuffix(".alive"))

    def dead(self, name: str) -> bool:
        """Whether the server of this name has died. Its lock's file is then removed."""
        path = self._path(name)
        try:
            with path.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            return True
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Let the lock go."""
        with contextlib.suppress(OSError):  # a disk that takes no more writes; the next server removes the file
            Path(self._own.name).unlink(missing_ok=True)
        self._own.close()

    def _path(self, name: str) -> Path:
        return self._database.with_name(f"{self._database.name}.{name}.alive")
