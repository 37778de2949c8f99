"""What the actors of DreamBooth do: fine-tune to one object, or sample one chunk, per call."""

from __future__ import annotations

import json
import os
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

import ray

from persrep_ray.config import RunConfig
from persrep_ray.data.objects import Manifest
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.distributed.machine import device
from persrep_ray.distributed.outcome import describe
from persrep_ray.generate.dreambooth.prompts.prompt_set import PromptSet
from persrep_ray.generate.dreambooth.run import DreamBoothRun
from persrep_ray.generate.types import Chunk, SyntheticImage
from persrep_ray.generate.workers import ChunkWorker, drained, result_row

if TYPE_CHECKING:
    from persrep_ray.distributed.streaming import Item
    from persrep_ray.generate.dreambooth.object_fine_tuner import ObjectFineTuner
    from persrep_ray.generate.dreambooth.object_sampler import ObjectSampler

_POLL_S = 1.0
_LONGEST_WAIT_S = 3600.0  # for an earlier object to be finished; saving disk space is not worth more


class FineTuneWorker:
    """Fine-tunes to one object per call and passes its chunks on. If that fails, it passes only the error on.

    The model is loaded with the first object.
    """

    def __init__(self, config: RunConfig, manifest: Manifest, folder: RunFolder, prompts: PromptSet) -> None:
        self._folder = folder
        self._warnings: list[str] = []
        self._run = DreamBoothRun(config, manifest, folder, prompts, self._warnings.append, _device())
        self._device_lost = False

    @cached_property
    def _fine_tuner(self) -> ObjectFineTuner:
        from persrep_ray.generate.dreambooth.object_fine_tuner import ObjectFineTuner  # the driver needs no diffusers

        return ObjectFineTuner(self._run)

    def __call__(self, item: Item) -> list[Item]:
        _leave_if(self._device_lost)
        object_id = item["object_id"]
        give_up = time.monotonic() + _LONGEST_WAIT_S
        while item["after"] and self._folder.has_weights(item["after"]) and time.monotonic() < give_up:
            time.sleep(_POLL_S)
        try:
            self._fine_tuner(object_id)
        except Exception as cause:  # the failure of one object must not end the others
            self._device_lost = _is_device_lost(cause)
            row = result_row(object_id, "dreambooth", error=describe(cause), warnings=drained(self._warnings))
            return [{**row, "chunk": ""}]
        rows = [{**result_row(object_id, "dreambooth"), "chunk": chunk} for chunk in item["chunks"]]
        rows[0]["warnings"] = drained(self._warnings)
        return rows


class SampleWorker(ChunkWorker):
    """Samples one chunk per call; the row of a failed fine-tuning passes through. The model is loaded when needed."""

    def __init__(self, config: RunConfig, manifest: Manifest, folder: RunFolder, prompts: PromptSet) -> None:
        super().__init__(folder)
        self._run = DreamBoothRun(config, manifest, folder, prompts, self._warnings.append, _device())
        self._device_lost = False

    @cached_property
    def _sampler(self) -> ObjectSampler:
        from persrep_ray.generate.dreambooth.object_sampler import ObjectSampler

        return ObjectSampler(self._run)

    def __call__(self, item: Item) -> Item:
        _leave_if(self._device_lost)
        chunk = item.pop("chunk")
        if item["error"]:
            return item
        row = super().__call__(json.loads(chunk))
        return {**row, "warnings": [*item["warnings"], *row["warnings"]]}

    def make(self, chunk: Chunk) -> tuple[list[SyntheticImage], dict[str, Any]]:
        try:
            images, report = self._sampler.sample(chunk)
        except Exception as cause:
            self._device_lost = _is_device_lost(cause)
            raise
        return images, {"filter": report.to_dict()}


def _is_device_lost(error: BaseException) -> bool:
    """Whether CUDA says that this process cannot use its GPU any more. Memory that ran out is another matter."""
    return "CUDA error" in str(error) and "out of memory" not in str(error)


def _leave_if(device_lost: bool) -> None:
    """Ends the process, so that Ray gives the item to a new one; in this one every item would fail."""
    if device_lost:
        os._exit(1)


def _device() -> str:
    return device(gpus=len(ray.get_gpu_ids()) if ray.is_initialized() else 0)
