"""Absent, damaged and unreachable are told apart, in a folder and in S3."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.s3 import s3, s3_proxy
from helpers.s3_server import FaultyS3
from safetensors.numpy import save

import persrep_ray.serving.engine.source as source_module
from persrep_ray.registry.registry import FILES, Registry
from persrep_ray.serving.engine.answers import AdapterRef
from persrep_ray.serving.engine.errors import (
    AdapterUnusableError,
    QueryError,
    RegistryUnavailableError,
    VersionNotFoundError,
)
from persrep_ray.serving.engine.source import Source
from persrep_ray.storage import s3 as s3_store
from persrep_ray.storage.local import LocalStore
from persrep_ray.storage.store import AccessError, StorageError, open_store

__all__ = ["s3", "s3_proxy"]

MUG = AdapterRef("mug", "v1")


def files(mark: str) -> dict[str, bytes]:
    tensors = save({"mark": np.frombuffer(mark.encode(), np.uint8)})
    text = json.dumps({"mark": mark}).encode()
    return {name: text if name.endswith(".json") else tensors for name in FILES}


def published(location: str) -> Registry:
    registry = Registry(open_store(location))
    registry.publish("mug", "v1", files("mug v1"))
    registry.publish("cup", "v1", files("cup v1"))
    return registry


@pytest.fixture(params=["folder", "s3"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    if request.param == "folder":
        return published(str(tmp_path / "registry"))
    return published(f"{request.getfixturevalue('s3').uri}/registry")


@pytest.fixture
def folder(tmp_path: Path) -> Registry:
    return published(str(tmp_path / "registry"))


@pytest.fixture
def source(registry: Registry) -> Source:
    return Source(registry.store.uri)


def reads(source: Source) -> dict[str, Callable[[], object]]:
    return {
        "live": source.live,
        "versions": lambda: source.versions("mug"),
        "card": lambda: source.card(MUG),
        "files": lambda: source.files(MUG),
        "delete": lambda: source.delete("mug"),
    }


def refuse(monkeypatch: pytest.MonkeyPatch, ending: str, error: type[StorageError]) -> None:
    """Makes reading files whose key ends so fail. (Tests may run as root, for whom file modes do not count.)"""
    for name in ("read", "read_tagged"):
        original = getattr(LocalStore, name)

        def guarded(
            store: LocalStore, key: str, original: Callable[..., object] = original, **options: object
        ) -> object:
            if key.endswith(ending):
                raise error(f"read {store.url(key)}: no")
            return original(store, key, **options)

        monkeypatch.setattr(LocalStore, name, guarded)


class TestLive:
    def test_gives_the_live_versions(self, registry: Registry, source: Source) -> None:
        assert source.live() == {"mug": "v1", "cup": "v1"}
        registry.publish("mug", "v2", files("mug v2"))
        registry.publish("jar", "v1", files("jar v1"))
        registry.delete("cup")
        assert source.live() == {"mug": "v2", "jar": "v1"}
        registry.make_live("mug", "v1")
        assert source.live() == {"mug": "v1", "jar": "v1"}

    def test_leaves_out_what_is_no_object(self, registry: Registry, source: Source) -> None:
        for key in ("live/half", "live/not an id.json", "live/a/b.json", "objects/jar/versions/v1/card.json"):
            registry.store.write(key, b'{"version": "v1", "deletions": 0}')
        assert source.live() == {"mug": "v1", "cup": "v1"}

    @pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"version": "../../x"}', b'{"version": 3}'])
    def test_a_damaged_pointer_leaves_what_was_known(
        self, registry: Registry, source: Source, text: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        source.live()
        for object_id in ("mug", "jar"):
            registry.store.write(f"live/{object_id}.json", text)
        for _ in range(2):
            assert source.live() == {"mug": "v1", "cup": "v1"}  # nothing was known of the jar
        assert len(caplog.records) == 2 and "version v1 stays live" in caplog.text
        registry.publish("mug", "v2", files("mug v2"))
        assert source.live() == {"mug": "v2", "cup": "v1"}

    @pytest.mark.parametrize("error", [StorageError, AccessError])
    def test_an_object_whose_pointer_cannot_be_read_disturbs_no_other(
        self, folder: Registry, error: type[StorageError], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = Source(folder.store.uri)
        source.live()
        folder.publish("mug", "v2", files("mug v2"))
        folder.publish("cup", "v2", files("cup v2"))
        with monkeypatch.context() as patch:
            refuse(patch, "live/mug.json", error)
            for _ in range(2):
                assert source.live() == {"mug": "v1", "cup": "v2"}
        assert source.live() == {"mug": "v2", "cup": "v2"}

    @pytest.mark.parametrize("error", [StorageError, AccessError])
    def test_failing_storage_is_not_mistaken_for_deleted_objects(
        self, folder: Registry, error: type[StorageError], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = Source(folder.store.uri)
        with monkeypatch.context() as patch:
            refuse(patch, ".json", error)
            for _ in range(2):
                with pytest.raises(RegistryUnavailableError):
                    source.live()
        assert source.live() == {"mug": "v1", "cup": "v1"}

    def test_listing_requests_grow_with_the_objects_in_s3(
        self, registry: Registry, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert source.listing_requests == 1
        monkeypatch.setattr(source_module, "_PAGE", 2)
        registry.publish("jar", "v1", files("jar v1"))
        source.live()
        assert source.listing_requests == (2 if registry.store.uri.startswith("s3://") else 1)


@pytest.mark.parametrize("name", ["live", "versions", "card", "files", "delete"])
class TestUnreachable:
    def test_a_folder_that_is_away_is_no_empty_registry(self, folder: Registry, name: str) -> None:
        source, root = Source(folder.store.uri), Path(folder.store.uri)
        source.live()
        root.rename(root.with_name("away"))
        with pytest.raises(RegistryUnavailableError):
            reads(source)[name]()
        root.mkdir()  # the mount point without its mount
        with pytest.raises(RegistryUnavailableError):
            reads(source)[name]()
        root.rmdir()
        root.with_name("away").rename(root)
        reads(source)[name]()

    @pytest.mark.parametrize("kind", ["SlowDown", "reset", "AccessDenied", "ExpiredToken", "NoSuchBucket"])
    def test_s3_that_fails(self, s3: FaultyS3, name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(s3_store, "ATTEMPTS", 2)
        source = Source(published(f"{s3.uri}/registry").store.uri)
        source.live()
        is_down = threading.Event()
        is_down.set()
        s3.fail(kind, times=1000, when=lambda _: is_down.is_set())
        with pytest.raises(RegistryUnavailableError) as raised:
            reads(source)[name]()
        assert "/" not in raised.value.message
        is_down.clear()
        reads(source)[name]()

    def test_a_registry_of_the_earlier_layout(self, folder: Registry, name: str) -> None:
        folder.store.delete("registry.json")
        folder.store.write("objects/mug/current.json", b'{"version": "v1"}')
        with pytest.raises(RegistryUnavailableError) as raised:
            reads(Source(folder.store.uri))[name]()
        assert "persrep objects migrate" in str(raised.value.__cause__)

    def test_messages_name_no_path(self, folder: Registry, name: str) -> None:
        source, root = Source(folder.store.uri), Path(folder.store.uri)
        root.rename(root.with_name("away"))
        with pytest.raises(RegistryUnavailableError) as raised:
            reads(source)[name]()
        assert "/" not in raised.value.message


def test_a_folder_that_goes_away_while_it_is_scanned(folder: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    source, root = Source(folder.store.uri), Path(folder.store.uri)
    listed = LocalStore.list

    def gone_after_the_listing(store: LocalStore, prefix: str = "") -> object:
        entries = list(listed(store, prefix))
        monkeypatch.undo()
        root.rename(root.with_name("away"))
        return iter(entries)

    monkeypatch.setattr(LocalStore, "list", gone_after_the_listing)
    with pytest.raises(RegistryUnavailableError):
        source.live()


class TestFiles:
    def test_are_those_of_the_version(self, registry: Registry, source: Source) -> None:
        registry.publish("mug", "v2", files("mug v2"))
        assert source.files(MUG) == files("mug v1")
        assert source.files(AdapterRef("mug", "v2"), ("card.json",)) == {"card.json": b'{"mark": "mug v2"}'}
        assert source.card(MUG) == {"mark": "mug v1"}
        assert source.versions("mug") == ["v1", "v2"] and source.versions("nobody") == []

    @pytest.mark.parametrize("ref", [AdapterRef("mug", "v9"), AdapterRef("nobody", "v1")])
    def test_an_absent_version(self, source: Source, ref: AdapterRef) -> None:
        for read in (source.card, source.files):
            with pytest.raises(VersionNotFoundError, match=f"object {ref.object_id}, version {ref.version}"):
                read(ref)

    def test_a_version_that_is_deleted_while_it_is_read(
        self, folder: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = LocalStore.read

        def too_late(store: LocalStore, key: str, **options: object) -> bytes:
            monkeypatch.undo()
            folder.delete("mug")
            return read(store, key)

        monkeypatch.setattr(LocalStore, "read", too_late)
        with pytest.raises(VersionNotFoundError):
            Source(folder.store.uri).files(MUG, ["card.json"])

    @pytest.mark.parametrize("kind", ["absent", "a folder", "a pipe", "forbidden", "endless"])
    def test_a_file_that_cannot_be_a_file_of_a_version(
        self, folder: Registry, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = folder.local_copy("mug") / "card.json"
        path.unlink()
        if kind == "a folder":
            path.mkdir()
        elif kind == "a pipe":
            os.mkfifo(path)
        elif kind == "forbidden":
            refuse(monkeypatch, "card.json", AccessError)
        elif kind == "endless":
            monkeypatch.setattr(source_module, "_MAX_FILE_BYTES", 10)
            path.write_bytes(b'{"a": "too long"}')
        source = Source(folder.store.uri)
        for read in (source.card, source.files):
            with pytest.raises(AdapterUnusableError, match=r"object mug, version v1: .*damaged; delete and publish"):
                read(MUG)

    @pytest.mark.parametrize("text", [b"", b"{", b"[]", b"[" * 100_000, b"\xff\xfe"])
    def test_a_card_that_is_none(self, registry: Registry, source: Source, text: bytes) -> None:
        registry.store.write("objects/mug/versions/v1/card.json", text)
        with pytest.raises(AdapterUnusableError):
            source.card(MUG)

    def test_a_failing_disk_is_no_damage(self, folder: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        refuse(monkeypatch, "card.json", StorageError)
        source = Source(folder.store.uri)
        for read in (source.card, source.files):
            with pytest.raises(RegistryUnavailableError, match="object mug, version v1: the registry cannot be read"):
                read(MUG)

    @pytest.mark.parametrize("name", ["..", "../mug", "/etc", "a b", ""])
    def test_hostile_names_read_nothing(self, registry: Registry, source: Source, name: str) -> None:
        registry.store.write("card.json", b"{}")
        for call in (
            lambda: source.card(AdapterRef(name, "v1")),
            lambda: source.card(AdapterRef("mug", name)),
            lambda: source.versions(name),
            lambda: source.delete(name),
        ):
            with pytest.raises(QueryError):
                call()
        assert source.live() == {"mug": "v1", "cup": "v1"}


def test_a_store_that_ignores_conditional_writes_is_not_deleted_from(s3: FaultyS3) -> None:
    source = Source(published(f"{s3.uri}/registry").store.uri)
    s3.ignores_conditions = True
    with pytest.raises(RegistryUnavailableError, match="cannot be deleted"):
        source.delete("mug")
    s3.ignores_conditions = False
    assert source.live() == {"mug": "v1", "cup": "v1"}


def test_deleting(registry: Registry, source: Source) -> None:
    source.delete("mug")
    source.delete("mug")
    assert source.live() == {"cup": "v1"} and registry.versions("mug") == []
