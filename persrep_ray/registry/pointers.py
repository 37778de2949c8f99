"""Which version of each object is live: one small file per object, changed only by compare-and-swap.

    live/<object_id>.json       {"version": "…", "deletions": n}; version null: a tombstone, the object was deleted

All pointers lie under one prefix, so one listing, paginated and with tags, shows which of them changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from persrep_ray.data.tree import OBJECT_ID
from persrep_ray.storage.store import ConflictError, NotFoundError, StorageError, Store

VERSION = re.compile(r"[A-Za-z0-9._-]{1,64}")

_PREFIX, _SUFFIX = "live/", ".json"
_READERS = 16  # files that are read at a time
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Pointer(NamedTuple):
    """What an object's pointer says.

    `version` is None if no version is live. `deletions` counts how often the object was deleted. `tag` changes whenever
    the pointer does; it is None where there is no pointer. `problem` says why a pointer is of no use, else it is empty.
    """

    version: str | None
    deletions: int
    tag: str | None
    problem: str = ""


ABSENT = Pointer(None, 0, None)


@dataclass(frozen=True)
class Pointers:
    """The pointers of the registry in `store`. Callers check object ids. All methods raise `StorageError`."""

    store: Store

    def read(self, object_id: str) -> Pointer:
        """The pointer of one object; `ABSENT` if there is none."""
        key = f"{_PREFIX}{object_id}{_SUFFIX}"
        try:
            content, tag = self.store.read_tagged(key)
        except NotFoundError:
            return ABSENT
        except ValueError as error:  # not a regular file
            return Pointer(None, 0, "", f"{self.store.url(key)}: {error}")
        try:
            value = parsed(content)
            version, deletions = value.get("version"), value.get("deletions")
            if version is not None:
                check_version(version)
            if type(deletions) is not int or deletions < 0:
                raise ValueError(f"deletions is {deletions!r:.40}, not a number of times")
        except ValueError as error:
            return Pointer(None, 0, tag, f"{self.store.url(key)}: {error}")
        return Pointer(version, deletions, tag)

    def read_all(self, known: Mapping[str, Pointer]) -> dict[str, Pointer]:
        """The pointers of all objects, by id.

        Pointers whose tag is the one in `known`, an earlier result, are not read again; the others are read by threads.
        A pointer that cannot be read is one with a `problem`, and is read again next time. If that is so for every
        pointer, the registry is out of reach, and the first error is raised.
        """
        tags = {}
        for entry in self.store.list(_PREFIX):
            object_id = entry.key.removeprefix(_PREFIX).removesuffix(_SUFFIX)
            if entry.key.endswith(_SUFFIX) and OBJECT_ID.fullmatch(object_id):
                tags[object_id] = entry.tag
        changed = [object_id for object_id, tag in tags.items() if known.get(object_id, ABSENT).tag != tag]
        failed: list[StorageError] = []

        def read(object_id: str) -> Pointer:
            try:
                return self.read(object_id)
            except StorageError as error:
                failed.append(error)
                return Pointer(None, 0, "", str(error))

        pointers = {object_id: known[object_id] for object_id in tags if object_id in known}
        pointers |= zip(changed, in_parallel(read, changed), strict=True)
        if failed and len(failed) == len(pointers):
            raise failed[0]
        return {object_id: pointer for object_id, pointer in pointers.items() if pointer != ABSENT}

    def swap(self, object_id: str, old: Pointer, version: str | None, deletions: int) -> bool:
        """Replaces the pointer `old` for readers at one instant; False if it has changed since it was read."""
        content = json.dumps({"version": version, "deletions": deletions}).encode()
        try:
            self.store.write_if(f"{_PREFIX}{object_id}{_SUFFIX}", content, old.tag)
        except ConflictError:
            return False
        return True


def check_version(version: object) -> str:
    """Gives `version` back if it is safe as one part of a key; ValueError otherwise."""
    if not isinstance(version, str) or not VERSION.fullmatch(version) or version in (".", ".."):
        raise ValueError(f"bad version {version!r:.100}: expected 1 to 64 of the characters A-Z a-z 0-9 . _ -")
    return version


def parsed(content: bytes) -> dict[str, Any]:
    """A JSON object. Raises ValueError."""
    try:
        value = json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def in_parallel(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """The results of `work` in the order of `items`, computed by threads; the first error is raised."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(_READERS, len(items))) as pool:
        return list(pool.map(work, items))
