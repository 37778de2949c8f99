"""API keys: who has access to which objects.

A key is 32 random bytes and cannot be guessed, so its plain SHA-256 is stored; a slow, salted hash would add nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator

from persrep_ray.config import ConfigError, HttpConfig, Section
from persrep_ray.storage.files import RemoteFile, file_at, read_file
from persrep_ray.storage.local import LocalStore
from persrep_ray.storage.store import ConflictError, NotFoundError, is_remote, open_store

ENVIRONMENT = "PERSREP_API_KEYS"
_MAX_FILE_BYTES = 16 * 1024 * 1024
_LOOK_EVERY_S = 1.0
_ATTEMPTS = 100  # to add a key; whenever one fails, another process has added its key
_log = logging.getLogger(__name__)


class _UnreachableError(ConfigError):
    """The keys file could not be read, and the same content may be readable later."""


class KeyEntry(Section):
    """A key as the file stores it."""

    name: str = Field(min_length=1, max_length=128)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the key, hexadecimal")
    prefixes: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,128}$")], ...] = Field(
        min_length=1, description='the key sees only objects whose id starts with one of these; "" is all'
    )
    delete: bool = Field(default=False, description="whether the key may delete objects")


class _KeyList(Section):
    keys: tuple[KeyEntry, ...]

    @field_validator("keys")
    @classmethod
    def _are_distinct(cls, keys: tuple[KeyEntry, ...]) -> tuple[KeyEntry, ...]:
        for what, values in (("name", [key.name for key in keys]), ("sha256", [key.sha256 for key in keys])):
            if len(set(values)) < len(values):
                raise ValueError(f"two keys have the same {what}")
        return keys


@dataclass(frozen=True)
class Access:
    """What a key allows."""

    prefixes: tuple[str, ...]
    may_delete: bool

    def sees(self, object_id: str) -> bool:
        return object_id.startswith(self.prefixes)


class Keys:
    """The keys of an endpoint. Changes to a keys file take effect without a restart.

    Args:
        entries: None gives everyone access.
        file: the local path or S3 URI of the keys file that is followed.
    """

    def __init__(self, entries: Sequence[KeyEntry] | None, file: str | None = None) -> None:
        self._entries = entries
        self._file = file
        self._stamp = None if file is None else _stamp(file)
        self._problem = ""  # that was logged last, so that it is not repeated every second

    @classmethod
    def load(cls, http: HttpConfig) -> Keys:
        """The keys in `http.keys_file`, else in the environment; without both, everyone has access.

        Raises `ConfigError`.
        """
        if http.keys_file is not None:
            keys = cls((), http.keys_file)  # notes the file's stamp before it is read, so that no change is missed
            keys._entries = _read(http.keys_file)
            return keys
        if ENVIRONMENT in os.environ:
            return cls(_parse(os.environ[ENVIRONMENT], ENVIRONMENT))
        return cls(None)

    @property
    def are_open(self) -> bool:
        """Whether everyone has access without a key."""
        return self._entries is None

    def access(self, key: str | None) -> Access | None:
        """What `key` allows; None if there is no such key. An open endpoint allows everything except deleting."""
        if self._entries is None:
            return Access(prefixes=("",), may_delete=False)
        if key is None:
            return None
        given = _digest(key)
        found = None
        for entry in self._entries:  # all entries, each in constant time, so that the time reveals nothing
            if hmac.compare_digest(entry.sha256, given):
                found = Access(entry.prefixes, entry.delete)
        return found

    async def follow(self) -> None:
        """Looks at the file again and again, in a thread, because storage that hangs must not stop queries."""
        while self._file is not None:
            await asyncio.sleep(_LOOK_EVERY_S)
            await asyncio.get_running_loop().run_in_executor(None, self.refresh)

    def refresh(self) -> None:
        """Reads the file if it has changed. If it is broken, the previous keys stay in force."""
        if self._file is None:
            return
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            self._problem = ""
            return
        problem = ""
        try:
            self._entries = _read(self._file)
        except _UnreachableError as error:
            problem, stamp = str(error), self._stamp  # the file is read again next time
        except ConfigError as error:
            problem = str(error)
        else:
            _log.info("%s: reloaded, %d keys", self._file, len(self._entries))
        if problem and problem != self._problem:
            _log.error("%s; the previous keys stay in force", problem)
        self._stamp, self._problem = stamp, problem


def new_key(name: str, prefixes: Sequence[str], delete: bool) -> tuple[str, KeyEntry]:
    """A new key and its entry. Raises `ConfigError`."""
    key = "prk_" + secrets.token_urlsafe(32)
    try:
        return key, KeyEntry(name=name, sha256=_digest(key), prefixes=tuple(prefixes), delete=delete)
    except ValidationError as error:
        raise ConfigError(_problem(error)) from None


def add_entry(file: str | Path, entry: KeyEntry) -> None:
    """Adds an entry to the keys file at a local path or in S3, by compare-and-swap. Raises `ConfigError`, OSError."""
    location = str(file) if is_remote(str(file)) else os.path.realpath(file)
    folder, _, name = location.rpartition("/")
    if not is_remote(location) and not os.path.isdir(folder or "/"):
        raise ConfigError(f"{folder}: no such folder")
    store = open_store(folder) if is_remote(location) else LocalStore(Path(folder or "/"), mode=0o600)
    store.check_writable()
    for _ in range(_ATTEMPTS):
        try:
            content, tag = store.read_tagged(name)
            entries = _parse(content, location)
        except NotFoundError:
            entries, tag = (), None
        text = json.dumps({"keys": [one.model_dump() for one in (*entries, entry)]}, indent=2) + "\n"
        _parse(text, location)  # the name may be in use
        try:
            store.write_if(name, text.encode(), tag)
        except ConflictError:
            continue
        return
    raise ConfigError(f"{location}: too many concurrent changes; try again")


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _read(location: str) -> tuple[KeyEntry, ...]:
    try:
        text = read_file(file_at(location), _MAX_FILE_BYTES).decode()
    except ConfigError:
        raise
    except UnicodeDecodeError:
        raise ConfigError(f"{location}: is not UTF-8 text") from None
    except OSError as error:
        raise _UnreachableError(f"{location}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"{location}: {error}") from None
    return _parse(text, location)


def _parse(text: str | bytes, where: str) -> tuple[KeyEntry, ...]:
    try:
        return _KeyList.model_validate_json(text).keys
    except ValidationError as error:
        raise ConfigError(f"{where}: {_problem(error)}") from None


def _problem(error: ValidationError) -> str:
    """The first of pydantic's errors without the value, which may be a key in the wrong place."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    return f"{key}: {first['msg']}" if key else first["msg"]


def _stamp(location: str) -> str | tuple[int, int, int] | None:
    """A value that changes whenever the file does; None if the file cannot be found."""
    try:
        file = file_at(location)
        if isinstance(file, RemoteFile):
            return file.tag
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
