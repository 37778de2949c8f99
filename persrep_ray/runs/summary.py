"""The result of a run as `summary.json` holds it, from what is in the run folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from persrep_ray.config import RunConfig
from persrep_ray.config.versions import versions
from persrep_ray.data.run_folder import RunFolder, read_json
from persrep_ray.generate.shards import ShardError, shard_report
from persrep_ray.tasks.metrics import mean_sides


def summarize(
    folder: RunFolder, config: RunConfig, selected: Iterable[str], failed: Mapping[str, str]
) -> dict[str, Any]:
    """Per object its status, version, error, seconds per stage, what the filter rejected, and metrics; the mean
    metrics; config and versions."""
    objects: dict[str, Any] = {}
    for object_id in selected:
        error = failed.get(object_id)
        result: dict[str, Any] = {} if error else read_json(folder.published(object_id))
        objects[object_id] = {
            "status": "failed" if error else "published",
            "version": result.get("version"),
            "error": error,
            "seconds": _seconds(folder, config, object_id),
            "filter": _filter(folder, object_id),
            "metrics": result.get("metrics"),
        }
    return {
        "objects": objects,
        "mean": mean_sides(one["metrics"] for one in objects.values() if one["metrics"]),
        "config": config.to_dict(),
        "versions": versions(),
    }


def _filter(folder: RunFolder, object_id: str) -> dict[str, Any] | None:
    """How many sampled positives were rejected; None where none was sampled. `filtered/` has it per prompt."""
    if not folder.filtered(object_id).exists():
        return None
    return {name: value for name, value in read_json(folder.filtered(object_id)).items() if name != "by_prompt"}


def _seconds(folder: RunFolder, config: RunConfig, object_id: str) -> dict[str, float | None]:
    """Work per stage, summed over chunks, whichever calls of the run did it; None for a stage it never ended."""

    def of(path: Any) -> float | None:
        return round(read_json(path)["seconds"], 3) if path.exists() else None

    shards = [folder.shard(chunk) for chunk in folder.chunks(object_id, config)]
    try:
        generate = round(sum(shard_report(shard)["seconds"] for shard in shards), 3)
    except ShardError:  # some are missing, or damaged
        generate = None
    seconds = {
        "mask": of(folder.masks(object_id) / "masks.json"),
        "generate": generate,
        "train": of(folder.trained(object_id) / "train.json"),
        "evaluate": of(folder.published(object_id)),
    }
    return seconds if config.generate.generator == "cut_paste" else {**seconds, "tune": of(folder.tuned(object_id))}
