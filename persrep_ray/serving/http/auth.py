"""API keys: who may ask, about which objects.

A key is 32 random bytes, so its plain SHA-256 can be kept: there is nothing to guess, and nothing that a slow hash with
salt, as passwords need it, would add.
"""

from __future__ import annotations

import asyncio
import fcntl
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
from persrep_ray.data.images import read_regular

ENVIRONMENT = "PERSREP_API_KEYS"
_MAX_FILE_BYTES = 16 * 1024 * 1024
_LOOK_EVERY_S = 1.0
_log = logging.getLogger(__name__)


class KeyEntry(Section):
    """A key as it is kept."""

    name: str = Field(min_length=1, max_length=128)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the key, hexadecimal")
    prefixes: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,128}$")], ...] = Field(
        min_length=1, description='the key knows of the objects whose id starts with one of these; "" is all'
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
    """What a caller may do."""

    prefixes: tuple[str, ...]
    may_delete: bool

    def sees(self, object_id: str) -> bool:
        return object_id.startswith(self.prefixes)


class Keys:
    """The keys of an endpoint. Those of a file follow it: keys come and go without a restart."""

    def __init__(self, entries: Sequence[KeyEntry] | None, file: Path | None = None) -> None:
        """`entries` None: everybody may ask. `file`: where they come from."""
        self._entries = entries
        self._file = file
        self._stamp = None if file is None else _stamp(file)

    @classmethod
    def load(cls, http: HttpConfig) -> Keys:
        """From `http.keys_file`, else from the environment, else none: open to everybody. Raises `ConfigError`."""
        if http.keys_file is not None:
            file = Path(http.keys_file)
            keys = cls((), file)  # its state is noted before it is read: a change in between is then seen
            keys._entries = _read(file)
            return keys
        if ENVIRONMENT in os.environ:
            return cls(_parse(os.environ[ENVIRONMENT], ENVIRONMENT))
        return cls(None)

    @property
    def are_open(self) -> bool:
        """Whether everybody may ask."""
        return self._entries is None

    def access(self, key: str | None) -> Access | None:
        """What the holder of `key` may do, None if there is no such key.

        Without any keys everybody may do all but delete.
        """
        if self._entries is None:
            return Access(prefixes=("",), may_delete=False)
        if key is None:
            return None
        given = _digest(key)
        found = None
        for entry in self._entries:  # all of them, each in constant time: how long it takes tells nothing
            if hmac.compare_digest(entry.sha256, given):
                found = Access(entry.prefixes, entry.delete)
        return found

    async def follow(self) -> None:
        """Looks at the file again and again, in a thread: a share that hangs must not stop those who ask."""
        while self._file is not None:
            await asyncio.sleep(_LOOK_EVERY_S)
            await asyncio.get_running_loop().run_in_executor(None, self.refresh)

    def refresh(self) -> None:
        """Reads the file if it has changed. A broken one leaves the keys from before in force."""
        if self._file is None:
            return
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._entries = _read(self._file)
        except ConfigError as error:
            _log.error("%s; the keys from before stay in force", error)
        else:
            _log.info("%s: read again, %d keys", self._file, len(self._entries))


def new_key(name: str, prefixes: Sequence[str], delete: bool) -> tuple[str, KeyEntry]:
    """A fresh key, and what is kept of it. Raises `ConfigError`."""
    key = "prk_" + secrets.token_urlsafe(32)
    try:
        return key, KeyEntry(name=name, sha256=_digest(key), prefixes=tuple(prefixes), delete=delete)
    except ValidationError as error:
        raise ConfigError(_problem(error)) from None


def add_entry(file: Path, entry: KeyEntry) -> None:
    """Adds a key to the file, which nobody ever sees half-written and only its owner may read. Raises `ConfigError`."""
    file = file.resolve()
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # two at a time: neither may lose the other's key
        entries = (*(_read(file) if file.exists() else ()), entry)
        text = json.dumps({"keys": [one.model_dump() for one in entries]}, indent=2) + "\n"
        _parse(text, str(file))  # the name may be taken
        scratch = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
        try:
            with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            os.replace(scratch, file)
        finally:
            scratch.unlink(missing_ok=True)
        os.fsync(folder)
    finally:
        os.close(folder)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _read(file: Path) -> tuple[KeyEntry, ...]:
    try:
        text = read_regular(file, _MAX_FILE_BYTES).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: is not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None
    return _parse(text, str(file))


def _parse(text: str, where: str) -> tuple[KeyEntry, ...]:
    try:
        return _KeyList.model_validate_json(text).keys
    except ValidationError as error:
        raise ConfigError(f"{where}: {_problem(error)}") from None


def _problem(error: ValidationError) -> str:
    """The first of pydantic's errors without the value, which may be somebody's key in the wrong place."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    return f"{key}: {first['msg']}" if key else first["msg"]


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """Changes when the file does; None while there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
