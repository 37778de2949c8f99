"""A registry of the layout before format 2: never silently empty, and brought into the present layout in place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers.versions import mark_of, version_files

from persrep_ray.registry.migration import migrate
from persrep_ray.registry.registry import Registry, RegistryError


def test_every_operation_names_the_command_that_migrates(earlier: Registry) -> None:
    before = list(earlier.store.list())
    calls: list[Callable[[], object]] = [
        earlier.exists,
        earlier.objects,
        earlier.live,
        earlier.pointers,
        lambda: earlier.current("mug"),
        lambda: earlier.current("nobody"),
        lambda: earlier.versions("mug"),
        lambda: earlier.card("mug"),
        lambda: earlier.files("mug", "v1"),
        lambda: earlier.local_copy("mug"),
        lambda: earlier.publish("mug", "v2", version_files(2)),
        lambda: earlier.make_live("mug", "v1"),
        lambda: earlier.delete("mug"),
    ]
    for call in calls:
        with pytest.raises(RegistryError, match=f"persrep objects migrate --registry {earlier.store.uri}$"):
            call()
    assert list(earlier.store.list()) == before


def test_migrating_keeps_versions_and_what_is_live(earlier: Registry) -> None:
    assert migrate(earlier) == 2
    assert earlier.live() == {"cup": "v2", "mug": "v1"}
    assert earlier.versions("cup") == ["v1", "v2"]
    assert mark_of(earlier, "cup", "v1") == 1 and mark_of(earlier, "cup") == 2 and mark_of(earlier, "mug") == 3
    assert not [entry.key for entry in earlier.store.list() if "current" in entry.key or "incoming" in entry.key]
    assert list(earlier.store.list("trash/")) == []


def test_migrating_again_changes_nothing(earlier: Registry) -> None:
    migrate(earlier)
    earlier.delete("mug")
    earlier.publish("cup", "v3", version_files(4))
    before = list(earlier.store.list())
    assert migrate(earlier) == 1 and migrate(Registry(earlier.store)) == 1
    assert list(earlier.store.list()) == before


@pytest.mark.parametrize(
    ("pointer", "cause"),
    [(b"{", "current.json: "), (b'{"version": "../x"}', "bad version"), (b'{"version": "v9"}', "v9 is incomplete")],
)
def test_a_pointer_that_is_no_use_is_named(earlier: Registry, pointer: bytes, cause: str) -> None:
    earlier.store.write("objects/mug/current.json", pointer)
    with pytest.raises(RegistryError, match=f"object mug: .*{cause}"):
        migrate(earlier)
    with pytest.raises(RegistryError, match="persrep objects migrate"):
        earlier.objects()
    earlier.store.delete("objects/mug/current.json")
    assert migrate(earlier) == 1 and earlier.live() == {"cup": "v2"}


def test_a_place_without_a_registry_does_not_become_one(registry: Registry) -> None:
    with pytest.raises(RegistryError, match=r"there is no registry in .*registry"):
        migrate(registry)
    assert not registry.exists()
