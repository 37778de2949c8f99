"""A folder as a store.

    <root>/<key>                       the files
    <root>/.persrep/writing/           files that are being written; they get their names by a rename
    <root>/.persrep/locks/             locks of compare-and-swap, because a rename alone overwrites

All must lie on one file system. Tags are made of the time of modification and the size, so that a listing needs no
read. A tag never repeats: each write sets a time later than that of the file it replaces, even where the file system's
clock is coarse. Inode numbers are left out because some network file systems change them with each mount.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from errno import EACCES, ENOTDIR, EPERM, EROFS
from pathlib import Path
from typing import BinaryIO

from persrep_ray.storage.base import (
    RESERVED,
    AccessError,
    ConflictError,
    Entry,
    File,
    NotFoundError,
    StorageError,
    check_key,
    check_prefix,
    check_size,
    failure,
    is_key,
)
from persrep_ray.storage.exclusive import exclusive

_LEFTOVER_AGE_S = 3600  # a writer that wrote nothing for so long is dead


@dataclass(frozen=True)
class LocalStore:
    """The files below the absolute folder `root`, which is created by the first write.

    New files get the permissions `mode`, less the umask; a file that is replaced keeps its own.
    """

    root: Path
    mode: int = field(default=0o666, compare=False)

    @property
    def uri(self) -> str:
        return str(self.root)

    def url(self, key: str) -> str:
        return str(self.root / key)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        folder, _, _ = check_prefix(prefix).rpartition("/")
        with self._errors("list", prefix):
            yield from self._walk(folder, prefix, above=())

    def stat(self, key: str) -> Entry | None:
        try:
            with self._errors("stat", key):
                status = self._path(key).stat()
        except NotFoundError:
            return None
        return Entry(key, status.st_size, _tag(status)) if stat.S_ISREG(status.st_mode) else None

    def read(self, key: str, *, max_bytes: int | None = None) -> bytes:
        with self._errors("read", key):
            return read_regular(self._path(key), max_bytes)

    def read_tagged(self, key: str) -> tuple[bytes, str]:
        with self._errors("read", key), _opened(self._path(key)) as file:
            return file.read(), _tag(os.fstat(file.fileno()))

    def write(self, key: str, data: bytes | Path) -> None:
        with self._errors("write", key):
            target = self._path(key)
            with self._written(data) as scratch:
                _replace(scratch, target)

    def write_if(self, key: str, data: bytes, tag: str | None) -> str:
        name = hashlib.sha256(check_key(key).encode(errors="surrogateescape")).hexdigest()
        locks = self.root / RESERVED / "locks"
        with self._errors("write", key), self._written(data) as scratch, exclusive(locks / name[:2]) as lock:
            current = self.stat(key)
            if (current.tag if current else None) != tag or not lock.is_held():
                raise failure(ConflictError, "write", self.url(key), "it was changed by another process")
            return _replace(scratch, self._path(key))

    def delete(self, key: str) -> None:
        with self._errors("delete", key), suppress(FileNotFoundError, NotADirectoryError):
            path = self._path(key)
            path.unlink()
            _sync(path.parent)

    def delete_all(self, prefix: str) -> None:
        folder, _, _ = check_prefix(prefix).rpartition("/")
        top = self.root / folder
        with self._errors("delete", prefix):
            if os.path.realpath(top) != os.path.join(os.path.realpath(self.root), folder).rstrip("/"):
                raise OSError("a symbolic link is on the way")
            for parent, folders, files in os.walk(top, topdown=False, onerror=_raise_unless_absent):
                for name in (*folders, *files):
                    path = Path(parent, name)
                    key = path.relative_to(self.root).as_posix()
                    if not is_key(key):
                        continue
                    if path.is_symlink() or not path.is_dir():
                        if key.startswith(prefix):
                            path.unlink(missing_ok=True)  # of a link, not of what it leads to
                    elif f"{key}/".startswith(prefix):
                        _remove_if_empty(path)
            if folder and prefix.endswith("/"):
                _remove_if_empty(top)

    def file(self, key: str) -> File:
        if self.stat(key) is None:
            raise failure(NotFoundError, "find", self.url(key), "no such file")
        return self.root / key

    def files(self, prefix: str) -> dict[str, File]:
        return {entry.key: self.root / entry.key for entry in self.list(prefix)}

    def local_copy(self, prefix: str) -> Path:
        folder = prefix.rstrip("/")
        with self._errors("find", folder):
            path = self._inside(self.root / check_key(folder) if folder else self.root)
            if not path.is_dir():
                raise NotADirectoryError(ENOTDIR, "no such folder", str(path))
        return path

    def check_writable(self) -> None:
        with self._errors("write", ""):
            with self._written(b"-"):
                pass
            for leftover in self._writing.iterdir():
                with suppress(FileNotFoundError):  # its writer was alive
                    if time.time() - leftover.stat().st_mtime > _LEFTOVER_AGE_S:
                        leftover.unlink()

    @property
    def _writing(self) -> Path:
        return self.root / RESERVED / "writing"

    def _path(self, key: str) -> Path:
        return self._inside(self.root / check_key(key))

    def _inside(self, path: Path) -> Path:
        """Returns `path`; raises OSError if a symbolic link on the way leads out of the root."""
        if not _is_below(path, os.path.realpath(self.root)):
            raise OSError(f"a symbolic link leads out of {self.root}")
        return path

    def _walk(self, folder: str, prefix: str, above: tuple[str, ...]) -> Iterator[Entry]:
        """The regular files below `folder` in the order of their keys; links that leave the root are left out."""
        here = self.root / folder
        real = os.path.realpath(here)
        if real in above:  # a link to a folder that it lies in
            return
        try:
            with os.scandir(here) as found:
                entries = sorted(found, key=lambda entry: f"{entry.name}/" if _is_folder(entry) else entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            key = f"{folder}/{entry.name}" if folder else entry.name
            if not is_key(key) or not (key.startswith(prefix) or prefix.startswith(f"{key}/")):
                continue
            if entry.is_symlink() and not _is_below(here / entry.name, os.path.realpath(self.root)):
                continue
            if _is_folder(entry):
                yield from self._walk(key, prefix, (*above, real))
                continue
            with suppress(OSError):  # it was deleted meanwhile, or is a broken link
                status = entry.stat()
                if stat.S_ISREG(status.st_mode) and key.startswith(prefix):
                    yield Entry(key, status.st_size, _tag(status))

    @contextmanager
    def _written(self, data: bytes | Path) -> Iterator[Path]:
        """A flushed file with this content, which is removed at the end unless it was renamed."""
        self._writing.mkdir(parents=True, exist_ok=True)
        scratch = self._writing / uuid.uuid4().hex
        try:
            scratch.touch(self.mode, exist_ok=False)
            if isinstance(data, bytes):
                scratch.write_bytes(data)
            else:
                shutil.copyfile(data, scratch)
            _sync(scratch)
            yield scratch
        finally:
            scratch.unlink(missing_ok=True)

    @contextmanager
    def _errors(self, operation: str, key: str) -> Iterator[None]:
        """Turns the errors of the system into those of a store."""
        try:
            yield
        except StorageError:
            raise
        except OSError as error:
            kind: type[StorageError] = StorageError
            if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
                kind = NotFoundError
            elif error.errno in (EACCES, EPERM, EROFS):
                kind = AccessError
            cause = error.strerror or str(error)
            if error.filename not in (None, self.url(key)):
                cause += f": {error.filename}"
            raise failure(kind, operation, self.url(key), cause) from error


def read_regular(path: Path, max_bytes: int | None) -> bytes:
    """The bytes of the regular file at `path`; `OSError` or `ValueError` (message without the path) if there is none.

    Never blocks: a FIFO is refused, not waited for; a file that is larger than `max_bytes`, or grows so, is not read.
    """
    with _opened(path) as file:
        if max_bytes is None:
            return file.read()
        check_size(os.fstat(file.fileno()).st_size, max_bytes)
        return file.read(max_bytes + 1)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("not a regular file")
        yield file


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_below(path: Path, real_root: str) -> bool:
    real = os.path.realpath(path)
    return real == real_root or real.startswith(os.path.join(real_root, ""))


def _tag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _replace(scratch: Path, target: Path) -> str:
    """Renames a flushed file to `target`, whose permissions stay, for readers at one instant; returns its tag."""
    try:
        replaced = target.stat()
    except FileNotFoundError:
        replaced_ns = 0
        _make_folder(target.parent)
    else:
        replaced_ns = replaced.st_mtime_ns
        if replaced.st_mode != scratch.stat().st_mode:
            scratch.chmod(stat.S_IMODE(replaced.st_mode))
    tag = _stamp(scratch, replaced_ns)
    os.replace(scratch, target)
    _sync(target.parent)
    return tag


def _stamp(file: Path, after_ns: int) -> str:
    """Sets a time of modification later than `after_ns`, in steps that the file system can store; returns the tag."""
    modified_ns, step_ns = max(time.time_ns(), after_ns + 1), 100
    while True:
        os.utime(file, ns=(modified_ns, modified_ns))
        status = file.stat()
        if status.st_mtime_ns > after_ns:
            return _tag(status)
        modified_ns, step_ns = modified_ns + step_ns, 10 * step_ns


def _make_folder(folder: Path) -> None:
    """Creates a folder and its parents, so that they survive a power cut."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(path: Path) -> None:
    """Flushes a file, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
