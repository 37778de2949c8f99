"""Which version of each object is live: a copy of the registry's pointers in memory, kept fresh.

A request never waits for the registry to learn what is live. While the registry is out of reach, the last copy is used.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

from persrep_ray.data.lru import Lru
from persrep_ray.serving.engine.answers import AdapterRef
from persrep_ray.serving.engine.errors import RegistryUnavailableError
from persrep_ray.serving.engine.source import Source

_CARDS_KEPT = 1000
_LATE_S = 10.0  # a read that takes longer counts as failed
_AFTER_ALL = "\x7f"  # sorts after every character of an id
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Copy:
    """The pointers at one time: the live versions by object id, and the ids and adapters in the order of the ids."""

    versions: Mapping[str, str]
    ids: tuple[str, ...]
    refs: tuple[AdapterRef, ...]

    @classmethod
    def of(cls, versions: Mapping[str, str]) -> _Copy:
        ids = tuple(sorted(versions))
        return cls(versions, ids, tuple(AdapterRef(object_id, versions[object_id]) for object_id in ids))


class Catalog:
    """The live versions of a registry. It is used from one event loop; `run` keeps it fresh until it is cancelled.

    Args:
        refresh_s: pause between two reads of the registry; in S3, for each 1,000 objects, which are one request.
    """

    def __init__(self, source: Source, refresh_s: float) -> None:
        self._source = source
        self._refresh_s = refresh_s
        self._copy: _Copy | None = None
        self._scan: asyncio.Task[None] | None = None
        self._deleted: set[str] = set()  # since the scan began, which may still have seen them
        self._cards: Lru[AdapterRef, dict[str, Any]] = Lru(_CARDS_KEPT)
        self._scanner = ThreadPoolExecutor(1, thread_name_prefix="scan-registry")
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="read-registry")

    async def run(self, then: Callable[[], Awaitable[None]] | None = None) -> None:
        """Reads the registry again and again, and awaits `then` each time, whose errors count as the registry's.

        A pause is never shorter than the read before it.
        """
        loop = asyncio.get_running_loop()
        complained = False
        while True:
            started = loop.time()
            try:
                await self.refresh()
                if then is not None:
                    await then()
                complained = False
            except Exception as error:  # whatever it is, the next read may succeed, and queries go on
                if not complained:
                    _log.warning(
                        "registry: %s; serving continues with the last known objects", error.__cause__ or error
                    )
                complained = True
            await asyncio.sleep(max(self._refresh_s * self._source.listing_requests, loop.time() - started))

    async def refresh(self) -> None:
        """Reads the pointers once. Raises `RegistryUnavailableError`.

        A read that takes too long is an error, too, but it goes on, and the next call waits for it. Otherwise a large
        registry on slow storage would never be read.
        """
        if self._scan is None:
            self._scan = asyncio.create_task(self._read_pointers())
            self._scan.add_done_callback(self._scanned)
        scan = self._scan
        await asyncio.wait([scan], timeout=_LATE_S)
        if not scan.done():
            raise _late()
        scan.result()

    @property
    def loaded(self) -> bool:
        """Whether the registry has been read at least once."""
        return self._copy is not None

    def live(self, object_id: str) -> str | None:
        """The live version of an object, None if there is no such object. Raises `RegistryUnavailableError`."""
        return self._known().versions.get(object_id)

    def objects(self, prefixes: Iterable[str]) -> Sequence[str]:
        """The sorted ids that start with one of `prefixes`. Raises `RegistryUnavailableError`."""
        ids = self._known().ids
        parts = [ids[part] for part in matching(ids, prefixes)]
        return parts[0] if len(parts) == 1 else list(chain.from_iterable(parts))  # one part may be all ids: no copy

    def refs(self) -> tuple[AdapterRef, ...]:
        """All live adapters, sorted by id; the same tuple until one changes. Raises `RegistryUnavailableError`."""
        return self._known().refs

    async def versions(self, object_id: str) -> list[str]:
        """All versions of an object. Raises `RegistryUnavailableError`."""
        return await self._read(self._source.versions, object_id)

    async def card(self, object_id: str, version: str) -> dict[str, Any]:
        """The card of a version. Raises `QueryError`."""
        ref = AdapterRef(object_id, version)
        card = self._cards.get(ref)
        if card is None:
            card = await self._read(self._source.card, ref)
            self._cards.put(ref, card)
        return card

    async def delete(self, object_id: str) -> None:
        """Removes an object with all its versions: here at once, in other processes with their next refresh.

        Raises `RegistryUnavailableError`; the object may be gone even then.
        """
        await self._read(self._source.delete, object_id)
        self._deleted.add(object_id)
        if self._copy is not None:
            self._copy = _without(self._copy, {object_id})
        kept = self._cards.keys()
        for ref in kept:
            if ref.object_id == object_id:
                self._cards.drop(ref)  # the object may be published again under the same version

    def _known(self) -> _Copy:
        if self._copy is None:
            raise RegistryUnavailableError("the registry has not been read yet")
        return self._copy

    async def _read_pointers(self) -> None:
        self._deleted.clear()
        copy = await asyncio.get_running_loop().run_in_executor(self._scanner, self._scanned_copy, self._copy)
        self._copy = _without(copy, self._deleted)

    def _scanned_copy(self, before: _Copy | None) -> _Copy:
        versions = self._source.live()
        return before if before is not None and versions == before.versions else _Copy.of(versions)

    def _scanned(self, scan: asyncio.Task[None]) -> None:
        self._scan = None
        if not scan.cancelled():
            scan.exception()  # marks it as seen: asyncio complains about an error that nobody waits for

    async def _read(self, read: Callable[..., _T], *arguments: Any) -> _T:
        """The result of `read`, which runs in a thread so that a registry that hangs does not stop the event loop."""
        work = asyncio.get_running_loop().run_in_executor(self._readers, read, *arguments)
        try:
            return await asyncio.wait_for(work, _LATE_S)
        except asyncio.TimeoutError:  # not TimeoutError before Python 3.11
            raise _late() from None


def matching(ids: Sequence[str], prefixes: Iterable[str]) -> list[slice]:
    """The slices of the sorted `ids` that start with one of `prefixes`, in order and without overlap."""
    found: list[slice] = []
    end = 0
    for prefix in sorted(prefixes):
        start = bisect.bisect_left(ids, prefix, lo=end)  # the slice is empty if a shorter prefix covers it
        end = bisect.bisect_left(ids, prefix + _AFTER_ALL, lo=start)
        if start < end:
            found.append(slice(start, end))
    return found


def _without(copy: _Copy, deleted: set[str]) -> _Copy:
    if deleted.isdisjoint(copy.versions):
        return copy
    return _Copy.of({object_id: version for object_id, version in copy.versions.items() if object_id not in deleted})


def _late() -> RegistryUnavailableError:
    return RegistryUnavailableError("the registry does not answer")
