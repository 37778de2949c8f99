"""What the actors of generation do: one chunk or one object per call, and errors become part of the row."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import ray

from persrep_ray.config import RunConfig
from persrep_ray.data.objects import Manifest
from persrep_ray.generate.chunks import ChunkGenerator
from persrep_ray.generate.prompts.book import PromptBook
from persrep_ray.generate.shards import write_shard
from persrep_ray.generate.types import GenerateRequest, GeneratorName
from persrep_ray.lazy import Lazy
from persrep_ray.outcome import describe
from persrep_ray.run_folder import RunFolder
from persrep_ray.streaming import Item

if TYPE_CHECKING:
    from persrep_ray.generate.dreambooth import DreamBooth, ObjectTuner

_POLL_S = 1.0


class ChunkWorker:
    """Cuts and pastes one chunk per call; errors become part of the row."""

    def __init__(self, *arguments: object) -> None:
        self._generator = ChunkGenerator(*arguments)  # type: ignore[arg-type]

    def __call__(self, item: Item) -> Item:
        request = GenerateRequest(**item)
        error = ""
        try:
            self._generator.write(request)
        except Exception as cause:  # one object's failure is never another's
            error = describe(cause)
        return _row(request.object_id, request.generator, images=request.count, error=error)


class TunerWorker:
    """Fine-tunes to one object per call and passes its chunks on; one that fails passes on its error alone."""

    def __init__(self, config: RunConfig, manifest: Manifest, folder: RunFolder, book: PromptBook) -> None:
        self._folder = folder
        self._warnings: list[str] = []
        self._tuner = Lazy(lambda: _make_tuner(config, manifest, folder, book, self._warnings))

    def __call__(self, item: Item) -> list[Item]:
        object_id = item["object_id"]
        while item["after"] and self._folder.generator(item["after"]).is_dir():
            time.sleep(_POLL_S)
        try:
            self._tuner.get()(object_id)
        except Exception as cause:
            return [
                {**_row(object_id, "dreambooth", error=describe(cause), warnings=drained(self._warnings)), "chunk": ""}
            ]
        first, *others = ({**_row(object_id, "dreambooth"), "chunk": chunk} for chunk in item["chunks"])
        return [{**first, "warnings": drained(self._warnings)}, *others]


class SamplerWorker:
    """Draws one chunk per call into its shard; what failed before passes through."""

    def __init__(self, config: RunConfig, manifest: Manifest, folder: RunFolder, book: PromptBook) -> None:
        self._folder = folder
        self._warnings: list[str] = []
        self._generator = Lazy(lambda: _make_dreambooth(config, manifest, folder, book, self._warnings))

    def __call__(self, item: Item) -> Item:
        chunk = item.pop("chunk")
        if item["error"]:
            return item
        request = GenerateRequest(**json.loads(chunk))
        warnings, error = list(item["warnings"]), ""
        try:
            started = time.monotonic()
            generator = self._generator.get()
            images = generator.generate(request)
            seconds = time.monotonic() - started
            report = {"seconds": seconds, "filter": generator.report.to_dict()}
            write_shard(self._folder.shard(request), images, report)
        except Exception as cause:
            error = describe(cause)
        return _row(
            request.object_id,
            request.generator,
            images=request.count,
            error=error,
            warnings=[*warnings, *drained(self._warnings)],
        )


def _make_tuner(
    config: RunConfig, manifest: Manifest, folder: RunFolder, book: PromptBook, warnings: list[str]
) -> ObjectTuner:
    from persrep_ray.generate.dreambooth import ObjectTuner  # the driver has no use for diffusers

    return ObjectTuner(config, manifest, folder, book, warnings.append, _device())


def _make_dreambooth(
    config: RunConfig, manifest: Manifest, folder: RunFolder, book: PromptBook, warnings: list[str]
) -> DreamBooth:
    from persrep_ray.generate.dreambooth import DreamBooth

    return DreamBooth(config, manifest, folder, book, warnings.append, _device())


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
