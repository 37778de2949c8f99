"""Collects single queries into batches for the encoder."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from persrep_ray.serving.engine.metrics import Metrics

_Row = TypeVar("_Row")
_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


@dataclass
class _Waiting(Generic[_Row, _Result]):
    row: _Row
    kind: Hashable
    done: asyncio.Future[_Result]
    since: float = field(default_factory=time.monotonic)


class Batcher(Generic[_Row, _Result]):
    """Runs the waiting rows as one batch whenever the encoder is free. There is no timer: a single row never waits.

    Args:
        run: returns the results of a batch in the order of its rows; it blocks and is called from one thread.
        rows: the largest number of rows in a batch.
        adapters: the number of distinct adapters of a batch, for the metrics.
    """

    def __init__(
        self,
        run: Callable[[Sequence[_Row]], Sequence[_Result]],
        *,
        rows: int,
        adapters: Callable[[Sequence[_Row]], int],
        metrics: Metrics,
    ) -> None:
        self._run = run
        self._rows = rows
        self._adapters = adapters
        self._metrics = metrics
        self._queue: deque[_Waiting[_Row, _Result]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, row: _Row, kind: Hashable) -> _Result:
        """The result of `row`. Only rows of the same `kind` share a batch. Raises what `run` raises for this row."""
        waiting: _Waiting[_Row, _Result] = _Waiting(row, kind, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await waiting.done

    async def _work(self) -> None:
        while batch := self._take():
            started = time.monotonic()
            await self._encode(batch)
            try:
                self._metrics.batch(
                    rows=len(batch),
                    adapters=self._adapters([one.row for one in batch]),
                    waited=[started - one.since for one in batch],
                    seconds=time.monotonic() - started,
                )
            except Exception:  # it must not stop the worker
                _log.exception("the metrics of a batch are lost")

    def _take(self) -> list[_Waiting[_Row, _Result]]:
        """The oldest row and the next ones of its kind, without rows whose client has gone."""
        batch: list[_Waiting[_Row, _Result]] = []
        others: deque[_Waiting[_Row, _Result]] = deque()
        while self._queue and len(batch) < self._rows:
            one = self._queue.popleft()
            if one.done.done():
                continue
            (batch if not batch or one.kind == batch[0].kind else others).append(one)
        self._queue.extendleft(reversed(others))
        return batch

    async def _encode(self, batch: Sequence[_Waiting[_Row, _Result]]) -> None:
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._pool, self._run, [one.row for one in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for a batch of {len(batch)}")
        except Exception as error:
            if len(batch) > 1:  # one row may have failed all, so each is encoded again by itself
                _log.warning("a batch of %d failed; its rows are encoded one by one: %s", len(batch), error)
                for one in batch:
                    if not one.done.done():
                        await self._encode([one])
            elif not batch[0].done.done():
                batch[0].done.set_exception(error)
            return
        for one, result in zip(batch, results, strict=True):
            if not one.done.done():
                one.done.set_result(result)
