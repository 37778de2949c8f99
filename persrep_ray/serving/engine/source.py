"""The registry as serving reads it, in a folder or in S3: absent, damaged and unreachable are told apart."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from persrep_ray.config import ConfigError
from persrep_ray.registry.pointers import Pointer
from persrep_ray.registry.registry import FILES, NotPublishedError, Registry, RegistryError
from persrep_ray.serving.engine.answers import AdapterRef
from persrep_ray.serving.engine.errors import AdapterUnusableError, RegistryUnavailableError, VersionNotFoundError
from persrep_ray.storage.store import AccessError, NotFoundError, StorageError, is_remote, open_store

_MAX_FILE_BYTES = 256 * 1024 * 1024
_PAGE = 1000  # keys that one listing request to S3 returns
_log = logging.getLogger(__name__)


class Source:
    """Reads the registry at `location`. All methods block and raise `RegistryUnavailableError`.

    A location without a registry is one that cannot be reached, such as a share that is not mounted, not an empty one.
    """

    def __init__(self, location: str) -> None:
        self._registry = Registry(open_store(location))
        self._is_remote = is_remote(location)
        self._pointers: dict[str, Pointer] = {}
        self._is_writable = False  # whether the store is known to honour conditional writes

    @property
    def listing_requests(self) -> int:
        """How many requests it takes to list the pointers; a folder counts as one."""
        return -(-len(self._pointers) // _PAGE) or 1 if self._is_remote else 1

    def live(self) -> dict[str, str]:
        """The live version of every object. One call at a time.

        Only pointers that changed since the last call are read. An object whose pointer is damaged or cannot be read
        keeps the version that it had.
        """
        self._check()
        try:
            found = self._registry.pointers(self._pointers)
        except StorageError as error:
            raise RegistryUnavailableError("the registry cannot be read") from error
        self._check()  # without this, a share that is unmounted meanwhile looks as if everything was deleted
        for object_id, pointer in found.items():
            if pointer.problem:
                known = self._pointers.get(object_id)
                version = known.version if known else None
                if known is None or known.problem != pointer.problem:
                    _log.error("object %s: %s; version %s stays live", object_id, pointer.problem, version)
                found[object_id] = pointer._replace(version=version)
        self._pointers = found
        return {object_id: pointer.version for object_id, pointer in found.items() if pointer.version is not None}

    def versions(self, object_id: str) -> list[str]:
        self._check()
        try:
            return self._registry.versions(object_id)
        except (StorageError, RegistryError) as error:
            raise RegistryUnavailableError(f"object {object_id}: the registry cannot be read") from error

    def card(self, ref: AdapterRef) -> dict[str, Any]:
        """Raises `VersionNotFoundError` and `AdapterUnusableError`, too."""
        content = self.files(ref, ["card.json"])["card.json"]
        try:
            card = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _damaged(ref) from error
        if not isinstance(card, dict):
            raise _damaged(ref)
        return card

    def files(self, ref: AdapterRef, names: Sequence[str] = FILES) -> dict[str, bytes]:
        """Files of a version by name, all by default. Raises `VersionNotFoundError` and `AdapterUnusableError`, too."""
        try:
            return self._registry.files(ref.object_id, ref.version, names, max_bytes=_MAX_FILE_BYTES)
        except NotPublishedError as error:
            self._check()
            raise VersionNotFoundError(f"{_named(ref)}: no such version") from error
        except (NotFoundError, AccessError, ValueError) as error:  # of one file, if the registry itself can be read
            self._check()
            raise _damaged(ref) from error
        except StorageError as error:
            raise RegistryUnavailableError(f"{_named(ref)}: the registry cannot be read") from error

    def delete(self, object_id: str) -> None:
        self._check()
        try:
            if not self._is_writable:
                self._registry.store.check_writable()
                self._is_writable = True
            self._registry.delete(object_id)
        except (ConfigError, StorageError, RegistryError) as error:
            _log.error("object %s cannot be deleted: %s", object_id, error)
            raise RegistryUnavailableError(f"object {object_id} cannot be deleted now") from error

    def _check(self) -> None:
        try:
            if self._registry.exists():
                return
        except (StorageError, RegistryError) as error:
            raise RegistryUnavailableError("the registry cannot be read") from error
        raise RegistryUnavailableError("the registry cannot be reached")


def _named(ref: AdapterRef) -> str:
    return f"object {ref.object_id}, version {ref.version}"


def _damaged(ref: AdapterRef) -> AdapterUnusableError:
    return AdapterUnusableError(f"{_named(ref)}: its files are damaged; delete and publish the object again")
