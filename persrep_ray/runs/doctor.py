"""`persrep doctor`: what this machine and a folder of photos will do, in seconds and without starting Ray."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

from persrep_ray.backbones.checkpoint import check_hub
from persrep_ray.config import RunConfig
from persrep_ray.config.versions import versions
from persrep_ray.data.objects import Manifest, load_manifest
from persrep_ray.distributed import machine
from persrep_ray.runs.inputs import duplicates_report
from persrep_ray.storage.cache import cache_folder

_CORE_SECONDS = 150  # of an object: embedded backbone, default settings (README)
_LEAST_FREE = machine.GIB  # in the cache
_SHOWN = 20  # problems


class Finding(NamedTuple):
    """One line about `topic`; not `fine` if a run would fail."""

    topic: str
    text: str
    fine: bool = True


def examine(config: RunConfig, objects: str | None) -> Iterator[Finding]:
    """The findings as they are made. `objects` is a folder or S3 prefix of photos."""
    cores, memory, cpus = machine.cores(), machine.memory(), machine.usable_cpus()
    planned = "" if cpus == cores else f"; a run plans with {cpus}, 2 GiB for each"
    yield Finding("machine", f"{cores} cores, {memory / machine.GIB:.0f} GiB of memory{planned}")
    yield _devices(config)
    yield Finding("packages", ", ".join(f"{name} {version}" for name, version in versions().items()))
    yield _cache()
    yield _checkpoint(config)
    if objects is None:
        return
    try:
        manifest = load_manifest(objects, config.data)
    except (ValueError, OSError) as error:
        yield Finding("photos", str(error), False)
        return
    yield from _photos(manifest)
    usable = sum(bool(photos.train) for photos in manifest.objects.values())
    if config.backbone.name == "embedded" and usable:
        minutes = usable * _CORE_SECONDS / cpus / 60
        yield Finding("cost", f"about {max(1, round(minutes))} minutes of training for {usable} objects on {cpus} CPUs")


def _devices(config: RunConfig) -> Finding:
    import torch

    from persrep_ray.backbones.backbone import computes_bfloat16

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    device = machine.device(config.train.gpus_per_worker if gpus else 0)
    precision = config.backbone.precision if computes_bfloat16(torch.device(device)) else "float32"
    idle = "; train.gpus_per_worker=1 lets the GPUs train" if gpus and device == "cpu" else ""
    return Finding("devices", f"{', '.join(gpus) or 'no CUDA GPU'}; adapters train on {device} in {precision}{idle}")


def _cache() -> Finding:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("cache", f"{folder} cannot be written: {error.strerror}; set PERSREP_CACHE", False)
    return Finding("cache", f"{folder}, {free / machine.GIB:.1f} GiB free", free >= _LEAST_FREE)


def _checkpoint(config: RunConfig) -> Finding:
    name = config.backbone.name
    try:
        check_hub(name, config.backbone.revision)
    except FileNotFoundError as error:
        return Finding("backbone", f"{name}: {error}", False)
    token = ", with HF_TOKEN" if os.environ.get("HF_TOKEN") else ""
    return Finding("backbone", f"{name}: nothing to download" if name == "embedded" else f"{name}: available{token}")


def _photos(manifest: Manifest) -> Iterator[Finding]:
    objects = manifest.objects.values()
    train = [photo for photos in objects for photo in photos.train]
    test = sum(len(photos.test) for photos in objects)
    masks = sum(photo.mask is not None for photo in train)
    yield Finding(
        "photos", f"{len(train)} to train on ({masks} with masks) and {test} to test, of {len(objects)} objects"
    )
    for problem in manifest.problems[:_SHOWN]:
        yield Finding("skipped", f"{problem.path}: {problem.cause}")
    if len(manifest.problems) > _SHOWN:
        yield Finding("skipped", f"{len(manifest.problems) - _SHOWN} more")
    for warning in duplicates_report(manifest).warnings:
        yield Finding("copies", warning)
    empty = [photos.object_id for photos in objects if not photos.train]
    if empty:
        yield Finding("photos", f"without a usable train photo: {', '.join(empty[:_SHOWN])}", False)
