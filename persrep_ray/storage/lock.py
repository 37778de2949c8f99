"""The lock of a run: one holder at a time, on a folder and on S3, that outlives no process.

The lock is a file that its holder rewrites every `BEAT_S` seconds by compare-and-swap. A released lock is an empty JSON
object, because S3 stores cannot delete a file only if it is unchanged.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from persrep_ray.config import ConfigError
from persrep_ray.storage.base import ConflictError, NotFoundError, StorageError, failure
from persrep_ray.storage.store import Store

BEAT_S = 5.0
STALE_S = 30.0  # a lock that nobody has rewritten for so long, by the clock of whoever waits, belongs to a dead process

_WATCH_S = 1.0  # how often a waiter looks


class Held:
    """A lock that this process holds. `lost` becomes true when another process has taken it over."""

    def __init__(self, store: Store, key: str, owner: dict[str, Any], tag: str) -> None:
        self.lost = False
        self._store, self._key, self._owner, self._tag = store, key, owner, tag
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    def release(self) -> None:
        """Lets others have the lock, if it is still held. Raises StorageError."""
        self._released.set()
        self._heart.join()
        if not self.lost:
            self._rewrite({})

    def _beat(self) -> None:
        beat = 0
        while not self.lost and not self._released.wait(BEAT_S):
            beat += 1
            try:
                self._rewrite({**self._owner, "beat": beat})
            except StorageError:
                pass  # the store may come back before anybody takes the lock over

    def _rewrite(self, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        try:
            self._tag = self._store.write_if(self._key, data, self._tag)
        except ConflictError:
            holder, tag = _read(self._store, self._key)
            if holder.get("owner") != self._owner["owner"]:
                self.lost = True
            elif tag is not None:  # an earlier write arrived although it seemed to fail
                self._tag = self._store.write_if(self._key, data, tag)


@contextmanager
def held(store: Store, key: str, busy: str, say: Callable[[str], None]) -> Iterator[Held]:
    """Holds the lock `key` while the body runs.

    If another process holds it, ConfigError is raised, which begins with `busy` and names that process. The lock of a
    dead process is taken over: at once if the process was on this machine, otherwise when the lock has not changed for
    `STALE_S`, which `say` is told. If another process takes this lock over, the yielded `lost` becomes true, and
    ConflictError is raised after a body that ended without an error.
    """
    owner = {"owner": uuid.uuid4().hex, **_process(os.getpid()), "beat": 0}
    lock = Held(store, key, owner, _acquired(store, key, owner, busy, say))
    try:
        yield lock
    except BaseException:
        _release_after_error(lock)
        raise
    lock.release()
    if lock.lost:
        raise failure(ConflictError, "hold", store.url(key), "another process has taken the lock over")


def _release_after_error(lock: Held) -> None:
    try:
        lock.release()
    except StorageError:
        pass  # the error of the body matters more


def _acquired(store: Store, key: str, owner: dict[str, Any], busy: str, say: Callable[[str], None]) -> str:
    """The tag of the lock, now that it is ours."""
    while True:
        holder, tag = _read(store, key)
        if tag is not None and holder and not _is_gone(holder):
            _await_death(store, key, holder, tag, busy, say)
        try:
            return store.write_if(key, json.dumps(owner).encode(), tag)
        except ConflictError:
            continue  # it was released or taken meanwhile


def _await_death(
    store: Store, key: str, holder: dict[str, Any], tag: str, busy: str, say: Callable[[str], None]
) -> None:
    """Returns when the lock has not changed for `STALE_S`; raises ConfigError once its holder shows a sign of life."""
    refusal = ConfigError(f"{busy} (process {holder.get('pid')} on host {holder.get('host')})")
    if _is_here(holder):
        raise refusal
    say(f"{store.url(key)}: waiting up to {STALE_S:.0f} s to see whether its holder is alive")
    started = time.monotonic()
    while time.monotonic() - started < STALE_S:
        time.sleep(_WATCH_S)
        entry = store.stat(key)
        if entry is None:
            return
        if entry.tag != tag:
            raise refusal


def _read(store: Store, key: str) -> tuple[dict[str, Any], str | None]:
    """(the holder, empty if the lock is released; the tag, None if there is no file)."""
    try:
        data, tag = store.read_tagged(key)
    except NotFoundError:
        return {}, None
    try:
        holder = json.loads(data)
    except ValueError:
        holder = None
    return holder if isinstance(holder, dict) else {"host": "unknown"}, tag


def _process(pid: int) -> dict[str, Any]:
    """What tells a process from all others, on all machines and in all containers."""
    return {
        "host": socket.gethostname(),
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "pid_namespace": os.readlink("/proc/self/ns/pid"),
        "pid": pid,
        "started": _started(pid),
    }


def _started(pid: int) -> str | None:
    """When a process was started, in ticks since the machine's start; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]


def _is_here(holder: dict[str, Any]) -> bool:
    """Whether the holder's process would be seen in this machine's /proc."""
    here = _process(os.getpid())
    return all(holder.get(name) == here[name] for name in ("host", "boot", "pid_namespace"))


def _is_gone(holder: dict[str, Any]) -> bool:
    return _is_here(holder) and _started(int(holder.get("pid", 0))) != holder.get("started")
