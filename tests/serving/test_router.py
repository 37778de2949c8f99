"""The order in which the encoders are asked about an object, on Ray's own hash ring."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve.request_router import PendingRequest

from persrep_ray.serving.router import EncoderRouter

ENCODERS = DeploymentID("encoder", "persrep")
OBJECTS = [f"mug-{number}" for number in range(50)]


def encoder(name: str) -> Any:
    async def no_queue(*, deadline_s: float) -> int:
        return 0

    return SimpleNamespace(replica_id=ReplicaID(name, ENCODERS), max_ongoing_requests=8, get_queue_len=no_queue)


def orders(names: str, sessions: list[str]) -> list[str]:
    """For each session, the names of the encoders in the order in which they are asked; a name is a letter."""

    async def order(router: EncoderRouter, session: str) -> str:
        request = PendingRequest([], {}, RequestMetadata("request", "internal", session_id=session))
        ranks = await router.choose_replicas(list(router.curr_replicas.values()), request)
        assert request.metadata.session_id == session, "a request that is routed again keeps its place"
        return "".join(replica.replica_id.unique_id for (replica,) in ranks)

    async def scenario() -> list[str]:
        router = EncoderRouter(ENCODERS, DeploymentHandleSource.REPLICA)
        router.initialize_state(num_fallback_replicas=len(names))
        router.update_replicas([encoder(name) for name in names])
        return [await order(router, session) for session in sessions]

    return asyncio.run(scenario())


@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_place_skips_the_encoders_before_it(place: int) -> None:
    firsts = orders("abcd", OBJECTS)
    rotated = [order[place:] + order[:place] for order in firsts]
    assert orders("abcd", [f"{object_id}/{place}" for object_id in OBJECTS]) == rotated
    assert {order[0] for order in firsts} == set("abcd"), "the objects are shared out"


def test_who_answered_before_follows_an_encoder_that_joins() -> None:
    before, after = orders("abc", OBJECTS), orders("abcd", OBJECTS)
    assert [order.replace("d", "") for order in after] == before
    assert any(order[0] == "d" for order in after)


def test_a_place_beyond_the_last_encoder_is_any_encoder() -> None:
    assert orders("a", ["mug", "mug/1", "mug/7"]) == ["a"] * 3


def test_a_query_about_no_object_may_go_to_any_encoder() -> None:
    assert sorted(orders("abc", [""])[0]) == ["a", "b", "c"]
