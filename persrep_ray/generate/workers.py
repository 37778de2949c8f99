"""What the actors of all generators share: a worker makes one chunk per call and never raises."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from persrep_ray.config import GeneratorName
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.distributed.outcome import describe
from persrep_ray.generate.shards import write_shard
from persrep_ray.generate.types import Chunk, SyntheticImage

if TYPE_CHECKING:
    from persrep_ray.distributed.streaming import Item


class ChunkWorker(ABC):
    """Makes one chunk per call and stores it as a shard; what goes wrong becomes a part of the row."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._warnings: list[str] = []

    @abstractmethod
    def make(self, chunk: Chunk) -> tuple[list[SyntheticImage], dict[str, Any]]:
        """The images of the chunk in the order of their index, and what the shard's report says besides the seconds.

        An image that cannot be made is left out. Deterministic in the chunk. What the user should know is appended to
        `_warnings`. Raises ValueError if no image of the object can be made.
        """

    def __call__(self, item: Item) -> Item:
        chunk, error = Chunk(**item), ""
        try:
            started = time.monotonic()
            images, report = self.make(chunk)
            write_shard(self._folder, chunk, images, {"seconds": time.monotonic() - started, **report})
        except Exception as cause:  # the failure of one object must not end the others
            error = describe(cause)
        return result_row(
            chunk.object_id, chunk.generator, images=chunk.count, error=error, warnings=drained(self._warnings)
        )


def result_row(
    object_id: str, generator: GeneratorName, *, images: int = 0, error: str = "", warnings: Sequence[str] = ()
) -> Item:
    """The row that a worker returns for an item."""
    return {
        "object_id": object_id,
        "generator": generator,
        "images": images,
        "error": error,
        "warnings": list(warnings),
    }


def drained(warnings: list[str]) -> list[str]:
    """Empties the list and returns what was in it."""
    taken = list(warnings)
    warnings.clear()
    return taken
