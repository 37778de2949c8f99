"""The node's copies of remote files."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from subprocess import PIPE

import pytest
from helpers.s3_server import FaultyS3

from persrep_ray.config import ConfigError
from persrep_ray.storage.cache import cached
from persrep_ray.storage.files import local_path, read_file
from persrep_ray.storage.store import AccessError, open_store


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERSREP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/files"


def used_at(path: Path, seconds: int) -> None:
    os.utime(path, (seconds, seconds))


def test_a_file_that_several_processes_want_is_fetched_once(s3: FaultyS3) -> None:
    store = open_store(s3.uri)
    content = os.urandom(1_000_000)
    store.write("photo.jpg", content)
    file = store.file("photo.jpg")
    script = (
        "import hashlib, sys; from persrep_ray.storage.files import RemoteFile, local_path\n"
        "file = RemoteFile(sys.argv[1], sys.argv[2], 1_000_000)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(hashlib.sha256(local_path(file).read_bytes()).hexdigest())"
    )
    command = [sys.executable, "-c", script, str(file), file.tag]
    processes = [subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    slow = threading.Event()  # the download takes a while, so that both processes ask for the file meanwhile
    s3.fail("reset", when=lambda request: request.operation == "GetObject" and slow.wait(0.5))
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate()[0] for process in processes]

    assert len(set(answers)) == 1 and len(answers[0]) == 65
    assert read_file(file, 1_000_000) == content
    assert s3.count("GetObject") == 1


def test_a_version_is_fetched_once_and_a_new_version_again(s3: FaultyS3) -> None:
    store = open_store(s3.uri)
    for number in range(2):
        store.write("v/a", b"%d" % number)
        for _ in range(2):
            assert read_file(store.file("v/a"), 10) == b"%d" % number
            assert (store.local_copy("v") / "a").read_bytes() == b"%d" % number
    assert s3.count("GetObject") == 4


def test_nothing_of_a_failed_download_stays(s3: FaultyS3, folder: Path) -> None:
    store = open_store(s3.uri)
    store.write("v/a", b"a")
    store.write("v/b", b"b")
    s3.fail("AccessDenied", when=lambda request: request.operation == "GetObject" and request.key == "v/b")

    with pytest.raises(AccessError):
        store.local_copy("v")
    assert list(folder.iterdir()) == []
    assert (store.local_copy("v") / "b").read_bytes() == b"b"


def test_the_least_recently_used_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSREP_CACHE_BYTES", "1000")

    def make(name: str, size: int) -> Path:
        return cached(name, lambda target: target.write_bytes(bytes(size)) and None)

    def make_folder(target: Path) -> None:
        (target / "deep").mkdir(parents=True)
        (target / "deep/file").write_bytes(bytes(300))

    old, hot = make("old", 300), cached("hot", make_folder)
    used_at(old, 1000)
    used_at(hot, 500)
    assert cached("hot", make_folder) == hot  # used again, so it is no longer the oldest
    make("new", 300)
    assert sorted(path.name for path in folder.iterdir()) == ["hot", "new", "old"]
    make("newer", 200)
    assert sorted(path.name for path in folder.iterdir()) == ["hot", "new", "newer"]


def test_a_file_that_is_open_when_it_goes_can_still_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSREP_CACHE_BYTES", "10")
    path = cached("a", lambda target: target.write_bytes(b"content") and None)
    with open(path, "rb") as file:
        cached("b", lambda target: target.write_bytes(bytes(20)) and None)
        assert not path.exists()
        assert file.read() == b"content"


def test_what_is_larger_than_the_limit_is_kept_until_the_next_comes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSREP_CACHE_BYTES", "10")
    assert cached("large", lambda target: target.write_bytes(bytes(100)) and None).is_file()
    assert cached("next", lambda target: target.write_bytes(bytes(1)) and None).is_file()
    assert [path.name for path in folder.iterdir()] == ["next"]


def test_downloads_under_way_are_not_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSREP_CACHE_BYTES", "10")
    folder.mkdir(parents=True)
    (folder / ".under-way").write_bytes(bytes(100))
    (folder / ".left").write_bytes(bytes(100))
    used_at(folder / ".left", 1000)

    cached("new", lambda target: target.write_bytes(bytes(5)) and None)
    assert sorted(path.name for path in folder.iterdir()) == [".under-way", "new"]


def test_a_limit_that_is_no_number_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSREP_CACHE_BYTES", "20G")
    with pytest.raises(ConfigError, match=r"^PERSREP_CACHE_BYTES: expected a number of bytes, got '20G'$"):
        cached("new", lambda target: target.write_bytes(b"") and None)


def test_a_file_that_was_removed_meanwhile_is_fetched_again(s3: FaultyS3) -> None:
    store = open_store(s3.uri)
    store.write("a", b"a")
    file = store.file("a")
    local_path(file).unlink()
    assert read_file(file, 10) == b"a"
