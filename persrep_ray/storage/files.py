"""References to single files, wherever they are, and how they are read."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from pathlib import Path

from persrep_ray.config import ConfigError
from persrep_ray.storage.base import File, RemoteFile, StorageError, check_size, failure
from persrep_ray.storage.cache import cached
from persrep_ray.storage.local import read_regular
from persrep_ray.storage.store import is_remote, open_store

__all__ = ["File", "RemoteFile", "check_file_location", "file_at", "local_path", "read_file", "write_file"]


def file_at(location: str | Path) -> File:
    """The file at a local path, which need not exist, or at "s3://bucket/key".

    Raises ConfigError if the location is not one, and NotFoundError and other `StorageError` from S3.
    """
    if not is_remote(str(location)):
        return Path(location)
    folder, _, name = str(location).rpartition("/")
    if not name or folder.endswith("/"):
        raise ConfigError(f"{location}: expected a file, as in s3://bucket/folder/file")
    return open_store(folder).file(name)


def local_path(file: File) -> Path:
    """A local path with the content of `file`: a path itself, or this node's copy, which is fetched once.

    The copy keeps the suffix of the name and must only be read. Raises `StorageError`.
    """
    if isinstance(file, Path):
        return file
    from persrep_ray.storage.s3 import S3Store  # boto3 takes a second to import

    bucket, _, key = file.uri.removeprefix("s3://").partition("/")
    name = hashlib.sha256(f"{file.uri}\0{file.tag}".encode()).hexdigest()
    suffix = file.suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,16}", file.suffix) else ""
    try:
        return cached(name + suffix, lambda target: S3Store(bucket).download(key, file.tag, target))
    except StorageError:
        raise
    except OSError as error:  # the disk of the cache is full, say
        raise failure(StorageError, "cache", file.uri, error.strerror or str(error)) from error


def read_file(file: File, max_bytes: int) -> bytes:
    """The bytes of a regular file; `OSError` or `ValueError` if there is none.

    A FIFO is refused, not waited for; a file that is larger than `max_bytes` is neither fetched nor read. The messages
    about a local file do not name it.
    """
    if isinstance(file, RemoteFile):
        check_size(file.size, max_bytes)
    while True:
        path = local_path(file)
        try:
            return read_regular(path, max_bytes)
        except FileNotFoundError:
            if isinstance(file, Path):
                raise


def check_file_location(location: str) -> None:
    """Makes sure that `write_file` will work. Raises ConfigError, `StorageError`."""
    if is_remote(location):
        open_store(location.rpartition("/")[0]).check_writable()
    elif os.path.isdir(location):
        raise ConfigError(f"{location} is a folder; expected a file")


def write_file(location: str, data: bytes) -> None:
    """Creates or replaces the file at a local path or at "s3://bucket/key". Raises ConfigError, OSError."""
    if is_remote(location):
        folder, _, name = location.rpartition("/")
        open_store(folder).write(name, data)
        return
    path = Path(os.path.realpath(location))  # a link keeps leading to the file
    if path.exists() and not path.is_file():  # /dev/stdout cannot be replaced
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        scratch.write_bytes(data)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
