"""The result of a run as `summary.json` holds it, from what is in the run folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from persrep_ray.config import RunConfig
from persrep_ray.config.versions import versions
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.schedule import chunks
from persrep_ray.generate.shards import ShardError, shard_report
from persrep_ray.tasks.metrics import mean_sides


def summarize(
    folder: RunFolder, config: RunConfig, selected: Iterable[str], failed: Mapping[str, str]
) -> dict[str, Any]:
    """The status, version, error, seconds per stage, filter counts and metrics of each object, and the mean metrics.

    It reads one small file for each published object.
    """
    objects: dict[str, Any] = {}
    for object_id in selected:
        error = failed.get(object_id)
        result = work_done(folder, config, object_id) if error else folder.read_json(folder.published(object_id))
        objects[object_id] = {
            "status": "failed" if error else "published",
            "version": result.get("version"),
            "error": error,
            "seconds": result["seconds"],
            "filter": result["filter"],
            "metrics": result.get("metrics"),
        }
    return {
        "objects": objects,
        "mean": mean_sides(one["metrics"] for one in objects.values() if one["metrics"]),
        "config": config.to_dict(),
        "versions": versions(),
    }


def work_done(folder: RunFolder, config: RunConfig, object_id: str) -> dict[str, Any]:
    """The seconds that each stage worked on an object, in all calls of the run, and how much the filter rejected.

    The seconds of a stage that has not ended are None.
    """
    seconds = {
        "mask": _seconds(folder, folder.masks_report(object_id)),
        "generate": _generating_seconds(folder, config, object_id),
        "train": _seconds(folder, folder.train_report(object_id)),
        "evaluate": _seconds(folder, folder.evaluation(object_id)),
    }
    if config.generate.generator != "cut_paste":
        seconds["fine_tune"] = _seconds(folder, folder.fine_tuned(object_id))
    return {"seconds": seconds, "filter": _filter(folder, object_id)}


def _seconds(folder: RunFolder, key: str) -> float | None:
    return round(folder.read_json(key)["seconds"], 3) if folder.exists(key) else None


def _generating_seconds(folder: RunFolder, config: RunConfig, object_id: str) -> float | None:
    try:
        return round(sum(shard_report(folder, chunk)["seconds"] for chunk in chunks(object_id, config)), 3)
    except ShardError:  # a shard is missing or damaged
        return None


def _filter(folder: RunFolder, object_id: str) -> dict[str, Any] | None:
    """How many sampled positives were rejected; None if none was sampled. `filtered/` has it per prompt."""
    if not folder.exists(folder.filtered(object_id)):
        return None
    report = folder.read_json(folder.filtered(object_id))
    return {name: value for name, value in report.items() if name != "by_prompt"}
