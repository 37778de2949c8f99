"""The lock of a run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.s3_server import FaultyS3

from persrep_ray.config import ConfigError
from persrep_ray.storage import lock as module
from persrep_ray.storage.lock import held
from persrep_ray.storage.store import ConflictError, Store, open_store


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.02)
    monkeypatch.setattr(module, "WATCH_S", 0.01)


@pytest.fixture
def said() -> list[str]:
    return []


def elsewhere(store: Store, **changes: Any) -> str:
    """A process on another machine takes the lock; returns the tag."""
    owner = {"owner": "theirs", "host": "far-away", "machine": "boot pid:[1]", "pid": 7, "started": "1", "beat": 0}
    return store.write_if("lock", json.dumps({**owner, **changes}).encode(), None)


def test_a_second_run_is_refused_and_told_who_is_first(store: Store, said: list[str]) -> None:
    with held(store, "lock", "another run uses this folder", said.append):
        second = held(store, "lock", "another run uses this folder", said.append)
        with pytest.raises(ConfigError) as caught, second:
            pass
        assert str(caught.value) == (
            f"another run uses this folder (process {os.getpid()} on host {socket.gethostname()})"
        )
    with held(store, "lock", "another run uses this folder", said.append) as lock:
        assert not lock.lost
    assert said == []


def test_the_lock_is_released_after_an_error(store: Store, said: list[str]) -> None:
    with pytest.raises(KeyError), held(store, "lock", "busy", said.append):
        raise KeyError
    with held(store, "lock", "busy", said.append):
        pass


def test_the_lock_of_a_killed_process_on_this_machine_is_taken_over_at_once(store: Store, said: list[str]) -> None:
    script = (
        "import os, sys; from persrep_ray.storage.lock import held; from persrep_ray.storage.store import open_store\n"
        "with held(open_store(sys.argv[1]), 'lock', 'busy', print): os._exit(9)"
    )
    with subprocess.Popen([sys.executable, "-c", script, store.uri]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is dead, and its parent has not asked yet

        with held(store, "lock", "busy", said.append) as lock:
            assert json.loads(store.read("lock"))["pid"] == os.getpid() and not lock.lost
        assert said == []


def test_a_process_number_that_was_given_again_does_not_hold_the_lock(store: Store, said: list[str]) -> None:
    elsewhere(store, machine=module._machine(), pid=os.getpid(), started="1")
    with held(store, "lock", "busy", said.append):
        pass
    assert said == []


def test_the_lock_of_another_machine_is_taken_over_when_it_stands_still(
    store: Store, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALE_S", 0.05)
    elsewhere(store)
    with held(store, "lock", "busy", said.append):
        assert json.loads(store.read("lock"))["host"] == socket.gethostname()
    assert said == [f"{store.url('lock')}: waiting up to 0.05 s to see whether the process that holds it is alive"]


def test_a_living_process_on_another_machine_is_noticed_by_its_beat(store: Store) -> None:
    tag = elsewhere(store)
    owner = json.loads(store.read("lock"))

    def beat_once(_: str) -> None:
        store.write_if("lock", json.dumps({**owner, "beat": 1}).encode(), tag)

    refused = pytest.raises(ConfigError, match=r"^busy \(process 7 on host far-away\)$")
    with refused, held(store, "lock", "busy", beat_once):
        pass


def test_a_lock_that_is_released_while_we_wait_is_ours(store: Store) -> None:
    tag = elsewhere(store)
    with held(store, "lock", "busy", lambda _: store.write_if("lock", b"{}", tag) and None):
        assert json.loads(store.read("lock"))["pid"] == os.getpid()


def test_damaged_content_is_waited_for_and_replaced(
    store: Store, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALE_S", 0.05)
    store.write_if("lock", b"\xff", None)
    with held(store, "lock", "busy", said.append):
        pass
    assert len(said) == 1


@pytest.fixture
def beaten(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """Counts the beats of the holder."""
    count = threading.Semaphore(0)
    rewrite = module.Held._rewrite

    def counted(self: module.Held, content: dict[str, Any]) -> None:
        try:
            rewrite(self, content)
        finally:
            count.release()

    monkeypatch.setattr(module.Held, "_rewrite", counted)
    yield count


def test_a_holder_rewrites_the_lock_again_and_again(store: Store, said: list[str], beaten: threading.Semaphore) -> None:
    with held(store, "lock", "busy", said.append):
        for _ in range(2):
            assert beaten.acquire(timeout=10)
        assert json.loads(store.read("lock"))["beat"] >= 2
    assert store.read("lock") == b"{}"


def test_a_holder_whose_lock_was_taken_over_learns_of_it(
    store: Store, said: list[str], beaten: threading.Semaphore
) -> None:
    told = pytest.raises(ConflictError, match=f"^hold {store.url('lock')}: another process has taken the lock over$")
    with told, held(store, "lock", "busy", said.append) as lock:
        store.delete("lock")
        elsewhere(store)
        while not lock.lost:
            assert beaten.acquire(timeout=10)
    assert json.loads(store.read("lock"))["owner"] == "theirs"


def test_a_holder_outlives_answers_that_get_lost(s3: FaultyS3, said: list[str], beaten: threading.Semaphore) -> None:
    store = open_store(s3.uri)
    with held(store, "lock", "busy", said.append) as lock:
        assert beaten.acquire(timeout=10)
        s3.fail("lost", times=8, when=lambda request: request.operation == "PutObject")
        for _ in range(4):
            assert beaten.acquire(timeout=10)
        assert not lock.lost
    assert store.read("lock") == b"{}"
