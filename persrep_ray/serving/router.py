"""Which encoder answers a query."""

from __future__ import annotations

from dataclasses import replace

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.request_router import PendingRequest, RunningReplica


class EncoderRouter(ConsistentHashRouter):
    """Consistent hashing in which the session "mug/2" prefers the second encoder after that of the session "mug".

    The hash ring puts the encoders in an order for each object. An encoder that joins is inserted into that order, so
    whoever answered an object's queries before comes after the newcomers. Ray pickles this class by value.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return await super().choose_replicas(candidate_replicas)
        object_id, _, place = pending_request.metadata.session_id.partition("/")
        request = replace(pending_request, metadata=replace(pending_request.metadata, session_id=object_id))
        ranked = await super().choose_replicas(candidate_replicas, request)
        first = int(place or 0)
        return ranked[first:] + ranked[:first]
