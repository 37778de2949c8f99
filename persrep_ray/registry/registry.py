"""Versioned adapters in a folder or in S3. A version appears whole and goes live in one atomic step.

    registry.json                               {"format": 2}: marks the location as a registry of this layout
    live/<object_id>.json                       the object's pointer, see `pointers`
    objects/<object_id>/versions/<version>/     exactly the files of `FILES`

A version is complete when its card exists, which is written last. Readers take no lock.

`delete` swaps the pointer for a tombstone, then removes the files. The tombstone stays and counts the deletions: after
the n-th deletion, versions lie in `versions.<n>/`. A publisher that is overtaken by a deletion finds its swap refused
and starts again in the new folder, and a deleter only removes older folders. So the files of a live version are never
removed, however slow either of them is.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, deserialize

from persrep_ray.data.tree import check_object_id
from persrep_ray.registry.pointers import VERSION, Pointer, Pointers, check_version, in_parallel, parsed
from persrep_ray.storage.store import ConflictError, NotFoundError, Store

CARD = "card.json"
MARKER = "registry.json"
FILES = ("adapter_config.json", "adapter_model.safetensors", "prototypes.safetensors", CARD)  # in the order of writing

_FORMAT = 2
_VERSIONS = re.compile(r"objects/[^/]+/versions(?:\.([0-9]{1,18}))?/")
_EARLIER_POINTER = re.compile(r"objects/([A-Za-z0-9._-]{1,128})/current\.json")
_ATTEMPTS = 100  # to swap a pointer; whenever one fails, another publisher or deleter has succeeded
_PATIENCE_S = 10.0  # for another publisher of the same version
_POLL_S = 0.02


class RegistryError(ValueError):
    """The registry cannot do what was asked; the message names the object and the cause."""


class NotPublishedError(RegistryError, LookupError):
    """There is no such object or version."""


class Registry:
    """The registry in `store`, which the first `publish` creates.

    In all methods bad object ids and versions raise `RegistryError` before any key is formed from them, and so does a
    registry of another layout. If the store fails, methods that read raise `StorageError`, and those that change
    something `RegistryError`.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._pointers = Pointers(store)
        self._was_found = False  # saves a request per call

    # -- reading -----------------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether there is a registry here now, perhaps an empty one. Raises `RegistryError` for another layout."""
        try:
            found = parsed(self.store.read(MARKER)).get("format")
        except NotFoundError:
            if any(self.earlier_pointers()):
                raise RegistryError(
                    f"the registry {self.store.uri} has the layout of an earlier version of persrep-ray; migrate it "
                    f"with: persrep objects migrate --registry {self.store.uri}"
                ) from None
            return False
        except ValueError as error:
            raise RegistryError(f"{self.store.url(MARKER)}: {error}") from error
        if found != _FORMAT:
            raise RegistryError(f"{self.store.url(MARKER)}: format {found!r:.40} is unknown, expected {_FORMAT}")
        self._was_found = True
        return True

    def pointers(self, known: Mapping[str, Pointer] | None = None) -> dict[str, Pointer]:
        """The pointers of all objects, also those that are tombstones or damaged; see `Pointers.read_all`."""
        self._check_layout()
        return self._pointers.read_all(known or {})

    def live(self) -> dict[str, str]:
        """The live versions by object id, sorted by id. Raises `RegistryError` if a pointer is of no use."""
        live = {}
        for object_id, pointer in sorted(self.pointers().items()):
            if pointer.problem:
                raise RegistryError(f"object {object_id}: {pointer.problem}")
            if pointer.version is not None:
                live[object_id] = pointer.version
        return live

    def objects(self) -> list[str]:
        """The ids of all published objects, sorted."""
        return list(self.live())

    def current(self, object_id: str) -> str | None:
        """The live version, None if the object is not published. Raises `RegistryError` if the pointer is damaged."""
        pointer = self._pointer(object_id)
        if pointer.problem:
            raise RegistryError(f"object {object_id}: {pointer.problem}")
        return pointer.version

    def versions(self, object_id: str) -> list[str]:
        """All complete versions, sorted by name."""
        prefix = _versions(object_id, self._pointer(object_id).deletions)
        keys = (entry.key.removeprefix(prefix).split("/") for entry in self.store.list(prefix))
        return sorted(key[0] for key in keys if key[1:] == [CARD] and VERSION.fullmatch(key[0]))

    def files(
        self, object_id: str, version: str | None = None, names: Sequence[str] = FILES, *, max_bytes: int | None = None
    ) -> dict[str, bytes]:
        """The contents of files of a version, of the live one by default.

        Raises `NotPublishedError`, NotFoundError if a complete version lacks a file, and ValueError if a file has more
        than `max_bytes`.
        """
        while True:
            prefix = self._complete_version(object_id, version)
            keys = [prefix + name for name in names]
            try:
                contents = in_parallel(lambda key: self.store.read(key, max_bytes=max_bytes), keys)
                return dict(zip(names, contents, strict=True))
            except NotFoundError:
                if self._complete_version(object_id, version) == prefix:
                    raise
                # otherwise it was deleted and published anew meanwhile

    def read(self, object_id: str, version: str | None, name: str, max_bytes: int | None = None) -> bytes:
        """The content of one file of a version; None: of the live one. Raises as `files`."""
        return self.files(object_id, version, [name], max_bytes=max_bytes)[name]

    def card(self, object_id: str, version: str | None = None) -> dict[str, Any]:
        """The card of a version, of the live one by default. Raises `RegistryError`."""
        content = self.read(object_id, version, CARD)
        try:
            return parsed(content)
        except ValueError as error:
            raise RegistryError(f"object {object_id}: {CARD}: {error}") from error

    def local_copy(self, object_id: str, version: str | None = None) -> Path:
        """A local PEFT folder with the files of a version, of the live one by default; it must only be read.

        Raises `NotPublishedError`.
        """
        return self.store.local_copy(self._complete_version(object_id, version))

    def earlier_pointers(self) -> Iterator[tuple[str, str]]:
        """(object id, key of its pointer) in the layout of earlier versions of persrep-ray, sorted."""
        for entry in self.store.list("objects/"):
            if match := _EARLIER_POINTER.fullmatch(entry.key):
                yield match[1], entry.key

    # -- changing ----------------------------------------------------------------------------------------------------

    def publish(self, object_id: str, version: str, files: Mapping[str, bytes | Path]) -> None:
        """Makes `files` (contents, or local files) the version `version` and the live one.

        Idempotent: an existing version keeps its files and becomes live (again), so a killed publisher is just run once
        more and an old version can be rolled back to. Of two publishers of one version the first wins. Raises
        `RegistryError` if a file is missing, unexpected or unreadable as what its name says; nothing changes then.
        """
        named = _named(object_id, version)
        if set(files) != set(FILES):
            raise RegistryError(
                f"{named}: missing files {sorted(set(FILES) - set(files))}, "
                f"unexpected files {sorted(map(str, set(files) - set(FILES)))}"
            )
        with _failing(f"{named}: publishing failed"):
            for pointer in self._until_swapped(object_id):
                prefix = f"{_versions(object_id, pointer.deletions)}{version}/"
                if not self._is_complete(pointer, version, prefix):
                    contents = {name: _checked(name, files[name]) for name in FILES}
                    self.mark()
                    if not self._write_version(prefix, contents):
                        continue
                if self._is_live(object_id, pointer, version):
                    return

    def make_live(self, object_id: str, version: str) -> None:
        """Makes a published version the live one (again). Raises `NotPublishedError`, `RegistryError`."""
        named = _named(object_id, version)
        with _failing(f"{named}: making it live failed"):
            for pointer in self._until_swapped(object_id):
                if not self._is_complete(pointer, version, f"{_versions(object_id, pointer.deletions)}{version}/"):
                    raise NotPublishedError(f"object {object_id}: no version {version} in {self.store.uri}")
                if self._is_live(object_id, pointer, version):
                    return

    def delete(self, object_id: str) -> None:
        """Removes an object with all its versions, for readers at one instant. Absent already: nothing happens."""
        with _failing(f"{_named(object_id)}: deleting failed"):
            for pointer in self._until_swapped(object_id):
                deletions = pointer.deletions
                if pointer.version is None and not pointer.problem:
                    break
                deletions += 1
                if self._pointers.swap(object_id, pointer, None, deletions):
                    break
            for number, prefix in self._version_folders(object_id):  # what killed deleters and publishers left, too
                if number < deletions:
                    self.store.delete_all(prefix)

    def mark(self) -> None:
        """Makes this location a registry if it is none yet. Raises `RegistryError`, `StorageError`."""
        if not self._was_found:
            with suppress(ConflictError):  # another publisher was faster
                self.store.write_if(MARKER, json.dumps({"format": _FORMAT}).encode(), None)
            self.exists()

    # -- parts -------------------------------------------------------------------------------------------------------

    def _check_layout(self) -> None:
        if not self._was_found:
            self.exists()

    def _pointer(self, object_id: str) -> Pointer:
        _named(object_id)
        self._check_layout()
        pointer = self._pointers.read(object_id)
        if pointer.problem:  # it may still be swapped, and versions be read by name
            newest = max((number for number, _ in self._version_folders(object_id)), default=0)
            return pointer._replace(deletions=newest)
        return pointer

    def _until_swapped(self, object_id: str) -> Iterator[Pointer]:
        """The pointer again and again, for a caller who stops once it has been swapped."""
        for _ in range(_ATTEMPTS):
            yield self._pointer(object_id)
        raise RegistryError("too many other publishers at the same time")

    def _is_live(self, object_id: str, pointer: Pointer, version: str) -> bool:
        """Whether the complete version `version` is live: already, or because `pointer` could be swapped."""
        return pointer.version == version or self._pointers.swap(object_id, pointer, version, pointer.deletions)

    def _is_complete(self, pointer: Pointer, version: str, prefix: str) -> bool:
        return pointer.version == version or self.store.stat(prefix + CARD) is not None

    def _complete_version(self, object_id: str, version: str | None) -> str:
        """The prefix of a version's files; None: of the live one. Raises `NotPublishedError`."""
        _named(object_id, version)
        pointer = self._pointer(object_id)
        if version is None and pointer.problem:
            raise RegistryError(f"object {object_id}: {pointer.problem}")
        wanted = pointer.version if version is None else version
        if wanted is None:
            raise NotPublishedError(f"object {object_id}: not published in {self.store.uri}")
        prefix = f"{_versions(object_id, pointer.deletions)}{wanted}/"
        if not self._is_complete(pointer, wanted, prefix):
            raise NotPublishedError(f"object {object_id}: no version {wanted} in {self.store.uri}")
        return prefix

    def _version_folders(self, object_id: str) -> list[tuple[int, str]]:
        """(n, prefix) of the folders that hold what was published after the n-th deletion."""
        keys = (_VERSIONS.match(entry.key) for entry in self.store.list(f"objects/{object_id}/"))
        return sorted({(int(match[1] or 0), match[0]) for match in keys if match})

    def _write_version(self, prefix: str, contents: Mapping[str, bytes]) -> bool:
        """Completes a version whose files are all of one publisher; False if it is being deleted.

        Each file is only created, never replaced, in one order, and a publisher gives way at the first file that is not
        as its own. Raises `RegistryError` if the publisher to which it gives way does not complete the version.
        """
        for name, content in contents.items():
            try:
                self.store.write_if(prefix + name, content, None)
            except ConflictError:
                try:
                    if name != CARD and self.store.read(prefix + name) != content:
                        self._await_card(prefix)
                        break
                except NotFoundError:
                    return False
        return True

    def _await_card(self, prefix: str) -> None:
        give_up = time.monotonic() + _PATIENCE_S
        while self.store.stat(prefix + CARD) is None:
            if time.monotonic() > give_up:
                raise RegistryError(f"{self.store.url(prefix)} is incomplete and has other files; use another version")
            time.sleep(_POLL_S)


def _named(object_id: str, version: str | None = None) -> str:
    """The object, and the version if there is one, for messages. Raises `RegistryError` for bad names."""
    try:
        check_object_id(object_id)
    except ValueError as error:
        raise RegistryError(str(error)) from None
    if version is None:
        return f"object {object_id}"
    try:
        return f"object {object_id}, version {check_version(version)}"
    except ValueError as error:
        raise RegistryError(f"object {object_id}: {error}") from None


def _versions(object_id: str, deletions: int) -> str:
    """The prefix below which the object's versions lie after so many deletions."""
    return f"objects/{object_id}/versions{f'.{deletions}' if deletions else ''}/"


def _checked(name: str, content: bytes | Path) -> bytes:
    """The content of one of `FILES`. Raises ValueError if it is not what its name says."""
    if isinstance(content, Path):
        if not content.is_file():
            raise ValueError(f"{name}: {content} is not a file")
        content = content.read_bytes()
    try:
        if name.endswith(".json"):
            parsed(content)
        else:
            deserialize(content)  # parses the header and compares the length; a pickle fails here
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{name}: {error}") from error
    return content


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Errors become `RegistryError`s that begin with `what`."""
    try:
        yield
    except NotPublishedError:
        raise
    except (OSError, ValueError) as error:
        raise RegistryError(f"{what}: {error}") from error
