"""Which replica answers a request. Imported by Ray Serve only."""

from __future__ import annotations

import hashlib

from ray.serve._private.request_router import PowerOfTwoChoicesRequestRouter
from ray.serve.request_router import PendingRequest, RunningReplica


class KeyedRouter(PowerOfTwoChoicesRequestRouter):  # type: ignore[misc]  # Ray has no types here
    """Requests with the same key go to the same replica, as long as it lives: rendezvous hashing. Others go to the one
    that has less to do."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replicas to be tried, in ranks."""
        key = pending_request.metadata.session_id if pending_request is not None else ""
        if not key:
            ranks: list[list[RunningReplica]] = await super().choose_replicas(candidate_replicas, pending_request)
            return ranks

        def weight(replica: RunningReplica) -> bytes:
            return hashlib.sha256(f"{key} {replica.replica_id.unique_id}".encode()).digest()

        return [[replica] for replica in sorted(candidate_replicas, key=weight)]
