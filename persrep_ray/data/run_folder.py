"""Every path of a run in one place. What is at its final name is complete: a killed run is resumed from what exists.

run.json                                    the configuration and digests of the inputs
masks/<object>/00.png … masks.json          foreground masks of the train photos, in their order
class_images/<class prompt>/00000.png …     what DreamBooth keeps a category with, shared by its objects
generators/<object>/                        the object's weights for the text-to-image model
tuned/<object>.json                         how they were made
prompts.json                                what a language model wrote, by category
synthetic/<object>/<role>-<start>.parquet   one shard per chunk
filtered/<object>.json                      what the filter of sampled images let pass, per prompt
trained/<object>/                           PEFT adapter and train.json
published/<object>.json                     what was published
<object>.jpg                                its contact sheet
summary.json                                the run's result
scratch/                                    what is being written now; emptied when a run starts
ray/                                        Ray Train's storage; of no use after the run
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from persrep_ray.config import ConfigError, RunConfig
from persrep_ray.data.files import sync
from persrep_ray.data.images import encode_png_mask
from persrep_ray.data.objects import ObjectPhotos, Photo
from persrep_ray.generate.types import Chunk, GeneratorName, Role

# Where and how parallel a run is does not decide its result: a resumed run may have more machines.
_PLACEMENT = (
    *("actors", "cells", "max_attempts", "llm_timeout_s", "llm_attempts"),
    *("cpus_per_actor", "gpus_per_actor", "cpus_per_worker", "gpus_per_worker"),
)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run; `root` is created by `open`."""

    root: Path

    # -- masks -------------------------------------------------------------------------------------------------------

    def masks(self, object_id: str) -> Path:
        return self.root / "masks" / object_id

    def write_masks(self, object_id: str, masks: list[Any], report: Mapping[str, Any]) -> None:
        """`masks[i]` (H, W) bool belongs to the object's train photo i, None where it has none; `report` is JSON."""
        files = {f"{i:02d}.png": encode_png_mask(mask) for i, mask in enumerate(masks) if mask is not None}
        self._write_folder(self.masks(object_id), {**files, "masks.json": _json(report)})

    def masked_photos(self, photos: ObjectPhotos) -> tuple[Photo, ...]:
        """The object's train photos, each with the mask that this run uses, None where it has none."""
        paths = [self.masks(photos.object_id) / f"{index:02d}.png" for index in range(len(photos.train))]
        return tuple(
            replace(photo, mask=path if path.exists() else None)
            for photo, path in zip(photos.train, paths, strict=True)
        )

    # -- generators --------------------------------------------------------------------------------------------------

    def class_images(self, prompt: str) -> Path:
        """A folder for any text: readable, safe as a path, and another for each prompt."""
        readable = re.sub("[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40]
        return self.root / "class_images" / f"{readable}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"

    def generator(self, object_id: str) -> Path:
        return self.root / "generators" / object_id

    def tuned(self, object_id: str) -> Path:
        """How the object's weights were made; it outlives them."""
        return self.root / "tuned" / f"{object_id}.json"

    def filtered(self, object_id: str) -> Path:
        """What the filter let pass, per prompt."""
        return self.root / "filtered" / f"{object_id}.json"

    def drop_generator(self, object_id: str) -> None:
        """It is gone at once, and then deleted."""
        dropped = self._scratch()
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.generator(object_id), dropped)  # onto an empty folder
        shutil.rmtree(dropped, ignore_errors=True)

    @property
    def prompts(self) -> Path:
        return self.root / "prompts.json"

    # -- synthetic images --------------------------------------------------------------------------------------------

    def shard(self, request: Chunk) -> Path:
        return self.root / "synthetic" / request.object_id / f"{request.role}-{request.start:05d}.parquet"

    def chunks_by_role(self, object_id: str, config: RunConfig) -> dict[Role, list[Chunk]]:
        """What an object is trained on, in the order of the images."""
        return {role: _cut(object_id, role, 0, count, config) for role, count in _trained_counts(config).items()}

    def calibration_by_role(self, object_id: str, config: RunConfig) -> dict[Role, list[Chunk]]:
        """The images after those, in chunks of their own: training never sees them, calibration does."""
        heldout = config.generate.calibration_images
        return {role: _cut(object_id, role, start, heldout, config) for role, start in _trained_counts(config).items()}

    def chunks(self, object_id: str, config: RunConfig) -> list[Chunk]:
        """All of an object's chunks, those it is trained on first."""
        parts = self.chunks_by_role(object_id, config), self.calibration_by_role(object_id, config)
        return [chunk for part in parts for chunks in part.values() for chunk in chunks]

    # -- adapters ----------------------------------------------------------------------------------------------------

    def trained(self, object_id: str) -> Path:
        return self.root / "trained" / object_id

    def write_trained(self, object_id: str, files: Mapping[str, bytes], report: Mapping[str, Any]) -> None:
        self._write_folder(self.trained(object_id), {**files, "train.json": _json(report)})

    def published(self, object_id: str) -> Path:
        return self.root / "published" / f"{object_id}.json"

    def sheet(self, object_id: str) -> Path:
        return self.root / f"{object_id}.jpg"

    # -- writing -----------------------------------------------------------------------------------------------------

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    @property
    def ray_storage(self) -> Path:
        return self.root / "ray"

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Writes `value` to `path` inside the run folder, whole or not at all."""
        self.write_file(path, _json(value))

    def write_file(self, path: Path, content: bytes) -> None:
        """Writes `content` to `path` inside the run folder, whole or not at all."""
        temporary = self._scratch() / path.name
        _write(temporary, content)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, path)
        sync(path.parent)
        temporary.parent.rmdir()

    def _write_folder(self, target: Path, files: Mapping[str, bytes]) -> None:
        """`target` appears with all `files` at once; one that exists already is kept."""
        with self.whole_folder(target) as temporary:
            for name, content in files.items():
                _write(temporary / name, content)

    @contextmanager
    def whole_folder(self, target: Path) -> Iterator[Path]:
        """Gives a folder to write into; it appears as `target` at the end. A `target` that exists already is kept."""
        temporary = self._scratch()
        try:
            yield temporary
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for path in (*temporary.rglob("*"), temporary):
            sync(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(temporary, target)  # refuses to replace a folder that is not empty
        except OSError:
            if not target.is_dir():
                raise
            shutil.rmtree(temporary, ignore_errors=True)  # a twin was faster: its files are as good
        sync(target.parent)

    def _scratch(self) -> Path:
        folder = self.root / "scratch" / uuid.uuid4().hex
        folder.mkdir(parents=True)
        return folder


def _trained_counts(config: RunConfig) -> dict[Role, int]:
    return {"positive": config.generate.positives, "negative": config.generate.negatives}


def _cut(object_id: str, role: Role, start: int, count: int, config: RunConfig) -> list[Chunk]:
    """Images `start … start + count - 1` as chunks, each of one generator: what is cut and pasted comes first."""
    generate = config.generate
    share = {"cut_paste": 0.0, "dreambooth": 1.0, "combined": generate.dreambooth_share}[generate.generator]
    middle, stop = start + count - round(count * share), start + count
    parts: tuple[tuple[GeneratorName, int, int], ...] = (("cut_paste", start, middle), ("dreambooth", middle, stop))
    return [
        Chunk(object_id, role, first, min(generate.chunk_size, end - first), config.seed, name)
        for name, begin, end in parts
        for first in range(begin, end, generate.chunk_size)
    ]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of the run. Raises ValueError naming the file."""
    try:
        value: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}; delete it and run again") from error
    return value


@contextmanager
def open_run(root: Path, config: RunConfig, inputs: Mapping[str, str]) -> Iterator[RunFolder]:
    """The run in the folder `root`, new or resumed, held for this process alone.

    `inputs` maps what the run reads (object ids, folders) to digests. What a killed run was writing is removed.

    Raises:
        ConfigError: the folder is in use, or holds a run with other settings or other inputs.
    """
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back by the kernel, also when we are killed
        except OSError:
            raise ConfigError(f"{root} is in use by another run; choose another --out") from None
        folder = RunFolder(root)
        _check_same_run(folder, config, inputs)
        for stale in (root / "scratch", folder.ray_storage):
            shutil.rmtree(stale, ignore_errors=True)
        for pattern in ("synthetic/*/.*", ".*.jpg.*"):
            for leftover in root.glob(pattern):
                leftover.unlink(missing_ok=True)
        try:
            yield folder
        finally:
            for stale in (root / "scratch", folder.ray_storage):
                shutil.rmtree(stale, ignore_errors=True)


def _check_same_run(folder: RunFolder, config: RunConfig, inputs: Mapping[str, str]) -> None:
    file = folder.root / "run.json"
    mine = {"config": config.model_dump(mode="json"), "inputs": dict(inputs)}
    if not file.exists():
        folder.write_json(file, mine)
        return
    before = read_json(file)
    old, new = _settings(before.get("config", {})), _settings(mine["config"])
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            raise ConfigError(
                f"{folder.root} holds a run with other settings ({key} {old.get(key)}, now {new.get(key)}); "
                "choose another --out or delete it"
            )
    old, new = before.get("inputs", {}), mine["inputs"]
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            change = "is new" if name not in old else "is gone" if name not in new else "has changed"
            raise ConfigError(
                f"{folder.root} holds a run with other inputs ({name} {change}); choose another --out or delete it"
            )


def _settings(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"train": {"steps": 1}}` as `{"train.steps": 1}`, without what only says where the run takes place."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat.update(_settings(value, f"{prefix}{name}."))
        elif name not in _PLACEMENT:
            flat[f"{prefix}{name}"] = value
    return flat


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
