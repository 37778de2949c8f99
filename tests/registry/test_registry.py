"""What a registry does, the same in a folder and in S3."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from helpers.s3_server import FaultyS3
from helpers.versions import mark_of, version_files

from persrep_ray.registry.registry import FILES, NotPublishedError, Registry
from persrep_ray.storage import s3 as s3_store
from persrep_ray.storage.store import NotFoundError, open_store


def test_publish_and_read(registry: Registry) -> None:
    assert not registry.exists()
    assert registry.objects() == [] and registry.versions("mug") == [] and registry.current("mug") is None

    registry.publish("mug", "v1", version_files(1))

    assert registry.exists()
    assert registry.current("mug") == "v1"
    assert registry.versions("mug") == ["v1"]
    assert registry.objects() == ["mug"] and registry.live() == {"mug": "v1"}
    assert registry.card("mug") == registry.card("mug", "v1") == {"mark": 1}
    assert registry.files("mug") == registry.files("mug", "v1") == version_files(1)
    assert registry.read("mug", None, "adapter_config.json") == b'{"mark": 1}'
    assert [entry.key for entry in registry.store.list()] == [
        "live/mug.json",
        *(f"objects/mug/versions/v1/{name}" for name in sorted(FILES)),
        "registry.json",
    ]


def test_a_local_copy_is_the_folder_of_a_version(registry: Registry) -> None:
    registry.publish("mug", "v1", version_files(1))
    registry.publish("mug", "v2", version_files(2))
    for version, mark in (("v1", 1), (None, 2)):
        folder = registry.local_copy("mug", version)
        assert sorted(os.listdir(folder)) == sorted(FILES)
        assert json.loads((folder / "card.json").read_text()) == {"mark": mark}


def test_a_new_version_goes_live_and_the_old_one_stays(registry: Registry) -> None:
    registry.publish("mug", "v1", version_files(1))
    registry.publish("mug", "v2", version_files(2))
    assert registry.versions("mug") == ["v1", "v2"]
    assert mark_of(registry, "mug") == 2 and mark_of(registry, "mug", "v1") == 1


def test_publishing_an_existing_version_keeps_its_files_and_makes_it_live(registry: Registry, tmp_path: Path) -> None:
    registry.publish("mug", "v1", version_files(1))
    registry.publish("mug", "v2", version_files(2))
    registry.publish("mug", "v1", version_files(99))
    assert registry.current("mug") == "v1" and mark_of(registry, "mug") == 1
    registry.publish("mug", "v2", dict.fromkeys(FILES, tmp_path / "removed after the first time"))
    assert registry.current("mug") == "v2" and mark_of(registry, "mug") == 2


def test_an_earlier_version_can_be_made_live_again(registry: Registry) -> None:
    for version in ("v1", "v2"):
        registry.publish("mug", version, version_files(1.0))
    registry.make_live("mug", "v1")
    assert registry.current("mug") == "v1"
    with pytest.raises(NotPublishedError, match="object mug: no version v3"):
        registry.make_live("mug", "v3")
    assert registry.current("mug") == "v1"


def test_files_are_copied_from_paths(registry: Registry, tmp_path: Path) -> None:
    files = version_files(3)
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(files["adapter_model.safetensors"])
    registry.publish("mug", "v1", {**files, "adapter_model.safetensors": weights})
    weights.unlink()
    assert mark_of(registry, "mug") == 3


def test_absent_objects_and_versions_are_named(registry: Registry) -> None:
    for read in (registry.card, registry.files, registry.local_copy):
        with pytest.raises(NotPublishedError, match=r"object mug: not published in .*registry"):
            read("mug")
    registry.publish("mug", "v1", version_files(1))
    for read in (registry.card, registry.files, registry.local_copy):
        with pytest.raises(NotPublishedError, match=r"object mug: no version v2 in .*registry"):
            read("mug", "v2")


def test_an_incomplete_version_is_not_visible(registry: Registry) -> None:
    registry.publish("mug", "v1", version_files(1))
    for name in FILES[:-1]:
        registry.store.write(f"objects/mug/versions/v2/{name}", b"")
    assert registry.versions("mug") == ["v1"]
    with pytest.raises(NotPublishedError, match="no version v2"):
        registry.read("mug", "v2", "adapter_config.json")
    with pytest.raises(NotPublishedError, match="no version v2"):
        registry.make_live("mug", "v2")


def test_a_file_that_a_complete_version_lacks_and_one_that_is_too_large(registry: Registry) -> None:
    registry.publish("mug", "v1", version_files(1))
    with pytest.raises(ValueError, match="11 bytes, the limit is 10"):
        registry.read("mug", "v1", "card.json", max_bytes=10)
    registry.store.delete("objects/mug/versions/v1/adapter_config.json")
    with pytest.raises(NotFoundError, match=r"adapter_config.json"):
        registry.files("mug")


def test_deleting_twice_and_deleting_nothing(registry: Registry) -> None:
    registry.delete("mug")
    assert not registry.exists()
    registry.publish("mug", "v1", version_files(1))
    registry.publish("cup", "v1", version_files(5))
    registry.delete("mug")
    registry.delete("mug")
    assert registry.objects() == ["cup"] and registry.current("mug") is None and registry.versions("mug") == []
    with pytest.raises(NotPublishedError):
        registry.files("mug", "v1")
    assert list(registry.store.list("objects/mug/")) == []


def test_a_deleted_object_can_be_published_anew_under_the_same_version(registry: Registry) -> None:
    for mark in (1, 2, 3):
        registry.publish("mug", "v1", version_files(mark))
        registry.publish("mug", "old", version_files(9))
        registry.publish("mug", "v1", version_files(mark))
        assert mark_of(registry, "mug") == mark and registry.versions("mug") == ["old", "v1"]
        registry.delete("mug")
    assert registry.objects() == [] and list(registry.store.list("objects/")) == []


def test_objects_of_similar_names_are_apart(registry: Registry) -> None:
    for number, object_id in enumerate(["mug", "mug.json", "mug-1", "versions", "live", "current.json", ".mug", "..."]):
        registry.publish(object_id, "versions", version_files(number))
        assert mark_of(registry, object_id) == number
    registry.delete("mug")
    assert registry.objects() == sorted(["mug.json", "mug-1", "versions", "live", "current.json", ".mug", "..."])


def test_a_registry_can_be_sent_to_another_process(registry: Registry) -> None:
    registry.publish("mug", "v1", version_files(1))
    assert mark_of(pickle.loads(pickle.dumps(registry)), "mug") == 1


def test_following_reads_only_what_changed(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    for object_id in ("cup", "jar", "mug"):
        registry.publish(object_id, "v1", version_files(1))
    read: list[str] = []
    read_tagged = type(registry.store).read_tagged

    def counted(store: Any, key: str) -> tuple[bytes, str]:
        read.append(key)
        return read_tagged(store, key)

    monkeypatch.setattr(type(registry.store), "read_tagged", counted)
    known = registry.pointers()
    assert sorted(read) == ["live/cup.json", "live/jar.json", "live/mug.json"]
    assert registry.pointers(known) == known and len(read) == 3
    registry.publish("mug", "v2", version_files(2))
    registry.delete("cup")
    registry.publish("hat", "v1", version_files(2))
    read.clear()
    known = registry.pointers(known)
    assert sorted(read) == ["live/cup.json", "live/hat.json", "live/mug.json"]
    assert {name: pointer.version for name, pointer in known.items()} == {
        "cup": None,
        "hat": "v1",
        "jar": "v1",
        "mug": "v2",
    }


def test_following_takes_a_request_per_page(s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    # With S3's pages of 1,000 keys, 100,000 objects are followed with 100 requests.
    monkeypatch.setattr(s3_store, "KEYS_PER_REQUEST", 5)
    registry = Registry(open_store(f"{s3.uri}/registry"))
    registry.mark()
    for number in range(23):
        registry.store.write(f"live/mug_{number}.json", b'{"version": "v1", "deletions": 0}')
    known = registry.pointers()
    assert len(known) == 23
    registry.store.write("live/mug_7.json", b'{"version": "v2", "deletions": 0}')
    s3.requests.clear()
    assert registry.pointers(known)["mug_7"].version == "v2"
    assert [request.operation for request in s3.requests] == ["ListObjectsV2"] * 5 + ["GetObject"]


def test_a_publication_takes_few_requests(s3: FaultyS3) -> None:
    registry = Registry(open_store(f"{s3.uri}/registry"))
    registry.publish("cup", "v1", version_files(1))
    s3.requests.clear()
    registry.publish("mug", "v1", version_files(1))
    assert len(s3.requests) == 7  # two reads, four files, the pointer
    s3.requests.clear()
    registry.publish("mug", "v1", version_files(1))
    assert len(s3.requests) == 1
    s3.requests.clear()
    registry.files("mug", "v1")
    assert len(s3.requests) == 5
