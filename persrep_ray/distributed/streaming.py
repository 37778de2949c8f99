"""Work on items by pools of actors, through Ray Data: rows come back the moment they are made, in any order."""

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

# One block per item hands rows over one by one, but the driver makes the blocks: huge runs share them out.
_MOST_BLOCKS = 10_000


@dataclass(frozen=True)
class Pool:
    """`actors` actors of `cpus` CPUs and `gpus` GPUs each, which call `make(*shared)`; `shared` are references."""

    make: Callable[..., Worker]
    shared: Sequence[Any]
    actors: int
    cpus: float
    gpus: float = 0.0


class _PoolActor:
    """Wraps a plain worker for Ray Data: builds it from the shared arguments, and takes batches of one."""

    def __init__(self, make: Callable[..., Worker], shared: Sequence[Any]) -> None:
        self._work = make(*ray.get(list(shared)))

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, list[Any]]]:
        done = self._work({name: column.tolist()[0] for name, column in batch.items()})
        for row in done if isinstance(done, list) else [done]:
            yield {name: [value] for name, value in row.items()}


def stream(items: Sequence[Mapping[str, Any]], *pools: Pool) -> Iterator[Item]:
    """Each item's rows through the pools, one after the other: the rows of one are the items of the next.

    Items and rows are flat dicts of strings, numbers and lists of strings, in a pool all with the same keys. Items are
    taken up in their order; the rows of one item are shared by all actors of the next pool. An actor that dies is
    replaced and its items are done again, so a worker must be idempotent and give the same rows again. A worker that
    raises ends the stream: what may go wrong with one item belongs into its row.
    """
    if not items:
        return
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # byte: a row is a block, so that it goes on at once and to any actor
    for name in ("ray.data", "ray.data.dataset", "ray.data._internal.execution.streaming_executor"):
        logging.getLogger(name).setLevel(logging.ERROR)
    dataset: ray.data.Dataset = ray.data.from_items(list(items), override_num_blocks=min(len(items), _MOST_BLOCKS))
    for pool in pools:
        size = pool.actors if pool is not pools[0] else min(pool.actors, len(items))
        dataset = dataset.map_batches(
            _PoolActor,
            fn_constructor_args=(pool.make, list(pool.shared)),
            batch_size=1,
            compute=ActorPoolStrategy(min_size=size, max_size=size, max_tasks_in_flight_per_actor=2),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
        )
    # Not iter_rows(), which holds a row back until it has the next.
    tables: Any = dataset.iter_batches(batch_size=1, prefetch_batches=0, batch_format="pyarrow")
    for table in tables:
        yield from table.to_pylist()
