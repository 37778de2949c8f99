"""Which objects are live, and in which version: a copy of the registry's pointers in memory, kept fresh.

A request never waits for the registry to learn what is live; while the registry is out of reach the last copy counts.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from persrep_ray.serving.answers import Target
from persrep_ray.serving.errors import RegistryUnavailableError
from persrep_ray.serving.source import Source

_CARDS_KEPT = 1000
_LATE_S = 10.0  # a read that takes longer is as good as none
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Catalog:
    """The live versions of a registry. Used from one event loop; `run` keeps it fresh until it is cancelled."""

    def __init__(self, source: Source, refresh_s: float) -> None:
        self._source = source
        self._refresh_s = refresh_s
        self._live: dict[str, str] | None = None
        self._ids: list[str] = []
        self._cards: OrderedDict[Target, dict[str, Any]] = OrderedDict()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="catalog")
        self.reachable = False

    async def run(self) -> None:
        """Reads the registry again and again; a scan that takes long makes the pauses longer, too."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await self.refresh()
            except Exception as error:  # whatever it is: the next try may do better, and queries go on
                if self.reachable:
                    _log.warning("registry: %s; serving goes on with what is known", error)
                self.reachable = False
            await asyncio.sleep(max(self._refresh_s, loop.time() - started))

    async def refresh(self) -> None:
        """Reads the pointers once. Raises `RegistryUnavailableError`."""
        live = await self._read(self._source.live, dict(self._live or {}))
        self._live, self._ids, self.reachable = live, sorted(live), True

    @property
    def loaded(self) -> bool:
        """Whether the registry has been read at least once."""
        return self._live is not None

    def live(self, object_id: str) -> str | None:
        """The live version of an object, None if there is no such object. Raises `RegistryUnavailableError`."""
        return self._known().get(object_id)

    def objects(self, prefixes: Sequence[str]) -> list[str]:
        """The sorted ids that start with one of `prefixes`. Raises `RegistryUnavailableError`."""
        self._known()
        if "" in prefixes:
            return self._ids
        found: set[str] = set()
        for prefix in prefixes:
            first = bisect.bisect_left(self._ids, prefix)
            last = bisect.bisect_left(self._ids, prefix[:-1] + chr(ord(prefix[-1]) + 1), lo=first)
            found.update(self._ids[first:last])
        return sorted(found)

    def targets(self) -> list[Target]:
        """All that is live. Empty as long as nothing is known."""
        live = self._live or {}
        return [Target(object_id, live[object_id]) for object_id in self._ids]

    async def versions(self, object_id: str) -> list[str]:
        """All versions of an object. Raises `RegistryUnavailableError`."""
        return await self._read(self._source.versions, object_id)

    async def card(self, object_id: str, version: str) -> dict[str, Any]:
        """The card of a version. Raises `QueryError`."""
        target = Target(object_id, version)
        if target not in self._cards:
            self._cards[target] = await self._read(self._source.card, target)
            while len(self._cards) > _CARDS_KEPT:
                self._cards.popitem(last=False)
        self._cards.move_to_end(target)
        return self._cards[target]

    async def delete(self, object_id: str) -> None:
        """Removes an object with all its versions; it is gone here at once, elsewhere with the next refresh."""
        await self._read(self._source.delete, object_id)
        await self.refresh()

    def _known(self) -> dict[str, str]:
        if self._live is None:
            raise RegistryUnavailableError("the registry has not been reached yet")
        return self._live

    async def _read(self, read: Callable[..., _T], *arguments: Any) -> _T:
        """`read` in a thread: a registry that hangs must not stop the event loop."""
        work = asyncio.get_running_loop().run_in_executor(self._pool, read, *arguments)
        try:
            return await asyncio.wait_for(work, _LATE_S)
        except asyncio.TimeoutError:  # the built-in one only from Python 3.11 on
            raise RegistryUnavailableError("the registry does not answer") from None
