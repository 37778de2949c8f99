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
from persrep_ray.tasks.metrics import mean_sides


def summarize(
    folder: RunFolder, config: RunConfig, selected: Iterable[str], failed: Mapping[str, str]
) -> dict[str, Any]:
    """The status, version, error, metrics and `work_report` of each object; the mean metrics; config and versions.

    It reads one small file for each published object.
    """
    objects: dict[str, Any] = {}
    for object_id in selected:
        error = failed.get(object_id)
        result = work_report(folder, config, object_id) if error else folder.read_json(folder.published(object_id))
        status = "failed" if error else "published"
        objects[object_id] = {"status": status, "version": None, "error": error, "metrics": None, **result}
    return {
        "objects": objects,
        "mean": mean_sides(one["metrics"] for one in objects.values() if one["metrics"]),
        "config": config.to_dict(),
        "versions": versions(),
    }


def work_report(folder: RunFolder, config: RunConfig, object_id: str) -> dict[str, Any]:
    """The `seconds` that each stage worked on an object in all calls of the run, and what its generators report.

    The seconds of a stage that has not ended are None.
    """

    def seconds_in(key: str) -> float | None:
        return folder.read_json(key)["seconds"] if folder.exists(key) else None

    try:
        generating = sum(shard_report(folder, chunk)["seconds"] for chunk in chunks(object_id, config))
    except ShardError:  # a shard is missing or damaged
        generating = None
    seconds = {
        "mask": seconds_in(folder.masks_report(object_id)),
        "generate": generating,
        "train": seconds_in(folder.train_report(object_id)),
        "evaluate": seconds_in(folder.evaluation(object_id)),
    }
    report: dict[str, Any] = {}
    for generator in generators_of(config).values():
        seconds |= generator.seconds(folder, object_id)
        report |= generator.summary(folder, object_id)
    rounded = {stage: None if value is None else round(value, 3) for stage, value in seconds.items()}
    return {"seconds": rounded, **report}
