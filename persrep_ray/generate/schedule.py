"""Which images are generated for an object, cut into chunks: the unit of work, of storage and of resume."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from persrep_ray.config import GeneratorName, RunConfig
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.shards import is_whole, shard_key
from persrep_ray.generate.types import Chunk, Role


def shares(config: RunConfig) -> dict[GeneratorName, float]:
    """Each generator's share of an object's images. The first generator makes the first images."""
    generate = config.generate
    if generate.generator == "combined":
        return {"cut_paste": 1 - generate.dreambooth_share, "dreambooth": generate.dreambooth_share}
    return {generate.generator: 1.0}


def training_chunks(object_id: str, config: RunConfig) -> dict[Role, list[Chunk]]:
    """The images that an object is trained on, in their order."""
    return {role: _cut(object_id, role, 0, count, config) for role, count in _training_counts(config).items()}


def calibration_chunks(object_id: str, config: RunConfig) -> dict[Role, list[Chunk]]:
    """The images after those. Training never sees them, so they can calibrate the adapter's scores."""
    count = config.generate.calibration_images
    return {role: _cut(object_id, role, start, count, config) for role, start in _training_counts(config).items()}


def chunks(object_id: str, config: RunConfig) -> list[Chunk]:
    """All chunks of an object; those it is trained on come first."""
    parts = training_chunks(object_id, config), calibration_chunks(object_id, config)
    return [chunk for part in parts for by_role in part.values() for chunk in by_role]


def missing_chunks(object_ids: Iterable[str], folder: RunFolder, config: RunConfig) -> list[Chunk]:
    """The chunks, object by object, that have no readable shard yet."""
    shards = folder.store.files("synthetic/")

    def is_missing(chunk: Chunk) -> bool:
        file = shards.get(shard_key(folder, chunk))
        return file is None or not is_whole(file)

    return [chunk for object_id in object_ids for chunk in chunks(object_id, config) if is_missing(chunk)]


def _training_counts(config: RunConfig) -> dict[Role, int]:
    return {"positive": config.generate.positives, "negative": config.generate.negatives}


def _cut(object_id: str, role: Role, start: int, count: int, config: RunConfig) -> list[Chunk]:
    """Images `start … start + count - 1` as chunks, each made by one generator."""
    names, parts = zip(*shares(config).items(), strict=True)
    stop = start + count
    bounds = [start, *(stop - round(count * sum(parts[i:])) for i in range(1, len(parts))), stop]
    size = config.generate.chunk_size
    return [
        Chunk(object_id, role, first, min(size, end - first), config.seed, name)
        for name, (begin, end) in zip(names, pairwise(bounds), strict=True)
        for first in range(begin, end, size)
    ]
