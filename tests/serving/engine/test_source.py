"""Absent, damaged and unreachable are told apart."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
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

MUG = AdapterRef("mug", "v1")


def files(mark: str) -> dict[str, bytes | Path]:
    tensors = save({"mark": np.frombuffer(mark.encode(), np.uint8)})
    text = json.dumps({"mark": mark}).encode()
    return {name: text if name.endswith(".json") else tensors for name in FILES}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "registry")
    registry.publish("mug", "v1", files("mug v1"))
    registry.publish("cup", "v1", files("cup v1"))
    return registry


@pytest.fixture
def source(registry: Registry) -> Source:
    return Source(registry.root)


def reads(source: Source) -> dict[str, Callable[[], object]]:
    return {
        "live": source.live,
        "versions": lambda: source.versions("mug"),
        "card": lambda: source.card(MUG),
        "file": lambda: source.file(MUG, "adapter_model.safetensors"),
        "files": lambda: source.files(MUG),
        "delete": lambda: source.delete("mug"),
    }


def folder(registry: Registry, ref: AdapterRef = MUG) -> Path:
    return registry.path(ref.object_id, ref.version)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time stamps are trusted at once."""
    monkeypatch.setattr(source_module, "_SETTLED_S", -10.0)


@pytest.fixture
def pointer_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The objects whose pointers were read."""
    reads: list[str] = []
    current = Registry.current

    def counted(self: Registry, object_id: str) -> str | None:
        reads.append(object_id)
        return current(self, object_id)

    monkeypatch.setattr(Registry, "current", counted)
    return reads


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
        objects = registry.root / "objects"
        (objects / "half" / "incoming").mkdir(parents=True)  # a first publisher that was killed
        (objects / "a file").write_text("")
        (objects / "file").write_text("")
        shutil.copytree(objects / "mug", objects / "not an id")
        assert source.live() == {"mug": "v1", "cup": "v1"}

    @pytest.mark.usefixtures("settled")
    @pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "../../x"}', '{"version": 3}'])
    def test_a_damaged_pointer_leaves_what_was_known(self, registry: Registry, source: Source, text: str) -> None:
        source.live()
        for object_id in ("mug", "jar"):
            (registry.root / "objects" / object_id).mkdir(exist_ok=True)
            (registry.root / "objects" / object_id / "current.json").write_text(text)
        for _ in range(2):
            assert source.live() == {"mug": "v1", "cup": "v1"}  # of the jar nothing was known
        registry.publish("mug", "v2", files("mug v2"))
        assert source.live() == {"mug": "v2", "cup": "v1"}

    @pytest.mark.usefixtures("settled")
    def test_an_object_that_may_not_be_looked_into_disturbs_no_other(
        self, registry: Registry, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source.live()
        refuse(monkeypatch, "objects/mug/current.json", PermissionError)
        registry.publish("cup", "v2", files("cup v2"))
        assert source.live() == {"mug": "v1", "cup": "v2"}
        monkeypatch.undo()
        registry.publish("mug", "v2", files("mug v2"))
        assert source.live() == {"mug": "v2", "cup": "v2"}

    def test_a_failing_storage_is_not_mistaken_for_deleted_objects(
        self, registry: Registry, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refuse(monkeypatch, "objects/mug/current.json", OSError)
        for _ in range(2):
            with pytest.raises(RegistryUnavailableError):
                source.live()
        monkeypatch.undo()
        assert source.live() == {"mug": "v1", "cup": "v1"}

    @pytest.mark.usefixtures("settled")
    def test_what_did_not_change_is_not_read_again(
        self, registry: Registry, source: Source, pointer_reads: list[str]
    ) -> None:
        source.live()
        assert sorted(pointer_reads) == ["cup", "mug"]
        source.live()
        assert len(pointer_reads) == 2
        registry.make_live("mug", "v1")
        source.live()
        assert pointer_reads[2:] == ["mug"]

    def test_a_change_within_one_tick_of_the_clock_is_not_missed(
        self, registry: Registry, source: Source, pointer_reads: list[str]
    ) -> None:
        for _ in range(2):  # so shortly after publishing, time stamps prove nothing
            source.live()
        assert sorted(pointer_reads) == ["cup", "cup", "mug", "mug"]


@pytest.mark.parametrize("name", ["live", "versions", "card", "file", "files", "delete"])
class TestUnreachable:
    def test_a_root_that_is_away_is_no_empty_registry(self, registry: Registry, source: Source, name: str) -> None:
        source.live()
        registry.root.rename(registry.root.with_name("away"))
        with pytest.raises(RegistryUnavailableError):
            reads(source)[name]()
        registry.root.mkdir()  # the mount point without its mount
        with pytest.raises(RegistryUnavailableError):
            reads(source)[name]()
        registry.root.rmdir()
        registry.root.with_name("away").rename(registry.root)
        reads(source)[name]()

    def test_messages_name_no_path(self, registry: Registry, source: Source, name: str) -> None:
        registry.root.rename(registry.root.with_name("away"))
        with pytest.raises(RegistryUnavailableError) as raised:
            reads(source)[name]()
        assert "/" not in raised.value.message


def test_a_root_that_goes_away_amid_the_scan(
    registry: Registry, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = Registry.current

    def gone_after_the_first(self: Registry, object_id: str) -> str | None:
        version = current(self, object_id)
        monkeypatch.undo()
        registry.root.rename(registry.root.with_name("away"))
        return version

    monkeypatch.setattr(Registry, "current", gone_after_the_first)
    with pytest.raises(RegistryUnavailableError):
        source.live()


class TestFiles:
    def test_are_those_of_the_version(self, registry: Registry, source: Source) -> None:
        registry.publish("mug", "v2", files("mug v2"))
        assert source.files(MUG) == files("mug v1")
        assert source.files(AdapterRef("mug", "v2"), ("card.json",)) == {"card.json": b'{"mark": "mug v2"}'}
        assert source.card(MUG) == {"mark": "mug v1"}
        assert source.versions("mug") == ["v1", "v2"] and source.versions("nobody") == []

    @pytest.mark.parametrize("target", [AdapterRef("mug", "v9"), AdapterRef("nobody", "v1")])
    def test_an_absent_version(self, source: Source, ref: AdapterRef) -> None:
        for read in (source.card, source.files):
            with pytest.raises(VersionNotFoundError, match=f"object {ref.object_id}, version {ref.version}"):
                read(ref)

    def test_a_version_that_is_deleted_while_it_is_read(
        self, registry: Registry, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = source_module.read_regular

        def too_late(path: Path, most: int) -> bytes:
            registry.delete("mug")
            return read(path, most)

        monkeypatch.setattr(source_module, "read_regular", too_late)
        with pytest.raises(VersionNotFoundError):
            source.files(MUG)

    @pytest.mark.parametrize("kind", ["absent", "a folder", "a pipe", "forbidden", "endless"])
    def test_a_file_that_cannot_be_a_file_of_a_version(
        self, registry: Registry, source: Source, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = folder(registry) / "card.json"
        path.unlink()
        if kind == "a folder":
            path.mkdir()
        elif kind == "a pipe":
            os.mkfifo(path)
        elif kind == "forbidden":
            refuse(monkeypatch, "card.json", PermissionError)
        elif kind == "endless":
            monkeypatch.setattr(source_module, "_MAX_FILE_BYTES", 10)
            path.write_bytes(b'{"a": "too long"}')
        for read in (source.card, source.files):
            with pytest.raises(AdapterUnusableError, match=r"object mug, version v1: .*damaged; delete and publish"):
                read(MUG)

    @pytest.mark.parametrize("text", [b"", b"{", b"[]", b"[" * 100_000, b"\xff\xfe"])
    def test_a_card_that_is_none(self, registry: Registry, source: Source, text: bytes) -> None:
        (folder(registry) / "card.json").write_bytes(text)
        with pytest.raises(AdapterUnusableError):
            source.card(MUG)

    def test_a_failing_disk_is_no_damage(
        self, registry: Registry, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refuse(monkeypatch, "card.json", OSError)
        for read in (source.card, source.files):
            with pytest.raises(RegistryUnavailableError, match="object mug, version v1: the registry cannot be read"):
                read(MUG)

    def test_versions_on_a_failing_disk(self, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*_: object) -> list[str]:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "listdir", fails)
        with pytest.raises(RegistryUnavailableError):
            source.versions("mug")
        with pytest.raises(RegistryUnavailableError):
            source.live()

    @pytest.mark.parametrize("name", ["..", "../mug", "/etc", "a b", ""])
    def test_hostile_names_read_nothing(self, registry: Registry, source: Source, name: str) -> None:
        (registry.root / "card.json").write_text("{}")
        for call in (
            lambda: source.card(AdapterRef(name, "v1")),
            lambda: source.card(AdapterRef("mug", name)),
            lambda: source.versions(name),
            lambda: source.delete(name),
        ):
            with pytest.raises(QueryError):
                call()
        assert source.live() == {"mug": "v1", "cup": "v1"}


def test_deleting(registry: Registry, source: Source) -> None:
    source.delete("mug")
    source.delete("mug")
    assert source.live() == {"cup": "v1"} and registry.versions("mug") == []


def refuse(monkeypatch: pytest.MonkeyPatch, ending: str, error: type[OSError]) -> None:
    """Opening what ends so fails. (Tests may run as root, whom file modes do not stop.)"""
    opened = os.open

    def guarded(path: object, *args: object, **options: object) -> int:
        if isinstance(path, str | os.PathLike) and os.fspath(path).endswith(ending):  # type: ignore[arg-type]
            raise error(5, "no", os.fspath(path))
        return opened(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", guarded)
