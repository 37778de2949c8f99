"""A lock for the processes that share a folder, made of files that are created exclusively.

A lock is a folder of numbered files, and whoever created the file of the highest number holds it. The holder touches
its file again and again; if a waiter sees no touch for `STALE_S` by its own clock, the holder is dead. The holder
releases the lock by setting the file's time of modification to zero, which works on a full disk, too. A waiter takes
over a released or dead lock by creating the next number, which succeeds for only one waiter. The highest number is
never removed, so that the numbers never start again.

There is no `flock` here, because some file systems do not have it.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BEAT_S = 2.0
STALE_S = 15.0

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.1


class Lock:
    """A lock that this process holds, unless it stood still for so long that another process took it over."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self._number = number

    def is_held(self) -> bool:
        return _newest(self._folder) == self._number


@contextmanager
def exclusive(folder: Path) -> Iterator[Lock]:
    """Waits for the lock in `folder` (created if absent) and holds it. Raises OSError if the folder cannot be used."""
    folder.mkdir(parents=True, exist_ok=True)
    number = _acquired(folder)
    file = folder / str(number)
    released = threading.Event()
    heart = threading.Thread(target=_beat, args=(file, released), daemon=True)
    heart.start()
    try:
        yield Lock(folder, number)
    finally:
        released.set()
        heart.join()
        with suppress(FileNotFoundError):  # another process took the lock over
            os.utime(file, ns=(0, 0))


def _acquired(folder: Path) -> int:
    """The number whose file this process has created, as the highest."""
    seen: tuple[int, int] | None = None  # the highest number and when its holder touched it
    seen_at = 0.0
    pause = _FIRST_PAUSE_S
    while True:
        newest = _newest(folder)
        touched = _touched(folder / str(newest))
        if (newest, touched) != seen:
            seen, seen_at = (newest, touched), time.monotonic()
        if newest == 0 or touched == 0 or time.monotonic() - seen_at > STALE_S:
            if _created(folder, newest + 1):
                return newest + 1
            continue
        time.sleep(random.uniform(pause / 2, pause))
        pause = min(pause * 1.5, _LONGEST_PAUSE_S)


def _numbers(folder: Path) -> list[int]:
    """The numbers that were created, without files of others, such as the .DS_Store of a file manager."""
    return [int(name) for name in os.listdir(folder) if name.isascii() and name.isdecimal()]


def _newest(folder: Path) -> int:
    return max(_numbers(folder), default=0)


def _touched(file: Path) -> int:
    """When the holder last touched its file, in ns; 0 if it has released it."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return -1  # it was removed since it was listed: there is a higher number


def _created(folder: Path, number: int) -> bool:
    """Whether this process created `number` and it is the highest; then all lower numbers are removed."""
    file = folder / str(number)
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return False
    numbers = _numbers(folder)
    if max(numbers, default=0) > number:  # the listing that we acted on was old: this number had been used and removed
        file.unlink(missing_ok=True)
        return False
    for lower in numbers:
        if lower < number:
            (folder / str(lower)).unlink(missing_ok=True)
    return True


def _beat(file: Path, released: threading.Event) -> None:
    while not released.wait(BEAT_S):
        with suppress(OSError, ValueError):  # a touch that fails looks like a missed one
            os.utime(file)
