"""The lock between processes that share a folder."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from persrep_ray.storage import exclusive as module
from persrep_ray.storage.exclusive import exclusive


@pytest.fixture
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.05)
    monkeypatch.setattr(module, "STALE_S", 1.0)


def dead_holder(folder: Path, number: int = 1) -> None:
    """What a process leaves that is killed while it holds the lock."""
    folder.mkdir(exist_ok=True)
    (folder / str(number)).write_bytes(b"")


def test_one_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            with exclusive(tmp_path / "lock"):
                inside.append(number)
                assert inside == [number]
                inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(os.listdir(tmp_path / "lock")) == 1


@pytest.mark.usefixtures("short_times")
def test_waiters_wait_as_long_as_the_holder_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beats = threading.Semaphore(0)
    utime = os.utime

    def counted(path: Path, **times: tuple[int, int]) -> None:
        utime(path, **times)
        beats.release()

    monkeypatch.setattr(module.os, "utime", counted)
    order = []

    def wait() -> None:
        with exclusive(tmp_path):
            order.append("waiter")

    with exclusive(tmp_path) as lock:
        waiter = threading.Thread(target=wait)
        waiter.start()
        for _ in range(30):  # longer than what a dead holder is given
            assert beats.acquire(timeout=10)
        order.append("holder")
        assert lock.is_held()
    waiter.join()
    assert order == ["holder", "waiter"]


@pytest.mark.usefixtures("short_times")
def test_a_dead_holder_is_replaced_by_one_of_many_waiters_at_a_time(tmp_path: Path) -> None:
    dead_holder(tmp_path / "lock")
    inside: list[int] = []

    def work(number: int) -> None:
        with exclusive(tmp_path / "lock") as lock:
            inside.append(number)
            assert inside == [number] and lock.is_held()
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


@pytest.mark.usefixtures("short_times")
def test_a_holder_that_stood_still_learns_that_it_was_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 60)
    with exclusive(tmp_path) as stopped:
        with exclusive(tmp_path) as lock:
            assert lock.is_held() and not stopped.is_held()
        assert not stopped.is_held()
    with exclusive(tmp_path) as lock:  # the late release by the replaced holder changed nothing
        assert lock.is_held()


def test_a_number_that_was_used_and_removed_gives_no_lock(tmp_path: Path) -> None:
    """A waiter that acts on an old listing creates a number below the highest one."""
    dead_holder(tmp_path, number=7)

    assert not module._created(tmp_path, 6)
    assert os.listdir(tmp_path) == ["7"]


def test_files_of_others_do_not_matter(tmp_path: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", "-3", "²"):
        (tmp_path / name).write_bytes(b"")
    for _ in range(2):
        with exclusive(tmp_path) as lock:
            assert lock.is_held()
    assert len(os.listdir(tmp_path)) == 5
