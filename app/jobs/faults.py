"""What may be wrong with the store. A client is told what, and what it can do; only the log tells where."""

from __future__ import annotations

import logging

from model.errors import DalleError

CLEAR = "ask for fewer pictures, or try again when older ones were removed"
log = logging.getLogger("dalle.jobs")


class StoreFault(DalleError):
    """A fault of the store. why: for the operator. It may tell paths and addresses, so no client may see it."""

    def __init__(self, message: str, why: str = "") -> None:
        super().__init__(message)
        self.why = why or message

    def tell(self, more: str = "") -> None:
        """Write it into the log. more: what is done about it."""
        log.error("the store: %s", self.why + more, extra={"seldom": True})


class StoreFull(StoreFault):
    """There is no room left for pictures or jobs."""


class StoreAway(StoreFault):
    """The place of the pictures or the database cannot be reached now."""


class NoStore(StoreFault):
    """The server keeps no jobs and no pictures."""


def full(what: str, why: str) -> StoreFull:
    """The error of a place that is full."""
    return StoreFull(f"{what} is full; {CLEAR}", why)


def away(what: str, why: str) -> StoreAway:
    """The error of a place that cannot be reached."""
    return StoreAway(f"{what} cannot be reached now", why)
