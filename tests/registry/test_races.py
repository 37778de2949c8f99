"""Publishers, deleters and readers of one object at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from helpers.versions import Interrupted, mark_of, version_files

import persrep_ray.registry.registry as registry_module
from persrep_ray.registry.pointers import Pointer, Pointers
from persrep_ray.registry.registry import NotPublishedError, Registry, RegistryError
from persrep_ray.storage.store import Store, open_store

RACES = 200


def at_once(actions: Sequence[Callable[[], object]]) -> None:
    """Runs the actions in threads that start together; raises the first error."""
    barrier = threading.Barrier(len(actions))
    errors: list[Exception] = []

    def run(action: Callable[[], object]) -> None:
        barrier.wait()
        try:
            action()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=[action]) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def interrupted(store: Store, operation: str, ending: str, meanwhile: Callable[[Registry], object]) -> Registry:
    """A registry whose first `operation` on a key with this ending finds that `meanwhile` has happened."""
    return Registry(Interrupted(store, operation, ending, lambda: meanwhile(Registry(store))))


def test_of_two_publishers_one_wins_each_pointer_and_the_other_comes_after_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    won: list[str] = []
    swap = Pointers.swap

    def recorded(pointers: Pointers, object_id: str, old: Pointer, version: str | None, deletions: int) -> bool:
        has_won = swap(pointers, object_id, old, version, deletions)
        if has_won and old.version == "v0":
            won.append(str(version))
        return has_won

    publishers = [Registry(open_store(store.uri)) for _ in range(2)]
    for number in (1, 2, 0):
        publishers[0].publish("mug", f"v{number}", version_files(number))
    monkeypatch.setattr(Pointers, "swap", recorded)
    for race in range(RACES):
        publishers[0].make_live("mug", "v0")
        at_once([partial(publishers[i].publish, "mug", f"v{i + 1}", version_files(i + 1)) for i in range(2)])
        assert len(won) == race + 1
        assert {won[-1], publishers[0].current("mug")} == {"v1", "v2"}
    assert [mark_of(publishers[0], "mug", f"v{number}") for number in range(3)] == [0, 1, 2]


def test_two_first_publishers_of_two_versions_leave_both_whole(store: Store) -> None:
    publishers = [Registry(open_store(store.uri)) for _ in range(2)]
    for object_id in ("cup", "jar", "mug"):
        at_once([partial(publishers[i].publish, object_id, f"v{i}", version_files(i)) for i in range(2)])
        assert publishers[0].current(object_id) in ("v0", "v1")
        assert [mark_of(publishers[0], object_id, f"v{i}") for i in range(2)] == [0, 1]


def test_of_many_publishers_of_one_version_one_wins(store: Store) -> None:
    for attempt in range(3):
        at_once([partial(Registry(store).publish, f"mug_{attempt}", "v1", version_files(i)) for i in range(6)])
        assert mark_of(Registry(store), f"mug_{attempt}") in range(6)
        assert Registry(store).versions(f"mug_{attempt}") == ["v1"]


@pytest.mark.parametrize("name", ["adapter_config.json", "card.json"])
def test_the_loser_of_the_race_keeps_the_winners_files(store: Store, name: str) -> None:
    loser = interrupted(store, "write_if", name, lambda other: other.publish("mug", "v1", version_files(1)))
    files = {**version_files(1), "card.json": b'{"mark": 2}'} if name == "card.json" else version_files(2)
    loser.publish("mug", "v1", files)
    assert mark_of(Registry(store), "mug") == 1


def test_a_version_that_a_dead_publisher_began_is_completed_with_the_same_files_only(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "_PATIENCE_S", 0.0)
    store.write_if("objects/mug/versions/v1/adapter_config.json", version_files(1)["adapter_config.json"], None)
    with pytest.raises(RegistryError, match=r"object mug, version v1: .* is incomplete and has other files"):
        Registry(store).publish("mug", "v1", version_files(2))
    assert Registry(store).current("mug") is None
    Registry(store).publish("mug", "v1", version_files(1))
    assert mark_of(Registry(store), "mug") == 1


@pytest.mark.parametrize("name", ["adapter_config.json", "card.json", "live/mug.json"])
def test_a_publisher_that_is_overtaken_by_a_deleter_publishes_all_the_same(store: Store, name: str) -> None:
    Registry(store).publish("mug", "v1", version_files(1))
    interrupted(store, "write_if", name, lambda other: other.delete("mug")).publish("mug", "v2", version_files(2))
    assert Registry(store).versions("mug") == ["v2"] and mark_of(Registry(store), "mug") == 2


def test_a_slow_deleter_leaves_what_is_published_meanwhile(store: Store) -> None:
    Registry(store).publish("mug", "v1", version_files(1))

    def publish(other: Registry) -> None:
        assert other.current("mug") is None
        other.publish("mug", "v1", version_files(2))

    interrupted(store, "delete_all", "", publish).delete("mug")
    assert Registry(store).versions("mug") == ["v1"] and mark_of(Registry(store), "mug") == 2


def test_a_deleter_deletes_what_was_published_while_it_began(store: Store) -> None:
    Registry(store).publish("mug", "v1", version_files(1))
    deleter = interrupted(
        store, "write_if", "live/mug.json", lambda other: other.publish("mug", "v2", version_files(2))
    )
    deleter.delete("mug")
    assert Registry(store).current("mug") is None and list(store.list("objects/")) == []


def test_a_version_that_is_deleted_and_published_anew_while_it_is_read(store: Store) -> None:
    Registry(store).publish("mug", "v1", version_files(1))

    def replace(other: Registry) -> None:
        other.delete("mug")
        other.publish("mug", "v1", version_files(2))

    assert mark_of(interrupted(store, "read", "card.json", replace), "mug", "v1") == 2
    reader = interrupted(store, "read", "card.json", lambda other: other.delete("mug"))
    with pytest.raises(NotPublishedError, match="object mug: no version v1"):
        reader.files("mug", "v1")


def test_rolling_back_while_the_object_is_deleted(store: Store) -> None:
    for version in ("v1", "v2"):
        Registry(store).publish("mug", version, version_files(1))
    late = interrupted(store, "write_if", "live/mug.json", lambda other: other.delete("mug"))
    with pytest.raises(NotPublishedError, match="object mug: no version v1"):
        late.make_live("mug", "v1")
    assert Registry(store).objects() == []


def test_two_swaps_without_end_are_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def loses(*_: Any) -> bool:
        return False

    monkeypatch.setattr(Pointers, "swap", loses)
    with pytest.raises(RegistryError, match="object mug, version v1: publishing failed: too many other publishers"):
        Registry(store).publish("mug", "v1", version_files(1))
