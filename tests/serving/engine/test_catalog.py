"""The copy of the registry's pointers is fresh, and still usable while the registry is away."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

import persrep_ray.serving.engine.catalog as catalog_module
from persrep_ray.registry.registry import FILES, Registry
from persrep_ray.serving.engine.answers import AdapterRef
from persrep_ray.serving.engine.catalog import Catalog, matching
from persrep_ray.serving.engine.errors import AdapterUnusableError, RegistryUnavailableError, VersionNotFoundError
from persrep_ray.serving.engine.source import Source
from persrep_ray.storage.store import open_store


def publish(registry: Registry, object_id: str, version: str = "v1", mark: str = "") -> None:
    tensors = save({"mark": np.zeros(1, np.float32)})
    card = json.dumps({"mark": mark or f"{object_id} {version}"}).encode()
    contents = {name: card if name.endswith(".json") else tensors for name in FILES}
    registry.publish(object_id, version, contents)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(open_store(tmp_path / "registry"))
    for object_id in ("cup", "mug"):
        publish(registry, object_id)
    return registry


@pytest.fixture
def catalog(registry: Registry) -> Catalog:
    return Catalog(Source(registry.store.uri), refresh_s=0.001)


class SlowSource(Source):
    """A source whose reads wait while `gate` is closed."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.gate = threading.Event()
        self.gate.set()
        self.scans = 0
        self.scanned = threading.Semaphore(0)

    def live(self) -> dict[str, str]:
        self.scans += 1
        live = super().live()  # what was seen before the wait
        self.scanned.release()
        assert self.gate.wait(10)
        return live

    def card(self, ref: AdapterRef) -> dict[str, Any]:
        assert self.gate.wait(10)
        return super().card(ref)

    def versions(self, object_id: str) -> list[str]:
        assert self.gate.wait(10)
        return super().versions(object_id)

    async def has_scanned(self) -> None:
        assert await asyncio.to_thread(self.scanned.acquire, True, 10)


@pytest.fixture
def slow(registry: Registry) -> SlowSource:
    return SlowSource(registry.store.uri)


def away(registry: Registry) -> Callable[[], object]:
    """The registry's folder disappears; the result brings it back."""
    root = Path(registry.store.uri)
    elsewhere = root.rename(root.with_name("away"))
    return lambda: elsewhere.rename(root)


def pointers(catalog: Catalog) -> dict[str, str | None]:
    return {object_id: catalog.live(object_id) for object_id in catalog.objects([""])}


def test_before_the_first_read_nothing_is_said(catalog: Catalog) -> None:
    assert not catalog.loaded
    calls: list[Callable[[], object]] = [
        lambda: catalog.live("mug"),
        lambda: catalog.objects([""]),
        lambda: catalog.refs(),
    ]
    for call in calls:
        with pytest.raises(RegistryUnavailableError, match="not been read yet"):
            call()


def test_what_is_published_rolled_back_and_deleted_is_seen_with_the_next_refresh(
    registry: Registry, catalog: Catalog
) -> None:
    async def scenario() -> None:
        await catalog.refresh()
        assert catalog.loaded and pointers(catalog) == {"cup": "v1", "mug": "v1"}
        publish(registry, "mug", "v2")
        publish(registry, "jar")
        assert pointers(catalog) == {"cup": "v1", "mug": "v1"}
        await catalog.refresh()
        assert pointers(catalog) == {"cup": "v1", "jar": "v1", "mug": "v2"}
        assert catalog.refs() == (AdapterRef("cup", "v1"), AdapterRef("jar", "v1"), AdapterRef("mug", "v2"))
        registry.make_live("mug", "v1")
        registry.delete("cup")
        await catalog.refresh()
        assert pointers(catalog) == {"jar": "v1", "mug": "v1"} and catalog.live("cup") is None
        assert await catalog.versions("mug") == ["v1", "v2"]

    asyncio.run(scenario())


def test_the_targets_are_the_same_tuple_until_something_changes(registry: Registry, catalog: Catalog) -> None:
    async def scenario() -> None:
        await catalog.refresh()
        before = catalog.refs()
        await catalog.refresh()
        assert catalog.refs() is before
        publish(registry, "mug", "v2")
        await catalog.refresh()
        assert catalog.refs() != before

    asyncio.run(scenario())


def test_while_the_registry_is_away_the_last_copy_counts(registry: Registry, catalog: Catalog) -> None:
    async def scenario() -> None:
        await catalog.refresh()
        await catalog.card("mug", "v1")
        back = away(registry)
        with pytest.raises(RegistryUnavailableError):
            await catalog.refresh()
        assert pointers(catalog) == {"cup": "v1", "mug": "v1"}
        assert await catalog.card("mug", "v1") == {"mark": "mug v1"}  # was read before
        for read in (catalog.card("cup", "v1"), catalog.versions("mug"), catalog.delete("mug")):
            with pytest.raises(RegistryUnavailableError):
                await read
        assert catalog.live("mug") == "v1"
        back()
        publish(registry, "mug", "v2")
        await catalog.refresh()
        assert catalog.live("mug") == "v2"

    asyncio.run(scenario())


def test_a_damaged_pointer_keeps_the_known_version(registry: Registry, catalog: Catalog) -> None:
    async def scenario() -> None:
        await catalog.refresh()
        registry.store.write("live/mug.json", b"{")
        publish(registry, "cup", "v2")
        await catalog.refresh()
        assert pointers(catalog) == {"cup": "v2", "mug": "v1"}

    asyncio.run(scenario())


class TestCards:
    def test_are_those_of_the_version(self, registry: Registry, catalog: Catalog) -> None:
        async def scenario() -> None:
            publish(registry, "mug", "v2")
            assert await catalog.card("mug", "v1") == {"mark": "mug v1"}
            assert await catalog.card("mug", "v2") == {"mark": "mug v2"}
            with pytest.raises(VersionNotFoundError):
                await catalog.card("mug", "v3")
            registry.store.write("objects/cup/versions/v1/card.json", b"{")
            with pytest.raises(AdapterUnusableError):
                await catalog.card("cup", "v1")

        asyncio.run(scenario())

    def test_only_those_used_last_are_kept(self, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(catalog_module, "_CARDS_KEPT", 2)
        catalog = Catalog(Source(registry.store.uri), refresh_s=0.001)

        async def scenario() -> None:
            publish(registry, "jar")
            for object_id in ("mug", "cup", "mug", "jar"):
                await catalog.card(object_id, "v1")
            away(registry)
            for object_id in ("mug", "jar"):
                assert await catalog.card(object_id, "v1") == {"mark": f"{object_id} v1"}
            with pytest.raises(RegistryUnavailableError):
                await catalog.card("cup", "v1")

        asyncio.run(scenario())

    def test_of_a_deleted_object_are_forgotten(self, registry: Registry, catalog: Catalog) -> None:
        async def scenario() -> None:
            await catalog.refresh()
            await catalog.card("mug", "v1")
            await catalog.delete("mug")
            publish(registry, "mug", "v1", mark="another mug")
            assert await catalog.card("mug", "v1") == {"mark": "another mug"}

        asyncio.run(scenario())


class TestDelete:
    def test_is_seen_at_once(self, registry: Registry, catalog: Catalog) -> None:
        async def scenario() -> None:
            await catalog.refresh()
            await catalog.delete("mug")
            assert pointers(catalog) == {"cup": "v1"} and registry.objects() == ["cup"]
            assert catalog.refs() == (AdapterRef("cup", "v1"),)
            publish(registry, "mug", "v2")
            await catalog.refresh()
            assert catalog.live("mug") == "v2"

        asyncio.run(scenario())

    def test_a_scan_that_saw_the_object_does_not_bring_it_back(self, registry: Registry, slow: SlowSource) -> None:
        async def scenario() -> None:
            catalog = Catalog(slow, refresh_s=0.001)
            await catalog.refresh()
            await slow.has_scanned()
            slow.gate.clear()
            scan = asyncio.create_task(catalog.refresh())
            await slow.has_scanned()
            await catalog.delete("mug")
            slow.gate.set()
            await scan
            assert pointers(catalog) == {"cup": "v1"}

        asyncio.run(scenario())


class TestHanging:
    def test_reads_are_errors_within_the_limit(self, slow: SlowSource, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scenario() -> None:
            catalog = Catalog(slow, refresh_s=0.001)
            await catalog.refresh()
            slow.gate.clear()
            monkeypatch.setattr(catalog_module, "_LATE_S", 0.05)
            reads: list[Coroutine[Any, Any, object]] = [
                catalog.card("mug", "v1"),
                catalog.versions("mug"),
                catalog.refresh(),
            ]
            for result in await asyncio.gather(*reads, return_exceptions=True):
                assert isinstance(result, RegistryUnavailableError) and "does not answer" in result.message
            assert catalog.live("mug") == "v1"
            monkeypatch.undo()
            slow.gate.set()
            assert await catalog.card("mug", "v1") == {"mark": "mug v1"}

        asyncio.run(scenario())

    def test_a_slow_scan_goes_on_alone_and_counts_when_it_ends(
        self, slow: SlowSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Else a registry that takes longer than the limit to scan would never be known, and threads would pile up.
        async def scenario() -> None:
            catalog = Catalog(slow, refresh_s=0.001)
            slow.gate.clear()
            monkeypatch.setattr(catalog_module, "_LATE_S", 0.02)
            for _ in range(3):
                with pytest.raises(RegistryUnavailableError):
                    await catalog.refresh()
            assert slow.scans == 1 and not catalog.loaded
            monkeypatch.undo()
            slow.gate.set()
            await catalog.refresh()
            assert slow.scans == 1 and pointers(catalog) == {"cup": "v1", "mug": "v1"}

        asyncio.run(scenario())

    def test_hanging_scans_leave_threads_for_other_reads(self, slow: SlowSource) -> None:
        async def scenario() -> None:
            catalog = Catalog(slow, refresh_s=0.001)
            slow.gate.clear()
            follower = asyncio.create_task(catalog.run())
            await slow.has_scanned()
            await catalog.delete("cup")
            slow.gate.set()
            while not catalog.loaded:
                await asyncio.sleep(0)
            assert catalog.live("mug") == "v1"
            follower.cancel()

        asyncio.run(scenario())


class TestRun:
    def test_follows_the_registry(self, registry: Registry, catalog: Catalog) -> None:
        async def scenario() -> None:
            back = away(registry)
            calls: list[dict[str, str | None]] = []
            changed = asyncio.Event()

            async def then() -> None:
                if not calls or calls[-1] != pointers(catalog):
                    calls.append(pointers(catalog))
                    changed.set()

            follower = asyncio.create_task(catalog.run(then))
            with pytest.raises(RegistryUnavailableError):
                await catalog.refresh()
            assert not catalog.loaded and calls == []
            back()
            for version in ("v2", "v3"):
                await changed.wait()
                changed.clear()
                publish(registry, "mug", version)
            await changed.wait()
            follower.cancel()
            await asyncio.wait([follower])
            assert [one["mug"] for one in calls] == ["v1", "v2", "v3"]

        asyncio.run(asyncio.wait_for(scenario(), 10))

    def test_an_error_of_any_kind_is_said_once_and_survived(
        self, catalog: Catalog, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def scenario() -> None:
            calls = 0
            survived = asyncio.Event()

            async def then() -> None:
                nonlocal calls
                calls += 1
                if calls < 4:
                    raise KeyError("odd")
                survived.set()

            follower = asyncio.create_task(catalog.run(then))
            await survived.wait()
            follower.cancel()
            await asyncio.wait([follower])

        asyncio.run(asyncio.wait_for(scenario(), 10))
        assert [record.message for record in caplog.records] == [
            "registry: 'odd'; serving continues with the last known objects"
        ]


def test_the_pause_grows_with_the_listing_requests(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(Source, "listing_requests", 100)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Catalog(Source(registry.store.uri), refresh_s=1.0).run())
    assert pauses == [100.0]


IDS = sorted(["A-1", "a", "a.b", "a1", "aa", "ab", "ab-1", "b", "cup", "cup-1", "cup_2", "cups", "z", "zz", "_"])


@pytest.mark.parametrize(
    "prefixes",
    [
        [""],
        [],
        ["a"],
        ["cup-"],
        ["cup", "a"],
        ["a", "ab", "ab-1"],  # overlapping
        ["ab-1", "ab", "a", "a"],
        ["", "cup"],
        ["nobody"],
        ["aaa", "zzz", "A"],
        ["cup-1", "cup_2"],
        ["z", "zz", "_"],
        ["a.", "a-", "cup."],
        ["\U0010ffff", "a\U0010ffff", "\ud7ff", "é", "a\x7f", "cup\x80"],  # no id has these characters
    ],
)
def test_matching_equals_a_plain_search(prefixes: list[str]) -> None:
    parts = matching(IDS, prefixes)
    found = [object_id for part in parts for object_id in IDS[part]]
    assert found == [object_id for object_id in IDS if any(object_id.startswith(prefix) for prefix in prefixes)]


def test_objects_are_sorted_whatever_the_order_of_the_prefixes(registry: Registry, catalog: Catalog) -> None:
    async def scenario() -> None:
        for object_id in ("cup-2", "bowl", "mug-1"):
            publish(registry, object_id)
        await catalog.refresh()
        assert list(catalog.objects(["mug", "cup-"])) == ["cup-2", "mug", "mug-1"]
        assert list(catalog.objects([""])) == ["bowl", "cup", "cup-2", "mug", "mug-1"]
        assert list(catalog.objects([])) == []

    asyncio.run(scenario())
