"""What the folder store and the S3 store share: errors, entries, references to files, and which keys are safe."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

RESERVED = ".persrep"  # the folder store keeps its locks and unfinished files in this folder at its root

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class StorageError(OSError):
    """A storage operation failed. The message is one line, "<operation> <uri>: <cause>", and holds no secret."""


class NotFoundError(StorageError, FileNotFoundError):
    """There is nothing at this key."""


class ConflictError(StorageError):
    """The content changed since its tag was read."""


class AccessError(StorageError):
    """The store refuses every such request: no permission, no such bucket, bad credentials or a wrong endpoint."""


_Failure = TypeVar("_Failure", bound=StorageError)


def failure(kind: type[_Failure], operation: str, uri: str, cause: str) -> _Failure:
    """An error of this kind; characters that would break its line are replaced."""
    return kind(_UNPRINTABLE.sub("?", f"{operation} {uri}: {cause}"))


class Entry(NamedTuple):
    """One listed file: its size in bytes, and a tag that changes whenever its content does."""

    key: str
    size: int
    tag: str


@dataclass(frozen=True)
class RemoteFile:
    """One version of one object in S3. `str()` gives its full name."""

    uri: str
    tag: str
    size: int

    @property
    def name(self) -> str:
        return PurePosixPath(self.uri).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.uri).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.uri).suffix

    def __str__(self) -> str:
        return self.uri


File = Path | RemoteFile


def is_key(key: str) -> bool:
    """Whether `key` is relative, has no '.', '..' or empty part, and does not enter the reserved folder."""
    parts = key.split("/")
    return not any(part in ("", ".", "..") for part in parts) and "\0" not in key and parts[0] != RESERVED


def check_key(key: str) -> str:
    """Returns `key`; raises ValueError if it is not a safe one."""
    if not is_key(key):
        raise ValueError(f"bad key {key!r:.200}: expected names joined by '/', none of them empty, '.' or '..'")
    return key


def check_prefix(prefix: str) -> str:
    """Returns `prefix`, the beginning of safe keys; raises ValueError if no safe key can begin so."""
    folder, _, _ = prefix.rpartition("/")
    if folder or prefix.startswith("/"):
        check_key(folder)
    return prefix


def check_size(size: int, max_bytes: int | None) -> None:
    """Raises ValueError, whose message does not name the file, if `size` is over the limit."""
    if max_bytes is not None and size > max_bytes:
        raise ValueError(f"{size:,} bytes, the limit is {max_bytes:,}")
