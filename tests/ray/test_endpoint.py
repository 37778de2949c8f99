"""A real endpoint under load: new versions go live, and lost, killed or damaged parts fail no other query."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from helpers.served import (
    DiscPublisher,
    Endpoint,
    Query,
    ask,
    disc_png,
    noise_png,
    running_endpoint,
    under_load,
    wait_until,
)

OBJECTS = 6
LIVE_WITHIN_S = 5
JOINED_S = 5  # time for queries after an encoder has joined


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> DiscPublisher:
    folder = tmp_path_factory.mktemp("published")
    publisher = DiscPublisher(folder / "vit", folder / "registry")
    for number in range(OBJECTS):
        publisher.publish(number)
    return publisher


@pytest.fixture(scope="module")
def endpoint(
    publisher: DiscPublisher, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Endpoint]:
    """Two replicas of each deployment, so that one can be lost."""
    settings = [
        *("encoder.min_replicas=2", "encoder.cpus_per_replica=0.5"),
        *("http.replicas=2", "http.timeout_s=60", "refresh_s=0.5"),
    ]
    folder = tmp_path_factory.mktemp("endpoint")
    with running_endpoint(publisher.registry.store.uri, environment, folder, settings=settings) as endpoint:
        yield endpoint


def queries(task: str = "classify") -> list[Query]:
    return [Query(f"disc_{number}", disc_png(number), task) for number in range(OBJECTS)]


def get(url: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def ask_once(endpoint: Endpoint, query: Query) -> tuple[int, dict[str, Any], str]:
    async def run() -> tuple[int, dict[str, Any], str]:
        async with aiohttp.ClientSession() as session:
            return await ask(session, endpoint.url, query)

    return asyncio.run(run())


def everywhere(holds: Callable[[], bool]) -> bool:
    """Whether it holds for both ingress replicas, each of which has its own copy of the pointers."""
    return all(holds() for _ in range(8))


@pytest.mark.parametrize("deployment", ["encoder", "ingress"])
def test_a_killed_replica_fails_no_request(endpoint: Endpoint, deployment: str) -> None:
    before = endpoint.replicas(deployment)
    assert len(before) == 2

    def kill_one() -> None:
        time.sleep(2)  # requests are under way then
        os.kill(before[0], signal.SIGKILL)
        endpoint.wait_until_replaced(deployment, before[0])

    # Some images are larger than any buffer that a proxy has by default.
    loads = [*queries(), *queries("segment"), Query("disc_0", noise_png(700))]
    answers = under_load(endpoint.url, loads, kill_one)
    assert {status for _, status, _ in answers} == {200}, answers
    assert sum(answers.values()) > 50


def test_a_version_goes_live_under_load_without_a_failed_request(endpoint: Endpoint, publisher: DiscPublisher) -> None:
    seen_after = []

    def publish_and_wait() -> None:
        publisher.publish(0, "v2")
        started = time.monotonic()
        wait_until(lambda: ask_once(endpoint, queries()[0])[2] == "v2")
        seen_after.append(time.monotonic() - started)

    answers = under_load(endpoint.url, queries(), publish_and_wait, clients=4)
    assert {status for _, status, _ in answers} == {200}, answers
    assert seen_after[0] < LIVE_WITHIN_S


def test_rollback_and_a_pinned_version(endpoint: Endpoint, publisher: DiscPublisher) -> None:
    publisher.publish(1, "v2")
    query = queries()[1]
    wait_until(lambda: ask_once(endpoint, query)[2] == "v2")
    pinned = ask_once(endpoint, Query("disc_1", query.image, "classify?version=v1"))
    assert (pinned[0], pinned[2]) == (200, "v1")
    publisher.registry.make_live("disc_1", "v1")
    wait_until(lambda: ask_once(endpoint, query)[2] == "v1")
    back = ask_once(endpoint, Query("disc_1", query.image, "classify?version=v1"))
    assert back[1]["score"] == pytest.approx(pinned[1]["score"], abs=1e-4)
    assert ask_once(endpoint, Query("disc_1", query.image, "classify?version=v2"))[1]["score"] != back[1]["score"]
    missing = ask_once(endpoint, Query("disc_1", query.image, "classify?version=v9"))
    assert (missing[0], missing[1]["error"]["code"]) == (404, "version_not_found")


def test_a_damaged_adapter_is_an_error_for_its_own_queries_alone(endpoint: Endpoint, publisher: DiscPublisher) -> None:
    publisher.publish(50)
    damaged = publisher.registry.local_copy("disc_50") / "adapter_model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    broken = Query("disc_50", disc_png(50))
    wait_until(lambda: everywhere(lambda: ask_once(endpoint, broken)[0] != 404))
    answers = under_load(endpoint.url, [broken, *queries()], lambda: time.sleep(2), clients=8)
    said = {(object_id == "disc_50", status) for object_id, status, _ in answers}
    assert said == {(True, 503), (False, 200)}, answers
    assert {code for object_id, _, code in answers if object_id == "disc_50"} == {"adapter_unusable"}
    publisher.registry.delete("disc_50")


def test_published_and_deleted_under_load(endpoint: Endpoint, publisher: DiscPublisher) -> None:
    come_and_go = Query("disc_60", disc_png(60))

    def publish_and_delete() -> None:
        for _ in range(3):
            publisher.publish(60)
            wait_until(lambda: ask_once(endpoint, come_and_go)[0] == 200)
            publisher.registry.delete("disc_60")
            wait_until(lambda: get(f"{endpoint.url}/v1/objects/disc_60")[0] == 404)

    answers = under_load(endpoint.url, [come_and_go, *queries()], publish_and_delete, clients=6)
    assert {status for object_id, status, _ in answers if object_id != "disc_60"} == {200}, answers
    assert {status for object_id, status, _ in answers if object_id == "disc_60"} == {200, 404}, answers


def test_with_the_registry_out_of_reach_what_is_in_memory_goes_on(endpoint: Endpoint, publisher: DiscPublisher) -> None:
    """Even if an encoder joins meanwhile, and takes over objects whose adapters it cannot read."""
    publisher.publish(70)  # in no encoder's memory
    unknown = Query("disc_70", disc_png(70))
    wait_until(lambda: everywhere(lambda: get(f"{endpoint.url}/v1/objects/disc_70")[0] == 200))
    lost = endpoint.replicas("encoder")[0]
    os.kill(lost, signal.SIGKILL)
    for query in queries():  # the other encoder answers them all, unless the new one is there already
        assert ask_once(endpoint, query)[0] == 200
    root = Path(publisher.registry.store.uri)
    away = root.with_name("away")

    def outage() -> None:
        endpoint.wait_until_replaced("encoder", lost)
        time.sleep(JOINED_S)

    root.rename(away)
    try:
        answers = under_load(endpoint.url, [unknown, *queries()], outage, clients=4)
    finally:
        away.rename(root)
    assert {status for object_id, status, _ in answers if object_id != "disc_70"} == {200}, answers
    assert {(s, code) for object_id, s, code in answers if object_id == "disc_70"} == {(503, "registry_unavailable")}
    wait_until(lambda: ask_once(endpoint, unknown)[0] == 200)


def test_an_object_as_it_was_published(endpoint: Endpoint) -> None:
    status, card = get(f"{endpoint.url}/v1/objects/disc_2")
    assert (status, card["version"], card["threshold"]) == (200, "v1", 0.85)
    assert card["calibration"]["slope"] == 20.0


def test_identify_finds_the_object(endpoint: Endpoint) -> None:
    async def identify() -> tuple[int, dict[str, Any]]:
        async with aiohttp.ClientSession() as session:
            image = disc_png(3)
            async with session.post(
                f"{endpoint.url}/v1/identify?top_k=1&exact=true", data=image, headers={"Content-Type": "image/png"}
            ) as answer:
                return answer.status, await answer.json()

    status, found = asyncio.run(identify())
    assert status == 200
    assert found["searched"] >= OBJECTS
    assert [one["object_id"] for one in found["candidates"]] == ["disc_3"]
