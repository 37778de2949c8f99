"""Which objects are live, and in which version: a copy of the registry's pointers in memory, kept fresh.

A request never waits for the registry to learn what is live; while the registry is out of reach the last copy counts.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

from persrep_ray.serving.engine.answers import AdapterRef
from persrep_ray.serving.engine.errors import RegistryUnavailableError
from persrep_ray.serving.engine.source import Source

_CARDS_KEPT = 1000
_LATE_S = 10.0  # a read that takes longer is as good as none
_AFTER_ALL = "\x7f"  # sorts after every character of an id
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Copy:
    """The pointers at one time: the live versions, and in the order of their ids the objects and refs."""

    versions: Mapping[str, str]
    ids: tuple[str, ...]
    refs: tuple[AdapterRef, ...]

    @classmethod
    def of(cls, versions: Mapping[str, str]) -> _Copy:
        ids = tuple(sorted(versions))
        return cls(versions, ids, tuple(AdapterRef(object_id, versions[object_id]) for object_id in ids))


class Catalog:
    """The live versions of a registry. Used from one event loop; `run` keeps it fresh until it is cancelled."""

    def __init__(self, source: Source, refresh_s: float) -> None:
        self._source = source
        self._refresh_s = refresh_s
        self._copy: _Copy | None = None
        self._scan: asyncio.Task[None] | None = None
        self._deleted: set[str] = set()  # since the scan began, which may still have seen them
        self._cards: OrderedDict[AdapterRef, dict[str, Any]] = OrderedDict()
        self._scanner = ThreadPoolExecutor(1, thread_name_prefix="scan-registry")
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="read-registry")

    async def run(self, then: Callable[[], Awaitable[None]] | None = None) -> None:
        """Reads the registry again and again, and each time awaits `then`, whose errors count as the registry's.

        What takes long makes the pauses longer, too.
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
            except Exception as error:  # whatever it is: the next try may do better, and queries go on
                if not complained:
                    _log.warning("registry: %s; serving goes on with what is known", error.__cause__ or error)
                complained = True
            await asyncio.sleep(max(self._refresh_s, loop.time() - started))

    async def refresh(self) -> None:
        """Reads the pointers once. Raises `RegistryUnavailableError`.

        Also where that takes too long; it then goes on, the next call waits for the same, and what it finds counts. A
        registry of many objects on a slow disk would else never be read.
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
        return parts[0] if len(parts) == 1 else list(chain.from_iterable(parts))  # one part may be all of it: no copy

    def refs(self) -> tuple[AdapterRef, ...]:
        """All that is live, sorted by id; the same tuple until something changes. Raises `RegistryUnavailableError`."""
        return self._known().refs

    async def versions(self, object_id: str) -> list[str]:
        """All versions of an object. Raises `RegistryUnavailableError`."""
        return await self._read(self._source.versions, object_id)

    async def card(self, object_id: str, version: str) -> dict[str, Any]:
        """The card of a version. Raises `QueryError`."""
        ref = AdapterRef(object_id, version)
        if ref not in self._cards:
            self._cards[ref] = await self._read(self._source.card, ref)
            while len(self._cards) > _CARDS_KEPT:
                self._cards.popitem(last=False)
        self._cards.move_to_end(ref)
        return self._cards[ref]

    async def delete(self, object_id: str) -> None:
        """Removes an object with all its versions; it is gone here at once, elsewhere with the next refresh.

        Raises `RegistryUnavailableError`; the object may be gone all the same.
        """
        await self._read(self._source.delete, object_id)
        self._deleted.add(object_id)
        if self._copy is not None:
            self._copy = _without(self._copy, {object_id})
        for ref in [ref for ref in self._cards if ref.object_id == object_id]:
            del self._cards[ref]  # it may be published anew under the same version

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
            scan.exception()  # seen: with nobody waiting any more, asyncio would complain

    async def _read(self, read: Callable[..., _T], *arguments: Any) -> _T:
        """`read` in a thread: a registry that hangs must not stop the event loop."""
        work = asyncio.get_running_loop().run_in_executor(self._readers, read, *arguments)
        try:
            return await asyncio.wait_for(work, _LATE_S)
        except asyncio.TimeoutError:  # the built-in one only from Python 3.11 on
            raise _late() from None


def matching(ids: Sequence[str], prefixes: Iterable[str]) -> list[slice]:
    """Where in the sorted `ids` those are that start with one of `prefixes`: slices in order, none twice."""
    found: list[slice] = []
    end = 0
    for prefix in sorted(prefixes):
        start = bisect.bisect_left(ids, prefix, lo=end)  # nothing, where a shorter prefix has taken them
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
