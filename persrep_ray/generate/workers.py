"""What the actors of generation do: one chunk or one object per call, and errors become part of the row."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import ray

from persrep_ray.config import RunConfig
from persrep_ray.data.objects import Manifest
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.distributed.outcome import describe
from persrep_ray.distributed.streaming import Item
from persrep_ray.generate.cut_paste.chunks import ChunkGenerator
from persrep_ray.generate.dreambooth.prompts.book import PromptSet
from persrep_ray.generate.shards import write_shard
from persrep_ray.generate.types import Chunk, GeneratorName

if TYPE_CHECKING:
    from persrep_ray.generate.dreambooth.generator import DreamBooth, ObjectFineTuner

_POLL_S = 1.0
_LONGEST_WAIT_S = 3600.0  # for an earlier object to be used up; more than the disk's room is not worth


class ChunkWorker:
    """Cuts and pastes one chunk per call; errors become part of the row."""

    def __init__(self, *arguments: object) -> None:
        self._generator = ChunkGenerator(*arguments)  # type: ignore[arg-type]

    def __call__(self, item: Item) -> Item:
        request = Chunk(**item)
        error = ""
        try:
            self._generator.write(request)
        except Exception as cause:  # one object's failure is never another's
            error = describe(cause)
        return _row(request.object_id, request.generator, images=request.count, error=error)


class _ModelWorker:
    """What workers with a text-to-image model have in common. The model is loaded with the first item."""

    def __init__(self, config: RunConfig, manifest: Manifest, folder: RunFolder, book: PromptSet) -> None:
        self._arguments = config, manifest, folder, book
        self._folder = folder
        self._warnings: list[str] = []
        self._device_lost = False


class FineTuneWorker(_ModelWorker):
    """Fine-tunes to one object per call and passes its chunks on; one that fails passes on its error alone."""

    @cached_property
    def _tuner(self) -> ObjectFineTuner:
        from persrep_ray.generate.dreambooth.generator import ObjectFineTuner  # the driver has no use for diffusers

        return ObjectFineTuner(*self._arguments, self._warnings.append, _device())

    def __call__(self, item: Item) -> list[Item]:
        _leave_if(self._device_lost)
        object_id = item["object_id"]
        give_up = time.monotonic() + _LONGEST_WAIT_S
        while item["after"] and self._folder.generator(item["after"]).is_dir() and time.monotonic() < give_up:
            time.sleep(_POLL_S)
        try:
            self._tuner(object_id)
        except Exception as cause:
            self._device_lost = _is_device_lost(cause)
            return [
                {**_row(object_id, "dreambooth", error=describe(cause), warnings=drained(self._warnings)), "chunk": ""}
            ]
        first, *others = ({**_row(object_id, "dreambooth"), "chunk": chunk} for chunk in item["chunks"])
        return [{**first, "warnings": drained(self._warnings)}, *others]


class SampleWorker(_ModelWorker):
    """Draws one chunk per call into its shard; what failed before passes through."""

    @cached_property
    def _generator(self) -> DreamBooth:
        from persrep_ray.generate.dreambooth.generator import DreamBooth

        return DreamBooth(*self._arguments, self._warnings.append, _device())

    def __call__(self, item: Item) -> Item:
        _leave_if(self._device_lost)
        chunk = item.pop("chunk")
        if item["error"]:
            return item
        request = Chunk(**json.loads(chunk))
        warnings, error = list(item["warnings"]), ""
        try:
            started = time.monotonic()
            images = self._generator.generate(request)
            seconds = time.monotonic() - started
            report = {"seconds": seconds, "filter": self._generator.report.to_dict()}
            write_shard(self._folder.shard(request), images, report)
        except Exception as cause:
            self._device_lost = _is_device_lost(cause)
            error = describe(cause)
        return _row(
            request.object_id,
            request.generator,
            images=request.count,
            error=error,
            warnings=[*warnings, *drained(self._warnings)],
        )


def _is_device_lost(error: BaseException) -> bool:
    """Whether CUDA says that this process can use its GPU no more (memory that ran out is another matter)."""
    return "CUDA error" in str(error) and "out of memory" not in str(error)


def _leave_if(device_lost: bool) -> None:
    """Ends the process, so that Ray gives the item to a fresh one: here it would fail, and so would all others."""
    if device_lost:
        os._exit(1)


def _device() -> str:
    return "cuda" if ray.is_initialized() and ray.get_gpu_ids() else "cpu"


def _row(
    object_id: str, generator: GeneratorName, *, images: int = 0, error: str = "", warnings: Sequence[str] = ()
) -> Item:
    return {
        "object_id": object_id,
        "generator": generator,
        "images": images,
        "error": error,
        "warnings": list(warnings),
    }


def drained(warnings: list[str]) -> list[str]:
    taken = list(warnings)
    warnings.clear()
    return taken
