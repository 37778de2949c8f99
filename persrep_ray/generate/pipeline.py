"""Generation on Ray: chunks stream through the pools of their generators, which run side by side.

The actors of a pool share the chunks of an object, an actor serves many objects, and an object goes on to training with
its last chunk.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from persrep_ray.config import GeneratorName, RunConfig
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.distributed.outcome import Outcome, describe
from persrep_ray.distributed.resources import PoolSize
from persrep_ray.distributed.streaming import Item, Pool, stream
from persrep_ray.generate.generators import generators_of
from persrep_ray.generate.schedule import training_chunks
from persrep_ray.generate.shards import ShardError
from persrep_ray.generate.types import Chunk, Generator
from persrep_ray.generate.workers import drained
from persrep_ray.storage.store import StorageError


class Generation:
    """Chunks that are being generated; `poll` returns the objects whose last chunk has landed.

    Args:
        chunks: the missing chunks, object by object, so that objects are finished one after the other.
        shared: references to the RunConfig, Manifest and RunFolder.
        prepared: what `Generator.prepare` returned, by generator.
        pools: the sizes of the generators' pools, by name.

    Attributes:
        images: how many images have been made.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        config: RunConfig,
        folder: RunFolder,
        shared: Sequence[Any],
        prepared: Mapping[GeneratorName, Any],
        pools: Mapping[str, PoolSize],
    ) -> None:
        self.images = 0
        self.chunks = chunks
        self._config, self._folder = config, folder
        self._generators = generators_of(config)
        self._warnings: list[str] = []
        self._warned: set[str] = set()
        self._missing = Counter(chunk.object_id for chunk in chunks)
        self._to_prepare = {
            name: {chunk.object_id for chunk in chunks if chunk.generator == name}
            for name, generator in self._generators.items()
            if generator.preparation
        }
        self._all_to_prepare = {name: len(object_ids) for name, object_ids in self._to_prepare.items()}
        self._rows: queue.SimpleQueue[Item | Exception] = queue.SimpleQueue()
        for name, generator in self._generators.items():
            items = generator.items([chunk for chunk in chunks if chunk.generator == name])
            if items:
                stages = _pools(generator, [*shared, ray.put(prepared[name])], pools)
                # A daemon: iterating the stream blocks, and must not keep an interrupted run alive.
                threading.Thread(target=self._run, args=(items, stages), name=f"generate {name}", daemon=True).start()

    def preparations(self) -> dict[str, tuple[int, int]]:
        """How many objects the generators have prepared, and of how many, by the names of the preparations."""
        return {
            str(self._generators[name].preparation): (count - len(self._to_prepare[name]), count)
            for name, count in self._all_to_prepare.items()
        }

    def new_warnings(self) -> list[str]:
        """What the user should know and has not been told since the last call; every actor may say the same."""
        new = [text for text in dict.fromkeys(drained(self._warnings)) if text not in self._warned]
        self._warned.update(new)
        return new

    def poll(self) -> list[Outcome]:
        """The objects that ended since the last call; never waits. An object fails with its first bad chunk."""
        outcomes = []
        while not self._rows.empty():
            row = self._rows.get()
            if isinstance(row, Exception):  # of a pool itself: no more rows will come
                outcomes += [Outcome(object_id, describe(row)) for object_id in self._missing]
                self._missing.clear()
                continue
            object_id, name = row["object_id"], row["generator"]
            self.images += row["images"]
            self._warnings.extend(row["warnings"])
            self._to_prepare.get(name, set()).discard(object_id)
            if object_id not in self._missing:  # it failed in another stream, and this stream went on nevertheless
                self.clean_up(object_id)
                continue
            self._missing[object_id] -= 1
            if row["error"] or not self._missing[object_id]:
                del self._missing[object_id]
                outcomes.append(Outcome(object_id, row["error"] or self.why_unusable(object_id)))
                self.clean_up(object_id)
        return outcomes

    def clean_up(self, object_id: str) -> None:
        """Removes what the generators needed for an object that has ended."""
        for generator in self._generators.values():
            try:
                generator.clean_up(self._folder, object_id)
            except StorageError as error:
                self._warnings.append(f"object {object_id}: generate: cannot be cleaned up: {error}")

    def why_unusable(self, object_id: str) -> str | None:
        """Says why an object cannot be trained on what was generated for it; None if it can.

        If only some of its generators failed, that is a warning.
        """
        positives: dict[GeneratorName, list[Chunk]] = {}
        for chunk in training_chunks(object_id, self._config)["positive"]:
            positives.setdefault(chunk.generator, []).append(chunk)
        causes: list[str] = []
        usable: list[str] = []
        for name, chunks in positives.items():
            try:
                cause = self._generators[name].why_unusable(self._folder, object_id, chunks)
            except (ShardError, StorageError) as error:
                return str(error)
            if cause is None:
                usable.append(name)
            else:
                causes.append(cause)
        if not usable:
            return "; ".join(causes)
        for cause in causes:
            self._warnings.append(
                f"object {object_id}: generate: {cause}; it is trained on the images of {', '.join(usable)} alone"
            )
        return None

    def _run(self, items: Sequence[Item], pools: Sequence[Pool]) -> None:
        try:
            for row in stream(items, *pools):
                self._rows.put(row)
        except Exception as error:
            self._rows.put(error)


def _pools(generator: Generator, arguments: Sequence[Any], sizes: Mapping[str, PoolSize]) -> list[Pool]:
    return [
        Pool(
            stage.worker,
            arguments,
            sizes[stage.demand.name].actors,
            cpus=stage.demand.cpus,
            gpus=sizes[stage.demand.name].gpus,
        )
        for stage in generator.stages()
    ]
