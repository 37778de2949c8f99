"""Adapters in memory, within a budget of bytes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from persrep_ray.serving.engine.adapters import Adapter
from persrep_ray.serving.engine.answers import AdapterRef
from persrep_ray.serving.engine.errors import RegistryUnavailableError
from persrep_ray.serving.engine.metrics import Metrics


class AdapterBank:
    """Keeps the most recently used adapters, at most `budget` bytes of them.

    It is used from one event loop and has no locks. An adapter in use is never dropped, so adapters in use may exceed
    the budget until they are released. An adapter is loaded once, in a thread, however many queries wait for it. If the
    load fails, all of them get the error, and the next query loads it again. Versions never change, so no adapter in
    memory is stale.

    Args:
        load: reads an adapter; it blocks and raises `QueryError`.
        threads: how many adapters are loaded at a time.
        timeout_s: how long a query waits for a load; the load itself goes on.
    """

    def __init__(
        self, load: Callable[[AdapterRef], Adapter], *, budget: int, threads: int, timeout_s: float, metrics: Metrics
    ) -> None:
        self._load = load
        self._budget = budget
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._adapters: OrderedDict[AdapterRef, Adapter] = OrderedDict()  # from the least recently used on
        self._loading: dict[AdapterRef, asyncio.Task[Adapter]] = {}
        self._users: Counter[AdapterRef] = Counter()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="load-adapter")
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._adapters)

    def __contains__(self, ref: AdapterRef) -> bool:
        return ref in self._adapters

    @asynccontextmanager
    async def lease(self, ref: AdapterRef) -> AsyncIterator[Adapter]:
        """The adapter, which stays in memory until the block ends. Raises `QueryError`."""
        self._users[ref] += 1  # before it is loaded: it must not be dropped before its first use
        try:
            yield await self._get(ref)
        finally:
            self._users[ref] -= 1
            if not self._users[ref]:
                del self._users[ref]
            self._shrink()

    async def _get(self, ref: AdapterRef) -> Adapter:
        adapter = self._adapters.get(ref)
        self._metrics.adapter_looked_up(hit=adapter is not None)
        if adapter is not None:
            self._adapters.move_to_end(ref)
            return adapter
        if ref not in self._loading:
            task = asyncio.create_task(self._load_into(ref))
            self._loading[ref] = task
            task.add_done_callback(lambda done: self._loaded(ref, done))
        load = self._loading[ref]
        # `wait` does not cancel the load when a client leaves: other clients may wait for it
        await asyncio.wait([load], timeout=self._timeout_s)
        if not load.done():
            raise RegistryUnavailableError(f"object {ref.object_id}, version {ref.version}: the registry is too slow")
        return load.result()

    async def _load_into(self, ref: AdapterRef) -> Adapter:
        started = time.monotonic()
        adapter = await asyncio.get_running_loop().run_in_executor(self._pool, self._load, ref)
        self._metrics.adapter_loaded(time.monotonic() - started)
        self._adapters[ref] = adapter
        self.nbytes += adapter.nbytes
        self._shrink()
        return adapter

    def _loaded(self, ref: AdapterRef, task: asyncio.Task[Adapter]) -> None:
        del self._loading[ref]
        if not task.cancelled():
            task.exception()  # marks it as seen: asyncio complains about an error that nobody waits for

    def _shrink(self) -> None:
        """Drops unused adapters, the least recently used first, until the budget is kept."""
        if self.nbytes <= self._budget:
            return
        for ref in list(self._adapters):
            if ref not in self._users:
                self.nbytes -= self._adapters.pop(ref).nbytes
                if self.nbytes <= self._budget:
                    return
