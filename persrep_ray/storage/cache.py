"""The node's copies of remote files: fetched once, shared by all processes of the node, bounded.

They lie in `$PERSREP_CACHE/files` (default: `~/.cache/persrep-ray/files`) and take at most `PERSREP_CACHE_BYTES` bytes
(default: 20 GiB), the least recently used go first. A copy appears by a rename, so a reader never sees half of one, and
one that is open when it goes can still be read.
"""

from __future__ import annotations

import os
import random
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from persrep_ray.config import ConfigError
from persrep_ray.storage.exclusive import exclusive

_DEFAULT_BYTES = 20 * 1024**3

_FREED_SHARE = 1 / 8
_COUNTED_SHARE = 1 / 128  # of the limit: 16 processes that each add this much stay within what was freed
_LEFTOVER_AGE_S = 24 * 3600  # a hidden item that is older was left by a process that died


def cache_folder() -> Path:
    """`$PERSREP_CACHE`, else `~/.cache/persrep-ray`."""
    return Path(os.environ.get("PERSREP_CACHE") or Path.home() / ".cache" / "persrep-ray")


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The file or folder `name` in the cache, made by `make(path)` if this node does not have it yet.

    Only one process of the node makes it, and the others wait for it. Raises whatever `make` raises, and OSError.
    """
    folder = cache_folder() / "files"
    item = folder / name
    if _used(item):
        return item
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with exclusive(folder.parent / "locks" / name[:3]):
        if _used(item):
            return item
        scratch = folder / f".{uuid.uuid4().hex}"
        try:
            make(scratch)
            scratch.rename(item)
        except OSError:
            if not _used(item):  # another process took the lock over and was faster
                raise
        finally:
            _remove(scratch)
    _make_room(folder, item)
    return item


def _used(item: Path) -> bool:
    """Whether the item exists; if so, it is now the most recently used one."""
    try:
        os.utime(item)
    except FileNotFoundError:
        return False
    return True


def _make_room(folder: Path, newest: Path) -> None:
    """Removes the least recently used items if the cache is over its limit, but never `newest`.

    Counting all items takes long where there are many, so it is done with a chance in proportion to what was added.
    """
    limit = _limit()
    if _size(newest) < random.random() * limit * _COUNTED_SHARE:
        return
    items = sorted((status.st_mtime, path, _size(path)) for path in folder.iterdir() if (status := _status(path)))
    total = sum(size for _, _, size in items)
    if total <= limit:
        return
    for used, path, size in items:
        if total <= limit * (1 - _FREED_SHARE):
            break
        if path == newest or (path.name.startswith(".") and time.time() - used < _LEFTOVER_AGE_S):
            continue
        _remove(path)
        total -= size


def _limit() -> int:
    text = os.environ.get("PERSREP_CACHE_BYTES") or str(_DEFAULT_BYTES)
    if not text.isdecimal():
        raise ConfigError(f"PERSREP_CACHE_BYTES: expected a number of bytes, got {text!r}")
    return int(text)


def _size(item: Path) -> int:
    """Bytes of a file or of all files in a folder; 0 if it is gone."""
    paths = [Path(parent, name) for parent, _, names in os.walk(item) for name in names] or [item]
    return sum(status.st_size for path in paths if (status := _status(path)))


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _remove(item: Path) -> None:
    if item.is_dir():
        doomed = item.with_name(f".{uuid.uuid4().hex}")
        with suppress(FileNotFoundError):  # another process was faster
            item.rename(doomed)  # for readers it goes at one instant
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        item.unlink(missing_ok=True)
