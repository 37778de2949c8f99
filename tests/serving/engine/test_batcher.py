"""Queries are batched, and each gets its own answer whatever happens in its batch."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import pytest

from persrep_ray.serving.engine.batcher import Batcher
from persrep_ray.serving.engine.metrics import Metrics


class Encoder:
    """Squares numbers and records its batches. It holds a batch open until `gate` is set and fails on `bad` numbers."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)
        self.bad: set[int] = set()
        self.after: Callable[[list[int]], Any] = lambda results: results

    def __call__(self, rows: Sequence[int]) -> list[int]:
        self.batches.append(list(rows))
        self.started.release()
        assert self.gate.wait(10)
        if self.bad & set(rows):
            raise RuntimeError(f"cannot encode {sorted(self.bad & set(rows))}")
        return self.after([row * row for row in rows])

    async def has_started(self) -> None:
        assert await asyncio.to_thread(self.started.acquire, True, 10)


class Seen(Metrics):
    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []

    def batch(self, *, rows: int, adapters: int, waited: list[float], seconds: float) -> None:
        self.batches.append({"rows": rows, "adapters": adapters, "waited": waited, "seconds": seconds})


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


def batcher_of(encoder: Encoder, rows: int = 4, metrics: Metrics | None = None) -> Batcher[int, int]:
    return Batcher(encoder, rows=rows, adapters=lambda batch: len(set(batch)), metrics=metrics or Metrics())


Queued = list["asyncio.Task[int]"]


async def queue(batcher: Batcher[int, int], *rows: int, kind: Callable[[int], Hashable] = lambda _: "cls") -> Queued:
    tasks = [asyncio.create_task(batcher.submit(row, kind(row))) for row in rows]
    await asyncio.sleep(0)
    return tasks


async def busy(batcher: Batcher[int, int], encoder: Encoder, *rows: int, **options: Any) -> Queued:
    """Queues `rows` while the encoder is busy with a batch of a single 0, then lets it continue."""
    encoder.gate.clear()
    tasks = await queue(batcher, 0, **options)
    await encoder.has_started()
    tasks += await queue(batcher, *rows, **options)
    return tasks


def test_a_lone_query_does_not_wait_for_company(encoder: Encoder) -> None:
    async def scenario() -> None:
        batcher = batcher_of(encoder)
        assert await batcher.submit(3, "cls") == 9
        assert await batcher.submit(4, "cls") == 16
        assert encoder.batches == [[3], [4]]

    asyncio.run(scenario())


def test_what_waits_while_the_encoder_is_busy_becomes_batches(encoder: Encoder) -> None:
    async def scenario() -> None:
        batcher = batcher_of(encoder)
        tasks = await busy(batcher, encoder, *range(1, 7))
        encoder.gate.set()
        assert await asyncio.gather(*tasks) == [row * row for row in range(7)]
        assert encoder.batches == [[0], [1, 2, 3, 4], [5, 6]]

    asyncio.run(scenario())


def test_kinds_do_not_share_a_batch_and_the_oldest_goes_first(encoder: Encoder) -> None:
    async def scenario() -> None:
        batcher = batcher_of(encoder, rows=3)
        tasks = await busy(batcher, encoder, 1, 3, 2, 5, 4, 7, 9, kind=lambda row: row % 2)
        encoder.gate.set()
        assert await asyncio.gather(*tasks) == [0, 1, 9, 4, 25, 16, 49, 81]
        assert encoder.batches == [[0], [1, 3, 5], [2, 4], [7, 9]]

    asyncio.run(scenario())


def test_a_rare_kind_is_not_starved_by_an_endless_stream(encoder: Encoder) -> None:
    async def scenario() -> None:
        batcher = batcher_of(encoder, rows=2)
        stop = asyncio.Event()

        async def stream(row: int) -> None:
            while not stop.is_set():
                assert await batcher.submit(row, "common") == row * row

        tasks = await busy(batcher, encoder, kind=lambda _: "common")
        streams = [asyncio.create_task(stream(row)) for row in range(1, 7)]
        await asyncio.sleep(0)
        rare = asyncio.create_task(batcher.submit(100, "rare"))
        await asyncio.sleep(0)
        encoder.gate.set()
        assert await rare == 10_000
        stop.set()
        await asyncio.gather(*tasks, *streams)
        assert encoder.batches.index([100]) == 4  # behind the six older ones, two by two, and no later one

    asyncio.run(scenario())


def test_who_went_away_is_left_out(encoder: Encoder) -> None:
    async def scenario() -> None:
        batcher = batcher_of(encoder, rows=2)
        tasks = await busy(batcher, encoder, 1, 2, 3, 4)
        tasks[2].cancel()
        await asyncio.sleep(0)
        encoder.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results.pop(2), asyncio.CancelledError) and results == [0, 1, 9, 16]
        assert encoder.batches == [[0], [1, 3], [4]]

    asyncio.run(scenario())


def test_who_goes_away_while_encoded_disturbs_nobody(encoder: Encoder) -> None:
    async def scenario() -> None:
        batcher = batcher_of(encoder)
        tasks = await busy(batcher, encoder, 1, 2)
        tasks[0].cancel()
        await asyncio.sleep(0)
        encoder.gate.set()
        assert await asyncio.gather(*tasks[1:]) == [1, 4]
        assert await batcher.submit(3, "cls") == 9

    asyncio.run(scenario())


def test_when_everybody_went_away_nothing_runs(encoder: Encoder) -> None:
    async def scenario() -> None:
        batcher = batcher_of(encoder)
        tasks = await busy(batcher, encoder, 1, 2)
        for task in tasks[1:]:
            task.cancel()
        await asyncio.sleep(0)
        encoder.gate.set()
        assert await tasks[0] == 0
        assert await batcher.submit(3, "cls") == 9
        assert encoder.batches == [[0], [3]]

    asyncio.run(scenario())


def test_a_poisoned_row_fails_alone(encoder: Encoder) -> None:
    async def scenario() -> None:
        encoder.bad = {2}
        batcher = batcher_of(encoder)
        tasks = await busy(batcher, encoder, 1, 2, 3, 4)
        encoder.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        error = results.pop(2)
        assert isinstance(error, RuntimeError) and str(error) == "cannot encode [2]"
        assert results == [0, 1, 9, 16]
        assert encoder.batches == [[0], [1, 2, 3, 4], [1], [2], [3], [4]]
        assert await batcher.submit(5, "cls") == 25

    asyncio.run(scenario())


def test_after_a_failed_batch_those_who_went_away_are_not_tried() -> None:
    batches: list[list[int]] = []
    started, gone = threading.Event(), threading.Event()

    def fails_together(rows: Sequence[int]) -> list[int]:
        batches.append(list(rows))
        if len(rows) > 1:
            started.set()
            assert gone.wait(10)
            raise RuntimeError("too many")
        return list(rows)

    async def scenario() -> None:
        batcher: Batcher[int, int] = Batcher(fails_together, rows=4, adapters=len, metrics=Metrics())
        tasks = await queue(batcher, 1, 2, 3)
        assert await asyncio.to_thread(started.wait, 10)
        tasks[1].cancel()
        await asyncio.sleep(0)
        gone.set()
        assert [await tasks[0], await tasks[2]] == [1, 3]
        assert batches == [[1, 2, 3], [1], [3]]

    asyncio.run(scenario())


@pytest.mark.parametrize("wrong", [lambda results: results[:-1], lambda results: [*results, 0], lambda results: None])
def test_a_wrong_number_of_results_is_an_error_and_nobody_waits_for_ever(encoder: Encoder, wrong: Any) -> None:
    async def scenario() -> None:
        encoder.after = wrong
        batcher = batcher_of(encoder)
        for row in (1, 2):
            with pytest.raises((RuntimeError, TypeError)):
                await asyncio.wait_for(batcher.submit(row, "cls"), 10)
        encoder.after = lambda results: results
        assert await batcher.submit(3, "cls") == 9

    asyncio.run(scenario())


def test_broken_metrics_do_not_stop_the_queue(encoder: Encoder) -> None:
    class Broken(Metrics):
        def batch(self, *, rows: int, adapters: int, waited: list[float], seconds: float) -> None:
            raise RuntimeError("no metrics")

    async def scenario() -> None:
        batcher = batcher_of(encoder, rows=1, metrics=Broken())
        tasks = await busy(batcher, encoder, 1, 2)
        encoder.gate.set()
        assert await asyncio.wait_for(asyncio.gather(*tasks), 10) == [0, 1, 4]

    asyncio.run(scenario())


def test_each_batch_is_measured(encoder: Encoder) -> None:
    async def scenario() -> None:
        seen = Seen()
        batcher = batcher_of(encoder, metrics=seen)
        begun = time.monotonic()
        tasks = await busy(batcher, encoder, 1, 1, 2)
        queued = time.monotonic()
        await asyncio.to_thread(lambda: None)
        opened = time.monotonic()
        encoder.gate.set()
        await asyncio.gather(*tasks)
        await batcher.submit(9, "cls")
        took = time.monotonic() - begun
        first, second, _ = seen.batches
        assert (first["rows"], first["adapters"], len(first["waited"])) == (1, 1, 1)
        assert (second["rows"], second["adapters"], len(second["waited"])) == (3, 2, 3)
        assert all(opened - queued <= wait <= took for wait in second["waited"])
        assert opened - queued <= first["seconds"] <= took

    asyncio.run(scenario())
