"""Sends a request to the replica that the front has chosen. Imported by Ray Serve only."""

from __future__ import annotations

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class ChosenRouter(RequestRouter):  # type: ignore[misc]  # Ray has no types here
    """A request goes to the replica that its session names, if that lives, else to one with few requests."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replicas to be tried, in ranks."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # between two rounds
        name = pending_request.metadata.session_id
        return [[one for one in candidate_replicas if one.replica_id.unique_id == name], candidate_replicas]
