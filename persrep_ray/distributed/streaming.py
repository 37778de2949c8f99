"""Work on items by pools of actors, through Ray Data. Rows come back as soon as they are made, in any order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext

Item = dict[str, Any]
Worker = Callable[[Item], Item | list[Item]]

# With a block per item, rows are handed over one by one. The driver makes the blocks, so huge runs put more in a block.
_MOST_BLOCKS = 10_000


@dataclass(frozen=True)
class Pool:
    """`actors` actors of `cpus` CPUs and `gpus` GPUs each. In each, `make` builds a worker.

    `shared` are Ray's references to the arguments of `make`.
    """

    make: Callable[..., Callable[..., Any]]
    shared: Sequence[Any]
    actors: int
    cpus: float
    gpus: float = 0.0

    def worker(self) -> Callable[..., Any]:
        """Builds the worker of an actor, within that actor."""
        return self.make(*ray.get(list(self.shared)))


class _BatchActor:
    """Wraps a worker for Ray Data, which passes batches of one item."""

    def __init__(self, pool: Pool) -> None:
        self._work: Worker = pool.worker()

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, list[Any]]]:
        done = self._work({name: column.tolist()[0] for name, column in batch.items()})
        for row in done if isinstance(done, list) else [done]:
            yield {name: [value] for name, value in row.items()}


def stream(items: Sequence[Mapping[str, Any]], *pools: Pool) -> Iterator[Item]:
    """Passes items through the pools, and yields the rows of the last. The rows of a pool are the items of the next.

    Items and rows are flat dicts of strings, numbers and lists of strings; within a pool all have the same keys. Items
    start in their order, and all actors of the next pool share the rows of an item. An actor that dies is replaced and
    its items are done again, so a worker must be idempotent and return the same rows again. A worker that raises ends
    the stream, so a worker puts the failure of an item into its row.
    """
    if not items:
        return
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # byte, so that each row is a block, which goes on at once and to any actor
    for name in ("ray.data", "ray.data.dataset", "ray.data._internal.execution.streaming_executor"):
        logging.getLogger(name).setLevel(logging.ERROR)
    dataset: ray.data.Dataset = ray.data.from_items(list(items), override_num_blocks=min(len(items), _MOST_BLOCKS))
    for pool in pools:
        size = pool.actors if pool is not pools[0] else min(pool.actors, len(items))
        dataset = dataset.map_batches(
            _BatchActor,
            fn_constructor_args=(pool,),
            batch_size=1,
            compute=ActorPoolStrategy(min_size=size, max_size=size, max_tasks_in_flight_per_actor=2),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
        )
    # iter_rows() would hold back each row until it has the next.
    tables: Any = dataset.iter_batches(batch_size=1, prefetch_batches=0, batch_format="pyarrow")
    for table in tables:
        yield from table.to_pylist()
