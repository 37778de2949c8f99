"""The interface that a folder and S3 share, and how a location that a user gives becomes a store."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from persrep_ray.config import ConfigError
from persrep_ray.storage.base import (
    AccessError,
    ConflictError,
    Entry,
    File,
    NotFoundError,
    StorageError,
    is_key,
)
from persrep_ray.storage.local import LocalStore

__all__ = [
    "AccessError",
    "ConflictError",
    "Entry",
    "NotFoundError",
    "StorageError",
    "Store",
    "is_remote",
    "join",
    "open_store",
]

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_EXPECTED = "expected a folder or s3://bucket/prefix"


class Store(Protocol):
    """Files by key below a folder or an S3 prefix. A store can be pickled, and stores of one place are equal.

    A key is relative, with names joined by '/', none of them empty, '.' or '..'; other keys raise ValueError. Readers
    see a file whole, as it was before or after a write. All methods raise `StorageError`.
    """

    @property
    def uri(self) -> str:
        """The absolute path of the folder, or "s3://bucket/prefix"."""

    def url(self, key: str) -> str:
        """The full name of a key, for messages."""

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """The files whose keys start with this string, sorted by key. Files that are being written are left out."""

    def stat(self, key: str) -> Entry | None:
        """The entry of one file; None if there is none."""

    def read(self, key: str, *, max_bytes: int | None = None) -> bytes:
        """The content of a file. Raises NotFoundError, and ValueError (without the name) before it reads too much."""

    def read_tagged(self, key: str) -> tuple[bytes, str]:
        """The content of a file and its tag, for `write_if`. Raises NotFoundError."""

    def write(self, key: str, data: bytes | Path) -> None:
        """Creates or replaces a file, durably, by the given content or that of a local file."""

    def write_if(self, key: str, data: bytes, tag: str | None) -> str:
        """Writes only if the file's tag is still `tag`, or, for None, if there is no file; returns the new tag.

        Raises ConflictError otherwise. A key that is written so must not be written by `write`.
        """

    def delete(self, key: str) -> None:
        """Removes a file; nothing happens if there is none."""

    def delete_all(self, prefix: str) -> None:
        """Removes all files whose keys start with this string, and the folders that become empty."""

    def file(self, key: str) -> File:
        """A reference to the file as it is now, for reading later. Raises NotFoundError."""

    def files(self, prefix: str) -> dict[str, File]:
        """References to all files whose keys start with this string, by key."""

    def local_copy(self, prefix: str) -> Path:
        """A local folder with all files below the folder `prefix`: the folder itself, or a copy of this node.

        Raises NotFoundError if there is none. The folder must only be read.
        """

    def check_writable(self) -> None:
        """Makes sure at the start that writing will work.

        Raises AccessError if writing is refused, and ConfigError if an S3 store ignores conditional writes.
        """


def open_store(location: str | Path) -> Store:
    """The store at a path or at "s3://bucket/prefix"; nothing is read or created. Raises ConfigError."""
    location = str(location)
    if not is_remote(location):
        return LocalStore(Path(os.path.abspath(location)))
    bucket, _, prefix = location[len("s3://") :].partition("/")
    if "@" in bucket or ":" in bucket:
        raise ConfigError("an s3:// location must not hold credentials: they come from the usual AWS settings")
    prefix = prefix.rstrip("/")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(f"{location}: {bucket!r} is not the name of a bucket; expected s3://bucket/prefix")
    if prefix and not is_key(prefix):
        raise ConfigError(f"{location}: bad prefix; expected names joined by '/', none of them empty, '.' or '..'")
    from persrep_ray.storage.s3 import S3Store  # boto3 takes a second to import

    return S3Store(bucket, f"{prefix}/" if prefix else "")


def is_remote(location: str) -> bool:
    """Whether a location is in S3, not on a local path. Raises ConfigError for other schemes.

    A colon before the first slash belongs to a scheme, so the folder "a:b" is written "./a:b".
    """
    if not location:
        raise ConfigError(f"an empty location; {_EXPECTED}")
    scheme, colon, rest = location.partition(":")
    if not colon or "/" in scheme:
        return False
    if scheme.lower() != "s3" or not rest.startswith("//"):  # the rest is not repeated: it may hold a password
        raise ConfigError(
            f"unknown kind of location {f'{scheme}:'!r:.40}; {_EXPECTED} (a local path with a colon: ./a:b)"
        )
    return True


def join(location: str, *parts: str) -> str:
    """A location below another one."""
    return "/".join([location.rstrip("/"), *parts]) if is_remote(location) else os.path.join(location, *parts)
