"""Generation on Ray: chunks stream through a pool of actors, and an object is handed on with its last chunk."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from persrep_ray.generate.chunks import ChunkGenerator
from persrep_ray.generate.types import GenerateRequest
from persrep_ray.outcome import Outcome, describe
from persrep_ray.streaming import Item, stream


class ChunkWorker:
    """Generates one chunk per call; errors become part of the row."""

    def __init__(self, *arguments: object) -> None:
        self._generator = ChunkGenerator(*arguments)  # type: ignore[arg-type]

    def __call__(self, item: Item) -> Item:
        request = GenerateRequest(**item)
        error = ""
        try:
            self._generator.write(request)
        except Exception as cause:  # one object's failure is never another's
            error = describe(cause)
        return {"object_id": request.object_id, "images": request.count, "error": error}


class Generation:
    """Chunks being generated; `poll` hands over the objects whose last chunk has landed.

    Args:
        requests: the chunks, object by object, so that objects are done one after the other.
        shared: references to the arguments of `ChunkGenerator`.
    """

    def __init__(self, requests: Sequence[GenerateRequest], shared: Sequence[Any], *, actors: int, cpus: float) -> None:
        self.images = 0
        self.images_total = sum(request.count for request in requests)
        self._missing = Counter(request.object_id for request in requests)
        self._rows: queue.SimpleQueue[Item | Exception] = queue.SimpleQueue()
        self.requests = requests
        self._shared, self._actors, self._cpus = shared, actors, cpus
        # A daemon: iterating the stream blocks, and must not keep an interrupted run alive.
        threading.Thread(target=self._run, name="generation", daemon=True).start()

    def _run(self) -> None:
        try:
            items = [asdict(request) for request in self.requests]
            for row in stream(items, ChunkWorker, self._shared, actors=self._actors, cpus=self._cpus):
                self._rows.put(row)
        except Exception as error:
            self._rows.put(error)

    def poll(self) -> list[Outcome]:
        """The objects that ended since the last call; never waits. An object fails with its first bad chunk."""
        outcomes = []
        while not self._rows.empty():
            row = self._rows.get()
            if isinstance(row, Exception):  # the pool itself: nothing more will come
                outcomes += [Outcome(object_id, describe(row)) for object_id in self._missing]
                self._missing.clear()
                continue
            object_id = row["object_id"]
            self.images += row["images"]
            if object_id not in self._missing:
                continue
            self._missing[object_id] -= 1
            if row["error"] or not self._missing[object_id]:
                del self._missing[object_id]
                outcomes.append(Outcome(object_id, row["error"] or None))
        return outcomes
