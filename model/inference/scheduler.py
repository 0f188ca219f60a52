"""Who has which slot, and who comes next. Plain Python on ints: imports no torch and knows nothing of tokens.

A slot is a row of the KV cache; an image takes one, or two with guidance. Images of a request start in order, requests
in the order of their arrival, at any step, as soon as there are rows for one more image: nobody overtakes, so nothing
starves. A slot is held from `admit` to `drawn`; a picture whose tokens are drawn waits for its painting without one.

The ledger holds at every moment: accepted = completed + failed + cancelled + expired + in flight.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from model.errors import InvalidRequest
from model.inference.sequence import GenerationRequest, Sequence


@dataclass
class Counts:
    """Requests, since the start."""

    accepted: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0


@dataclass(eq=False)
class Entry:
    """One request in flight. deadline: monotonic seconds, None for none."""

    request: GenerationRequest
    deadline: float | None
    begun: int = 0  # images that were given slots
    painted: int = 0  # images that are done
    running: list[Sequence] = field(default_factory=list)  # images that hold slots
    drawn: list[Sequence] = field(default_factory=list)  # images whose tokens are drawn, and who are not painted

    @property
    def waiting(self) -> int:
        """Images without slots yet."""
        return self.request.num_images - self.begun

    def expired(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline


class Scheduler:
    """Slots 0..slots-1, given out first come, first served."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.counts = Counts()
        self.running: list[Sequence] = []  # in the order of admission
        self._entries: dict[str, Entry] = {}
        self._queue: deque[Entry] = deque()  # those with waiting images
        self._free = list(range(slots))  # a heap: the lowest slot is given first

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._entries

    @property
    def free_slots(self) -> list[int]:
        """Slots that nobody holds, ascending."""
        return sorted(self._free)

    @property
    def waiting(self) -> int:
        """Images that have no slot yet."""
        return sum(entry.waiting for entry in self._queue)

    @property
    def in_flight(self) -> int:
        """Requests accepted and not ended."""
        return len(self._entries)

    def entry(self, request_id: str) -> Entry:
        """The request in flight. Raises KeyError for one that is not."""
        return self._entries[request_id]

    def entries(self) -> Iterator[Entry]:
        """The requests in flight, in the order of their arrival."""
        return iter(self._entries.values())

    def add(self, request: GenerationRequest, deadline: float | None = None) -> None:
        """Accept a request at the end of the queue.

        Raises InvalidRequest for an id that is in flight, and for images that need more rows than there are.
        """
        if request.id in self._entries:
            raise InvalidRequest("id", f"id: {request.id!r} is in flight already")
        if request.rows > self.slots:
            raise InvalidRequest(
                "guidance", f"guidance: such an image takes {request.rows} slots, and this engine has {self.slots}"
            )
        entry = Entry(request, deadline)
        self._entries[request.id] = entry
        self._queue.append(entry)
        self.counts.accepted += 1

    def admit(self, now: float = 0.0) -> list[Sequence]:
        """Give slots to the next images while there are any free. Returns these images, in order."""
        admitted: list[Sequence] = []
        while self._queue and len(self._free) >= self._queue[0].request.rows:
            entry = self._queue[0]
            slots = tuple(heapq.heappop(self._free) for _ in range(entry.request.rows))
            sequence = Sequence(entry.request, entry.request.first_index + entry.begun, slots, started=now)
            entry.begun += 1
            entry.running.append(sequence)
            self.running.append(sequence)
            admitted.append(sequence)
            if not entry.waiting:
                self._queue.popleft()
        return admitted

    def revise(self, request_id: str, text_ids: tuple[int, ...]) -> GenerationRequest:
        """A request in flight has another, completed prompt. Returns the request as all its images have it now."""
        entry = self._entries[request_id]
        entry.request = replace(entry.request, text_ids=text_ids, complete=None, revise=False)
        for sequence in entry.running:
            sequence.request = entry.request
        return entry.request

    def drawn(self, sequence: Sequence) -> None:
        """All tokens of a running image are drawn: its slots are free, its picture is to be painted."""
        entry = self._entries[sequence.request.id]
        self._release(entry, sequence)
        entry.drawn.append(sequence)

    def painted(self, sequence: Sequence) -> bool:
        """A drawn image is painted. True when that completes its request, which is then no longer in flight."""
        entry = self._entries[sequence.request.id]
        entry.drawn.remove(sequence)
        entry.painted += 1
        if entry.painted < entry.request.num_images:
            return False
        del self._entries[entry.request.id]
        self.counts.completed += 1
        return True

    def cancel(self, request_id: str) -> bool:
        """Forget a request, waiting or running; its slots are free. False when it is not in flight."""
        if request_id not in self._entries:
            return False
        self._drop(self._entries[request_id])
        self.counts.cancelled += 1
        return True

    def fail(self, request_id: str) -> bool:
        """Forget a request that cannot be finished; its slots are free. False when it is not in flight."""
        if request_id not in self._entries:
            return False
        self._drop(self._entries[request_id])
        self.counts.failed += 1
        return True

    def expire(self, now: float) -> list[Entry]:
        """Forget the requests whose deadline has passed, waiting or running. Returns them, in order of arrival."""
        expired = [entry for entry in self._entries.values() if entry.expired(now)]
        for entry in expired:
            self._drop(entry)
            self.counts.expired += 1
        return expired

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.request.id]
        for sequence in tuple(entry.running):
            self._release(entry, sequence)
        if entry.waiting:
            self._queue.remove(entry)

    def _release(self, entry: Entry, sequence: Sequence) -> None:
        entry.running.remove(sequence)
        self.running.remove(sequence)
        for slot in sequence.slots:
            heapq.heappush(self._free, slot)
        sequence.slots = ()
