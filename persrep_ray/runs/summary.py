"""The result of a run as `summary.json` holds it, from what is in the run folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from persrep_ray.config import RunConfig
from persrep_ray.config.versions import versions
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.generators import generators_of
from persrep_ray.generate.schedule import chunks
from persrep_ray.generate.shards import ShardError, shard_report
from persrep_ray.registry.pointers import in_parallel
from persrep_ray.storage.store import StorageError
from persrep_ray.tasks.metrics import mean_sides


def summarize(
    folder: RunFolder, config: RunConfig, selected: Iterable[str], failed: Mapping[str, str]
) -> dict[str, Any]:
    """The status, version, error, metrics and `work_report` of each object; the mean metrics; config and versions.

    It reads one small file for each published object.
    """

    def entry(object_id: str) -> dict[str, Any]:
        error = failed.get(object_id)
        status = "failed" if error else "published"
        return {"status": status, "version": None, "error": error, "metrics": None, **result(object_id, error)}

    def result(object_id: str, error: str | None) -> dict[str, Any]:
        if error is None:
            return folder.read_json(folder.published(object_id))
        try:
            return work_report(folder, config, object_id)
        except (StorageError, ValueError):  # what failed is known; how long it took is not worth the run
            return {}

    selected = list(selected)
    objects = dict(zip(selected, in_parallel(entry, selected), strict=True))
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

    def report_in(key: str) -> dict[str, Any]:
        return folder.read_json(key) if folder.exists(key) else {}

    masks, train = report_in(folder.masks_report(object_id)), report_in(folder.train_report(object_id))
    evaluation = report_in(folder.evaluation(object_id))
    generating = None
    if "generate_seconds" in train and "generate_seconds" in evaluation:  # whoever read the shards has added them up
        generating = train["generate_seconds"] + evaluation["generate_seconds"]
    else:
        with suppress(ShardError):  # a shard is missing or damaged
            generating = sum(shard_report(folder, chunk)["seconds"] for chunk in chunks(object_id, config))
    seconds = {
        "mask": masks.get("seconds"),
        "generate": generating,
        "train": train.get("seconds"),
        "evaluate": evaluation.get("seconds"),
    }
    report: dict[str, Any] = {}
    for generator in generators_of(config).values():
        seconds |= generator.seconds(folder, object_id)
        report |= generator.summary(folder, object_id)
    rounded = {stage: None if value is None else round(value, 3) for stage, value in seconds.items()}
    return {"seconds": rounded, **report}
