"""What only happens with a folder: links, permissions, leftovers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from persrep_ray.storage import local
from persrep_ray.storage.files import read_file
from persrep_ray.storage.store import AccessError, NotFoundError, StorageError, Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def test_links_within_the_root_count_and_others_do_not(store: Store, tmp_path: Path) -> None:
    root, outside = tmp_path / "store", tmp_path / "store-secret"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    store.write("mug/0", b"0")
    (root / "twin").symlink_to("mug")
    (root / "mug/1").symlink_to("0")
    (root / "mug/loop").symlink_to("..")
    (root / "mug/nowhere").symlink_to("nothing")
    (root / "mug/itself").symlink_to("itself")
    (root / "mug/out").symlink_to(outside / "secret")
    (root / "away").symlink_to(outside)

    assert [entry.key for entry in store.list()] == ["mug/0", "mug/1", "twin/0", "twin/1"]
    for key in ("mug/out", "away/secret"):
        for operation in (store.read, store.read_tagged, store.stat, store.file):
            with pytest.raises(StorageError, match="leads out of"):
                operation(key)
    with pytest.raises(StorageError, match="leads out of"):
        store.local_copy("away")


def test_delete_all_removes_links_and_not_what_they_lead_to(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "store"
    store.write("mug/0", b"0")
    (tmp_path / "mine").write_text("mine")
    (root / "old").mkdir()
    (root / "old/twin").symlink_to("../mug")
    (root / "old/away").symlink_to(tmp_path)

    for through_a_link in ("old/twin/", "old/away/"):
        with pytest.raises(StorageError, match="a symbolic link is on the way"):
            store.delete_all(through_a_link)
    store.delete_all("old/")

    assert not (root / "old").exists()
    assert store.read("mug/0") == b"0"
    assert (tmp_path / "mine").is_file()


def test_a_write_through_a_link_that_leaves_the_root_is_refused(store: Store, tmp_path: Path) -> None:
    store.write("a", b"")
    (tmp_path / "outside").mkdir()
    (tmp_path / "store/away").symlink_to(tmp_path / "outside")

    with pytest.raises(StorageError, match="leads out of"):
        store.write("away/b", b"")
    with pytest.raises(StorageError, match="leads out of"):
        store.delete("away/b")


def test_a_failed_write_leaves_the_old_content_and_no_trace(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("key", b"old")

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local.os, "replace", full)
    with pytest.raises(StorageError, match=r"^write .*/store/key: No space left on device$"):
        store.write("key", b"new")

    assert store.read("key") == b"old"
    assert list((tmp_path / "store/.persrep/writing").iterdir()) == []


def test_a_source_that_is_missing_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=f"^write .*/key: No such file or directory: {tmp_path}/missing$"):
        store.write("key", tmp_path / "missing")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_found_out_by_permissions(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(AccessError, match="Permission denied"):
        open_store(tmp_path / "store").check_writable()


def test_a_folder_that_cannot_be_created_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"^write .*/file/store.*: Not a directory"):
        open_store(tmp_path / "file/store").check_writable()


def test_leftovers_of_dead_writers_are_removed_and_those_of_others_are_not(store: Store, tmp_path: Path) -> None:
    store.write("key", b"")
    writing = tmp_path / "store/.persrep/writing"
    for name, age_s in (("dead", 2 * 3600), ("alive", 60)):
        (writing / name).write_text("")
        os.utime(writing / name, (time.time() - age_s,) * 2)

    store.check_writable()
    assert [path.name for path in writing.iterdir()] == ["alive"]


def test_tags_differ_where_the_clock_of_the_file_system_is_coarse(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that stores whole seconds only, and several writes within one second."""
    utime = os.utime

    def coarse(path: Path, ns: tuple[int, int]) -> None:
        utime(path, ns=(ns[0], ns[1] // 10**9 * 10**9))

    monkeypatch.setattr(local.os, "utime", coarse)
    tags = []
    for _ in range(4):
        store.write("key", b"same size")
        entry = store.stat("key")
        assert entry is not None
        tags.append(entry.tag)
    assert len(set(tags)) == 4


def test_what_is_no_regular_file_is_never_waited_for(store: Store, tmp_path: Path) -> None:
    store.write("file", b"")
    os.mkfifo(tmp_path / "store/fifo")

    assert store.stat("fifo") is None
    assert [entry.key for entry in store.list()] == ["file"]
    for read in (lambda: store.read("fifo"), lambda: read_file(tmp_path / "store/fifo", 10)):
        with pytest.raises(ValueError, match=r"^not a regular file$"):
            read()


def test_a_local_copy_is_the_folder_itself(store: Store, tmp_path: Path) -> None:
    store.write("v1/card.json", b"")
    assert store.local_copy("v1") == tmp_path / "store/v1"
    assert store.file("v1/card.json") == tmp_path / "store/v1/card.json"
