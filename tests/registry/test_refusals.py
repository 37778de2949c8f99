"""Hostile names, files that are not what they should be, damage, and registries of another layout."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.versions import mark_of, version_files
from safetensors.numpy import save

from persrep_ray.registry.registry import Registry, RegistryError
from persrep_ray.storage.store import StorageError, Store, open_store

HOSTILE_NAMES = ["", ".", "..", "../mug", "a/b", "/etc", "mug\n", "mug\0", "mü", "a b", "x" * 129, None, 7]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_touch_nothing(tmp_path: Path, name: Any) -> None:
    (tmp_path / "mug").mkdir()
    registry = Registry(open_store(tmp_path / "registry"))
    calls: list[Callable[[], object]] = [
        lambda: registry.publish(name, "v1", version_files(1)),
        lambda: registry.publish("mug", name or "", version_files(1)),
        lambda: registry.make_live(name, "v1"),
        lambda: registry.current(name),
        lambda: registry.versions(name),
        lambda: registry.files(name),
        lambda: registry.files("mug", name or ""),
        lambda: registry.local_copy(name),
        lambda: registry.card(name),
        lambda: registry.delete(name),
    ]
    for call in calls:
        with pytest.raises(RegistryError, match=r"bad object id|bad version"):
            call()
    assert os.listdir(tmp_path) == ["mug"]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"card.json": None}, "missing files .*card.json"),
        ({"adapter_model.bin": b""}, "unexpected files .*adapter_model.bin"),
        ({"../card.json": b"{}"}, "unexpected files"),
        ({"card.json": b"{"}, "card.json: "),
        ({"card.json": b"[]"}, "card.json: expected a JSON object, got list"),
        ({"card.json": b"[" * 100_000}, "card.json: nested too deeply"),
        ({"card.json": b"\xff\xfe\xff"}, "card.json: "),
        ({"adapter_model.safetensors": pickle.dumps({"weight": 1})}, "adapter_model.safetensors: "),
        ({"prototypes.safetensors": save({"mark": np.zeros(8)})[:-1]}, "prototypes.safetensors: "),
        ({"prototypes.safetensors": Path("/nowhere")}, "prototypes.safetensors: /nowhere is not a file"),
        ({"prototypes.safetensors": Path("/dev/zero")}, "prototypes.safetensors: /dev/zero is not a file"),
    ],
)
def test_bad_files_change_nothing(registry: Registry, change: dict[str, Any], cause: str) -> None:
    registry.publish("mug", "v1", version_files(1))
    before = list(registry.store.list())
    files = {name: content for name, content in {**version_files(2), **change}.items() if content is not None}
    with pytest.raises(RegistryError, match=f"object mug, version v2: .*{cause}"):
        registry.publish("mug", "v2", files)
    assert list(registry.store.list()) == before


def test_a_fifo_as_source_does_not_block(folder: Registry, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RegistryError, match="is not a file"):
        folder.publish("mug", "v1", {**version_files(1), "card.json": tmp_path / "pipe"})


def test_symbolic_links_lead_nowhere(folder: Registry, tmp_path: Path) -> None:
    outside = Registry(open_store(tmp_path / "outside"))
    outside.publish("mug", "v1", version_files(1))
    folder.publish("mug", "v1", version_files(2))
    versions = Path(folder.store.uri, "objects/mug/versions")
    (versions / "v2").symlink_to(outside.local_copy("mug"))
    for read in (folder.files, folder.local_copy):
        with pytest.raises(StorageError, match="symbolic link"):
            read("mug", "v2")
    assert folder.versions("mug") == ["v1"]
    folder.delete("mug")
    assert mark_of(outside, "mug") == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"version": "../../x", "deletions": 0}',
        '{"version": 3, "deletions": 0}',
        '{"version": "..", "deletions": 0}',
        '{"version": "v1"}',
        '{"version": "v1", "deletions": -1}',
        '{"version": "v1", "deletions": true}',
    ],
)
def test_a_damaged_pointer_is_named_and_mended_by_publishing(registry: Registry, text: str) -> None:
    registry.publish("mug", "v1", version_files(1))
    registry.store.write("live/mug.json", text.encode())
    for call in (lambda: registry.current("mug"), lambda: registry.files("mug"), registry.objects):
        with pytest.raises(RegistryError, match=r"object mug: .*live/mug\.json: "):
            call()
    assert mark_of(registry, "mug", "v1") == 1
    registry.publish("mug", "v1", version_files(2))
    assert registry.current("mug") == "v1" and mark_of(registry, "mug") == 1


def test_an_object_with_a_damaged_pointer_can_be_deleted(registry: Registry) -> None:
    registry.publish("mug", "v1", version_files(1))
    registry.store.write("live/mug.json", b"{")
    registry.delete("mug")
    assert registry.objects() == [] and list(registry.store.list("objects/")) == []
    registry.publish("mug", "v1", version_files(2))
    assert mark_of(registry, "mug") == 2


@pytest.mark.parametrize(
    ("marker", "cause"), [(b'{"format": 3}', "format 3 is unknown, expected 2"), (b"{", "registry.json: ")]
)
def test_a_registry_of_another_format_is_refused(store: Store, marker: bytes, cause: str) -> None:
    Registry(store).publish("mug", "v1", version_files(1))
    store.write("registry.json", marker)
    registry = Registry(store)
    for call in every_operation(registry):
        with pytest.raises(RegistryError, match=cause):
            call()


def every_operation(registry: Registry) -> list[Callable[[], object]]:
    return [
        registry.exists,
        registry.objects,
        registry.pointers,
        lambda: registry.current("mug"),
        lambda: registry.versions("mug"),
        lambda: registry.card("mug"),
        lambda: registry.files("mug", "v1"),
        lambda: registry.local_copy("mug"),
        lambda: registry.publish("mug", "v2", version_files(2)),
        lambda: registry.make_live("mug", "v1"),
        lambda: registry.delete("mug"),
    ]
