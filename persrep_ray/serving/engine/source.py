"""The registry as serving reads it: what went wrong is told apart into absent, damaged and unreachable."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from persrep_ray.data.images import read_regular
from persrep_ray.data.objects import OBJECT_ID
from persrep_ray.registry.registry import FILES, NotPublishedError, Registry, RegistryError
from persrep_ray.serving.engine.answers import AdapterRef
from persrep_ray.serving.engine.errors import AdapterUnusableError, RegistryUnavailableError, VersionNotFoundError

_MAX_FILE_BYTES = 256 * 1024 * 1024
_SETTLED_S = 2.0  # a file changed less long ago may change once more without a new time stamp
_DAMAGE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)  # of one file, not of the storage
_log = logging.getLogger(__name__)


class _Pointer(NamedTuple):
    """What an object's pointer said. `stamp` changes when the pointer does; None: read it again in any case."""

    stamp: tuple[int, int, int] | None
    version: str | None


class Source:
    """Reads of the registry in the folder `root`. All methods block; `RegistryUnavailableError` from any of them.

    An absent folder is a registry out of reach (a share that is not mounted), not an empty one.
    """

    def __init__(self, root: str | Path) -> None:
        self._registry = Registry(Path(root).absolute())
        self._objects = self._registry.root / "objects"
        self._pointers: dict[str, _Pointer] = {}

    def live(self) -> dict[str, str]:
        """The live version of every object; a pointer that is damaged leaves the version it had. One call at a time.

        Of what did not change since the last call only the time stamp is read: 100,000 objects take about a second.
        """
        self._check()
        pointers = {}
        name = ""
        try:
            for name in os.listdir(self._objects):
                if OBJECT_ID.fullmatch(name):
                    pointers[name] = self._pointer(name)
        except OSError as error:
            raise RegistryUnavailableError(f"the registry cannot be read: {name} {error.strerror}") from error
        self._check()  # gone meanwhile: the list would look as if everything was deleted
        self._pointers = pointers
        return {object_id: found.version for object_id, found in pointers.items() if found.version is not None}

    def versions(self, object_id: str) -> list[str]:
        try:
            versions = self._registry.versions(object_id)
        except (OSError, RegistryError) as error:
            raise RegistryUnavailableError(f"object {object_id}: the registry cannot be read") from error
        self._check()
        return versions

    def card(self, ref: AdapterRef) -> dict[str, Any]:
        """Raises also `VersionNotFoundError`, `AdapterUnusableError`."""
        try:
            card = json.loads(self.file(ref, "card.json"))
            if not isinstance(card, dict):
                raise ValueError("card.json does not hold an object")
        except (ValueError, RecursionError) as error:
            raise self._explained(error, ref) from error
        return card

    def file(self, ref: AdapterRef, name: str) -> bytes:
        """The content of one of `registry.local.FILES`. Raises also `VersionNotFoundError`, `AdapterUnusableError`."""
        try:
            folder = self._registry.path(ref.object_id, ref.version)
            return read_regular(folder / name, _MAX_FILE_BYTES)
        except (OSError, ValueError) as error:
            raise self._explained(error, ref) from error

    def files(self, ref: AdapterRef, names: Iterable[str] = FILES) -> dict[str, bytes]:
        """Several files of a version, all by default. Raises as `file`."""
        return {name: self.file(ref, name) for name in names}

    def delete(self, object_id: str) -> None:
        self._check()
        try:
            self._registry.delete(object_id)
        except RegistryError as error:
            raise RegistryUnavailableError(f"object {object_id} cannot be deleted now") from error

    def _pointer(self, object_id: str) -> _Pointer:
        """Raises OSError where the storage fails, which says nothing about the object."""
        known = self._pointers.get(object_id, _Pointer(None, None))
        try:
            status = os.stat(f"{self._objects}/{object_id}/current.json", follow_symlinks=False)
            stamp = (status.st_ctime_ns, status.st_ino, status.st_size)
            if stamp == known.stamp:
                return known
            version = self._registry.current(object_id)
        except (FileNotFoundError, NotADirectoryError):
            return _Pointer(None, None)
        except PermissionError as error:
            _log.error("object %s: %s; version %s stays live", object_id, error, known.version)
            return _Pointer(None, known.version)
        except RegistryError as error:
            if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, _DAMAGE):
                raise error.__cause__ from None
            _log.error("%s; version %s stays live", error, known.version)
            version = known.version
        return _Pointer(stamp if time.time() - status.st_ctime > _SETTLED_S else None, version)

    def _check(self) -> None:
        if not os.path.isdir(self._objects):
            raise RegistryUnavailableError("the registry cannot be reached")

    def _explained(self, error: Exception, ref: AdapterRef) -> Exception:
        """`error` in terms of the client. An absent file of a present version is damage: versions appear whole."""
        self._check()
        named = f"object {ref.object_id}, version {ref.version}"
        try:
            self._registry.path(ref.object_id, ref.version)
        except NotPublishedError:
            return VersionNotFoundError(f"{named}: no such version")
        except (RegistryError, OSError):
            pass
        if isinstance(error, OSError) and not isinstance(error, _DAMAGE):
            return RegistryUnavailableError(f"{named}: the registry cannot be read")
        return AdapterUnusableError(f"{named}: its files are damaged; delete and publish the object anew")
