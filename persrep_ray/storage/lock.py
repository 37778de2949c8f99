"""The lock of a run, on a folder and on S3: it has one holder at a time, and the lock of a dead process is taken over.

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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from persrep_ray.config import ConfigError
from persrep_ray.storage.base import ConflictError, NotFoundError, StorageError, failure
from persrep_ray.storage.store import Store

BEAT_S = 5.0
STALE_S = 30.0  # a lock that nobody has rewritten for so long, by the clock of whoever waits, belongs to a dead process
WATCH_S = 1.0  # how often a waiter looks


class Held:
    """A lock that this process holds. `lost` becomes true when another process has taken it over."""

    def __init__(self, store: Store, key: str, owner: dict[str, Any], tag: str) -> None:
        self.lost = False
        self._store, self._key, self._owner, self._tag = store, key, owner, tag
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    def release(self) -> None:
        """Lets other processes have the lock, if it is still held."""
        self._released.set()
        self._heart.join()
        if not self.lost:
            with suppress(StorageError):  # the lock will look like that of a dead process
                self._rewrite({})

    def _beat(self) -> None:
        beat = 0
        while not self.lost and not self._released.wait(BEAT_S):
            beat += 1
            with suppress(OSError, ValueError):  # the store may come back before another process takes the lock over
                self._rewrite({**self._owner, "beat": beat})

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
    pid = os.getpid()
    owner: dict[str, Any] = {"owner": uuid.uuid4().hex, "host": socket.gethostname(), "machine": _machine()}
    owner |= {"pid": pid, "started": _started(pid), "beat": 0}
    lock = Held(store, key, owner, _acquired(store, key, owner, busy, say))
    try:
        yield lock
    finally:
        lock.release()
    if lock.lost:
        raise failure(ConflictError, "hold", store.url(key), "another process has taken the lock over")


def _acquired(store: Store, key: str, owner: dict[str, Any], busy: str, say: Callable[[str], None]) -> str:
    """The tag of the lock, now that it is ours. Raises ConfigError once its holder shows a sign of life."""
    watched: dict[str, str | None] = {}  # the holder that we wait for and the tag of its lock
    since = 0.0
    while True:
        holder, tag = _read(store, key)
        if holder and not _is_gone(holder):
            name = str(holder.get("owner"))
            if _is_here(holder) or watched.get(name, tag) != tag:
                raise ConfigError(f"{busy} (process {holder.get('pid')} on host {holder.get('host')})")
            if name not in watched:
                say(f"{store.url(key)}: waiting up to {STALE_S:g} s to see whether the process that holds it is alive")
                watched, since = {name: tag}, time.monotonic()
            if time.monotonic() - since < STALE_S:
                time.sleep(WATCH_S)
                continue
        try:
            return store.write_if(key, json.dumps(owner).encode(), tag)
        except ConflictError:
            continue  # it was released or taken meanwhile


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


def _machine() -> str | None:
    """What all processes share that see each other in /proc; None on systems without it."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: object) -> str | None:
    """When a process was started, in ticks since the machine's start; None if it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _is_here(holder: dict[str, Any]) -> bool:
    """Whether the holder, if it runs, is in this machine's /proc."""
    return holder.get("machine") is not None and holder["machine"] == _machine()


def _is_gone(holder: dict[str, Any]) -> bool:
    return _is_here(holder) and _started(holder.get("pid")) != holder.get("started")
