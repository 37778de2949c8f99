"""Work on items by a pool of actors, through Ray Data: rows come back the moment they are made, in any order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext

Item = dict[str, Any]
Worker = Callable[[Item], Item]

# One block per item hands rows over one by one, but the driver makes the blocks: huge runs share them out.
_MOST_BLOCKS = 10_000


class _PoolActor:
    """Wraps a plain worker for Ray Data: builds it from the shared arguments, and takes batches of one."""

    def __init__(self, make: Callable[..., Worker], shared: Sequence[Any]) -> None:
        self._work = make(*ray.get(list(shared)))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        row = self._work({name: column.tolist()[0] for name, column in batch.items()})
        return {name: [value] for name, value in row.items()}


def stream(
    items: Sequence[Mapping[str, Any]],
    make: Callable[..., Worker],
    shared: Sequence[Any],
    *,
    actors: int,
    cpus: float,
) -> Iterator[Item]:
    """`make(*shared)(item)` for every item, by at most `actors` actors of `cpus` CPUs each.

    Items and rows are flat dicts of strings, numbers and lists of strings, all with the same keys. Items are taken up
    in their order. An actor that dies is replaced and its items are done again, so a worker must be idempotent.
    A worker that raises ends the stream: what may go wrong with one item belongs into its row.
    """
    if not items:
        return
    context = DataContext.get_current()
    context.enable_progress_bars = False
    for name in ("ray.data", "ray.data.dataset", "ray.data._internal.execution.streaming_executor"):
        logging.getLogger(name).setLevel(logging.ERROR)
    dataset = ray.data.from_items(list(items), override_num_blocks=min(len(items), _MOST_BLOCKS)).map_batches(
        _PoolActor,
        fn_constructor_args=(make, list(shared)),
        batch_size=1,
        compute=ActorPoolStrategy(
            min_size=min(actors, len(items)), max_size=min(actors, len(items)), max_tasks_in_flight_per_actor=2
        ),
        num_cpus=cpus,
    )
    yield from dataset.iter_rows()
