"""What a folder and S3 have in common."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from persrep_ray.config import ConfigError
from persrep_ray.storage.files import read_file
from persrep_ray.storage.store import ConflictError, NotFoundError, Store, is_remote, join, open_store

BAD_KEYS = ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.", ".persrep/locks", "a\0b"]


def test_a_written_file_is_read_listed_and_deleted(store: Store, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"from a file")
    store.write("objects/mug/0.jpg", tmp_path / "photo.jpg")
    store.write("objects/mug/1.jpg", b"old")
    store.write("objects/mug/1.jpg", b"content")

    assert store.read("objects/mug/0.jpg") == b"from a file"
    assert store.read("objects/mug/1.jpg") == b"content"
    assert [(entry.key, entry.size) for entry in store.list()] == [("objects/mug/0.jpg", 11), ("objects/mug/1.jpg", 7)]

    store.delete("objects/mug/0.jpg")
    store.delete("objects/mug/0.jpg")
    assert [entry.key for entry in store.list()] == ["objects/mug/1.jpg"]


def test_keys_are_listed_in_one_order_and_by_any_beginning(store: Store) -> None:
    keys = ["a", "b-c/0", "b.d", "b/0", "b/1/2", "b/10", "b0/x", "é/ü"]
    for key in reversed(keys):
        store.write(key, b"")

    assert [entry.key for entry in store.list()] == keys
    assert [entry.key for entry in store.list("b")] == keys[1:7]
    assert [entry.key for entry in store.list("b/")] == keys[3:6]
    assert [entry.key for entry in store.list("b/1")] == keys[4:6]
    assert list(store.list("c/")) == []


def test_what_is_absent_is_said_by_name(store: Store) -> None:
    store.write("a/b", b"")

    for key in ("a", "a/c", "a/b/c"):
        assert store.stat(key) is None
        for operation in (store.read, store.read_tagged, store.file):
            with pytest.raises(NotFoundError, match=r"^(read|find) .*/" + key + ": ") as caught:
                operation(key)
            assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(NotFoundError, match=r"^find "):
        store.local_copy("c")


@pytest.mark.parametrize("key", BAD_KEYS)
def test_unsafe_keys_are_refused(store: Store, key: str) -> None:
    for operation in (store.stat, store.read, store.read_tagged, store.delete, store.file):
        with pytest.raises(ValueError, match="bad key"):
            operation(key)
    with pytest.raises(ValueError, match="bad key"):
        store.write(key, b"")
    with pytest.raises(ValueError, match="bad key"):
        store.write_if(key, b"", None)
    for prefix in ("../", "a/../b", "/a"):
        with pytest.raises(ValueError, match="bad key"):
            list(store.list(prefix))
        with pytest.raises(ValueError, match="bad key"):
            store.delete_all(prefix)


def test_a_tag_changes_with_the_content(store: Store) -> None:
    tags = []
    for content in (b"1", b"2", b"3"):
        store.write("key", content)
        entry = store.stat("key")
        assert entry is not None and list(store.list()) == [entry]
        assert store.read_tagged("key") == (content, entry.tag)
        tags.append(entry.tag)
    assert len(set(tags)) == 3


def test_write_if_needs_the_current_tag(store: Store) -> None:
    first = store.write_if("key", b"1", None)
    second = store.write_if("key", b"2", first)
    assert store.read_tagged("key") == (b"2", second)

    for stale in (None, first):
        with pytest.raises(ConflictError, match=r"^write .*/key: it was changed by another process$"):
            store.write_if("key", b"3", stale)
    with pytest.raises(ConflictError):
        store.write_if("absent", b"3", second)
    assert store.read_tagged("key") == (b"2", second)

    store.delete("key")
    store.write_if("key", b"4", None)


def test_too_large_a_file_is_not_read(store: Store) -> None:
    store.write("key", b"12345")

    assert store.read("key", max_bytes=5) == read_file(store.file("key"), 5) == b"12345"
    for read in (lambda: store.read("key", max_bytes=4), lambda: read_file(store.file("key"), 4)):
        with pytest.raises(ValueError, match=r"^5 bytes, the limit is 4$"):
            read()


def test_delete_all_takes_what_begins_so(store: Store) -> None:
    for key in ("objects/mug/a", "objects/mug/b/c", "objects/mug2/a", "objects/cup/a"):
        store.write(key, b"")

    store.delete_all("objects/mug/")
    assert [entry.key for entry in store.list()] == ["objects/cup/a", "objects/mug2/a"]
    store.delete_all("objects/m")
    store.delete_all("nothing/")
    assert [entry.key for entry in store.list()] == ["objects/cup/a"]
    store.delete_all("")
    assert list(store.list()) == []


def test_files_are_references_for_later_reading(store: Store) -> None:
    store.write("mug/0.JPG", b"0")
    store.write("mug/1.jpg", b"1")

    files = store.files("mug/")
    assert list(files) == ["mug/0.JPG", "mug/1.jpg"]
    assert files["mug/0.JPG"] == store.file("mug/0.JPG")
    assert {(file.name, file.stem, file.suffix) for file in files.values()} == {
        ("0.JPG", "0", ".JPG"),
        ("1.jpg", "1", ".jpg"),
    }
    assert [str(file) for file in files.values()] == [store.url(key) for key in files]
    assert [read_file(file, 10) for file in pickle.loads(pickle.dumps(files)).values()] == [b"0", b"1"]


def test_a_local_copy_has_all_files_of_a_folder(store: Store) -> None:
    for key in ("v1/card.json", "v1/deep/er", "v10/card.json"):
        store.write(key, key.encode())

    for prefix in ("v1", "v1/"):
        folder = store.local_copy(prefix)
        found = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
        assert found == {"card.json": "v1/card.json", "deep/er": "v1/deep/er"}
    assert (store.local_copy("") / "v10/card.json").is_file()

    store.write("v1/card.json", b"changed")
    assert (store.local_copy("v1") / "card.json").read_bytes() == b"changed"


def test_check_writable_leaves_nothing_behind(store: Store) -> None:
    store.check_writable()
    assert list(store.list()) == []


def test_stores_travel_and_compare_by_place(store: Store) -> None:
    twin = pickle.loads(pickle.dumps(store))
    assert twin == store == open_store(store.uri) and hash(twin) == hash(store)
    assert open_store(store.uri + "x") != store
    twin.write("key", b"")
    assert store.stat("key") is not None


@pytest.mark.parametrize(
    ("location", "uri"),
    [
        ("s3://bucket", "s3://bucket"),
        ("S3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://bucket/team@home/a:b", "s3://bucket/team@home/a:b"),
        ("/tmp/../data", "/data"),
        ("./a:b", str(Path("a:b").absolute())),
        ("/data/s3://b", "/data/s3:/b"),
        ("runs/a", str(Path("runs/a").absolute())),
    ],
)
def test_locations(location: str, uri: str) -> None:
    assert open_store(location).uri == uri
    assert is_remote(location) == uri.startswith("s3:")


@pytest.mark.parametrize(
    "location",
    [
        *("gs://bucket/a", "file:///a", "hdfs:a", "s3:/bucket", "s3:bucket/a", "s3:", " s3://bucket/a", "a:b"),
        *("s3://", "s3://b", "s3://bucket/../a", "s3://bucket//a", ""),
    ],
)
def test_locations_that_are_refused(location: str) -> None:
    with pytest.raises(ConfigError, match=r"expected (a folder or )?(s3://bucket/prefix|names)"):
        open_store(location)


@pytest.mark.parametrize(
    "location",
    [
        *("s3://AKID:the-secret@bucket/a", "s3://AKID:the-secret/rest@bucket/a", "s3://the-secret@bucket/a"),
        *("gs://AKID:the-secret@bucket/a", "s3:the-secret@bucket/a"),
    ],
)
def test_credentials_in_a_location_are_refused_and_not_repeated(location: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(location)
    assert "the-secret" not in str(caught.value)


def test_join() -> None:
    assert join("s3://bucket/", "a", "b") == "s3://bucket/a/b"
    assert join("/data", "a") == "/data/a"
