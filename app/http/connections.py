"""Limits the number of connections. A waiting connection gives way to a new one.

    limiter = ConnectionLimiter(connection_limit(raise_descriptor_limit(), workers=1), count)
    acceptor = Acceptor(listener, lambda: Protocol(..., limiter), limiter)
    acceptor.open()

A connection costs its client nothing, but the server a descriptor. So the number of connections stays below the limit
of descriptors, and enough of them are left for the pipes of a new worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.http.protocol import Protocol

DESCRIPTORS = 16_384  # this process has no use for more
MAX_CONNECTIONS = 4096  # each takes 6 kB, or 22 kB with an incomplete head
MIN_CONNECTIONS = 16
RESERVE = 128  # descriptors for files, for connections that leave, and for one batch of new connections
WORKER_RESERVE = 16  # descriptors for a worker's pipes, also while it is replaced
LEAVING = 32  # connections that have their last answer and are not closed yet
BATCH = 32  # connections accepted in one turn of the event loop
PAUSE = 0.1  # seconds without accepting, after an error
SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
log = logging.getLogger("dalle.http")


def raise_descriptor_limit() -> int:
    """Raise the soft limit of descriptors to the hard one or DESCRIPTORS. Returns how many this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    with contextlib.suppress(OSError, ValueError):  # some systems have another limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


def connection_limit(descriptors: int, workers: int) -> int:
    """How many connections there may be. Each may need a second descriptor, for a file that answers it."""
    return max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, (descriptors - RESERVE - WORKER_RESERVE * workers) // 2))


def reset(transport: asyncio.WriteTransport) -> None:
    """Cut a connection, and drop what its client has not read. Without this the kernel would keep it for minutes."""
    connection = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):  # it is closed already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class ConnectionLimiter:
    """The connections that wait for a request, in the order in which they began to wait.

    limit: how many connections there may be, apart from those that leave. count: called with the error code of every
    answer that the protocol gives without a route.
    """

    def __init__(self, limit: int, count: Callable[[str], None]) -> None:
        self.limit = limit
        self.count = count
        self._waiting: OrderedDict[Protocol, None] = OrderedDict()
        self._leaving: OrderedDict[Protocol, None] = OrderedDict()

    def too_many(self, connections: int) -> bool:
        """Whether there are too many. connections: the number of all that are open, those that leave among them."""
        return connections - len(self._leaving) > self.limit

    def make_room(self) -> bool:
        """Close the connection that has waited longest. Returns False if none waits."""
        for longest in self._waiting:
            if not longest.sending:
                log.info("a connection without a request gave way to a new one", extra={"seldom": True})
                longest.give_way()
                return True
        return False

    def waits(self, connection: Protocol) -> None:
        """The connection waits for a request. If it waited already, it keeps its place in the order."""
        self._waiting.setdefault(connection)

    def leaves(self, connection: Protocol) -> None:
        """The connection has its last answer. Only LEAVING connections may take their time to read it."""
        self._waiting.pop(connection, None)
        self._leaving[connection] = None
        if len(self._leaving) > LEAVING:
            next(iter(self._leaving)).give_way()

    def forget(self, connection: Protocol) -> None:
        """The connection waits no longer: it has a request, or is closed."""
        self._waiting.pop(connection, None)
        self._leaving.pop(connection, None)


class Acceptor:
    """Accepts connections on `listener`, a listening socket that does not block. make: makes a connection's protocol.

    asyncio's own acceptor is not used, because it floods the log and keeps a core busy when descriptors run out. It
    then schedules one more try for every connection that may be waiting, and each try schedules as many again.
    """

    def __init__(
        self, listener: socket.socket, make: Callable[[], asyncio.BaseProtocol], limiter: ConnectionLimiter
    ) -> None:
        self._listener = listener
        self._make = make
        self._limiter = limiter
        self._pause: asyncio.TimerHandle | None = None
        self._welcoming: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Begin to accept. Call it on the event loop only, like all methods here."""
        self._pause = None
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Accept no more."""
        if self._pause is not None:
            self._pause.cancel()
        asyncio.get_running_loop().remove_reader(self._listener)

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(BATCH):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                log.error("a connection cannot be accepted: %s", error.strerror or error, extra={"seldom": True})
                if error.errno == errno.ECONNABORTED:  # its client has left; the next connection may be accepted
                    continue
                if error.errno in SHORTAGE:
                    self._limiter.make_room()
                loop.remove_reader(self._listener)
                self._pause = loop.call_later(PAUSE, self.open)
                return
            connection.setblocking(False)
            task = loop.create_task(self._welcome(connection))
            self._welcoming.add(task)
            task.add_done_callback(self._welcoming.discard)

    async def _welcome(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._make, connection)
        except OSError:  # its client has left
            connection.close()
