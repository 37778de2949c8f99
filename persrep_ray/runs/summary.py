"""The result of a run as `summary.json` holds it, from what is in the run folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from persrep_ray.config import RunConfig
from persrep_ray.config.versions import versions
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.generators import generators_of
from persrep_ray.generate.schedule import chunks
from persrep_ray.generate.shards import ShardError, shard_report
from persrep_ray.generate.types import Generator
from persrep_ray.tasks.metrics import mean_sides


def summarize(
    folder: RunFolder, config: RunConfig, selected: Iterable[str], failed: Mapping[str, str]
) -> dict[str, Any]:
    """The status, version, error, seconds per stage and metrics of each object, and what its generators report; the
    mean metrics; the configuration and versions."""
    generators = list(generators_of(config).values())
    objects: dict[str, Any] = {}
    for object_id in selected:
        error = failed.get(object_id)
        result: dict[str, Any] = {} if error else folder.read_json(folder.published(object_id))
        objects[object_id] = {
            "status": "failed" if error else "published",
            "version": result.get("version"),
            "error": error,
            "seconds": _seconds(folder, config, generators, object_id),
            "metrics": result.get("metrics"),
        }
        for generator in generators:
            objects[object_id] |= generator.summary(folder, object_id)
    return {
        "objects": objects,
        "mean": mean_sides(one["metrics"] for one in objects.values() if one["metrics"]),
        "config": config.to_dict(),
        "versions": versions(),
    }


def _seconds(
    folder: RunFolder, config: RunConfig, generators: Iterable[Generator], object_id: str
) -> dict[str, float | None]:
    """The work per stage, whichever calls of the run did it; None for a stage that the object never finished."""

    def of(key: str) -> float | None:
        return folder.read_json(key)["seconds"] if folder.exists(key) else None

    try:
        generate = sum(shard_report(folder, chunk)["seconds"] for chunk in chunks(object_id, config))
    except ShardError:  # some are missing or damaged
        generate = None
    seconds = {
        "mask": of(folder.masks_report(object_id)),
        "generate": generate,
        "train": of(folder.train_report(object_id)),
        "evaluate": of(folder.published(object_id)),
    }
    for generator in generators:
        seconds |= generator.seconds(folder, object_id)
    return {stage: None if value is None else round(value, 3) for stage, value in seconds.items()}
