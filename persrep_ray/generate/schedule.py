"""Which images are generated for an object, cut into chunks: the unit of work, of storage and of resume."""

from __future__ import annotations

from persrep_ray.config import RunConfig
from persrep_ray.generate.types import Chunk, GeneratorName, Role


def training_chunks(object_id: str, config: RunConfig) -> dict[Role, list[Chunk]]:
    """What an object is trained on, in the order of the images."""
    return {role: _cut(object_id, role, 0, count, config) for role, count in _training_counts(config).items()}


def calibration_chunks(object_id: str, config: RunConfig) -> dict[Role, list[Chunk]]:
    """The images after those: training never sees them, so they calibrate the adapter's scores."""
    count = config.generate.calibration_images
    return {role: _cut(object_id, role, start, count, config) for role, start in _training_counts(config).items()}


def chunks(object_id: str, config: RunConfig) -> list[Chunk]:
    """All of an object's chunks, those it is trained on first."""
    parts = training_chunks(object_id, config), calibration_chunks(object_id, config)
    return [chunk for part in parts for by_role in part.values() for chunk in by_role]


def _training_counts(config: RunConfig) -> dict[Role, int]:
    return {"positive": config.generate.positives, "negative": config.generate.negatives}


def _cut(object_id: str, role: Role, start: int, count: int, config: RunConfig) -> list[Chunk]:
    """Images `start … start + count - 1` as chunks of one generator each; what is cut and pasted comes first."""
    generate = config.generate
    share = {"cut_paste": 0.0, "dreambooth": 1.0, "combined": generate.dreambooth_share}[generate.generator]
    middle, stop = start + count - round(count * share), start + count
    parts: tuple[tuple[GeneratorName, int, int], ...] = (("cut_paste", start, middle), ("dreambooth", middle, stop))
    return [
        Chunk(object_id, role, first, min(generate.chunk_size, end - first), config.seed, name)
        for name, begin, end in parts
        for first in range(begin, end, generate.chunk_size)
    ]
