"""Serving without a multi-adapter encoder: `peft`'s `set_adapter` before each request, for comparison.

It has the same ingress, backbone, precision and threads, and all adapters are in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from safetensors.numpy import load

from persrep_ray.backbones.backbone import load_backbone
from persrep_ray.config import ServeConfig
from persrep_ray.data.images import standard_view
from persrep_ray.registry.registry import Registry
from persrep_ray.serving.engine.answers import AdapterRef, Classification
from persrep_ray.serving.engine.profile import Profile
from persrep_ray.storage.store import open_store
from persrep_ray.tasks.features import normalize


class PeftEncoder:
    """Answers `classify`, one image at a time."""

    def __init__(self, config: ServeConfig, profile: Profile) -> None:
        torch.set_num_threads(config.encoder.threads or max(1, int(config.encoder.cpus_per_replica)))
        registry = Registry(open_store(config.registry))
        self._backbone = load_backbone(profile.backbone).to("cpu")
        first, *others = registry.objects()
        self._peft = PeftModel.from_pretrained(self._backbone.model, registry.local_copy(first), adapter_name=first)
        for object_id in others:
            self._peft.load_adapter(registry.local_copy(object_id), adapter_name=object_id)
        self._peft.eval()
        self._prototypes = {
            object_id: normalize(load(registry.read(object_id, None, "prototypes.safetensors"))["cls"])
            for object_id in (first, *others)
        }
        self._thresholds = {object_id: registry.card(object_id)["threshold"] for object_id in (first, *others)}
        self._side = profile.backbone.image_size
        self._thread = ThreadPoolExecutor(1)

    async def ask(
        self, method: str, arguments: tuple[Any, ...], options: Mapping[str, Any], held: AdapterRef | None = None
    ) -> Any:
        if method == "ping":
            return None
        assert method == "classify"
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._classify, *arguments)

    @torch.inference_mode()
    def _classify(self, ref: AdapterRef, image: np.ndarray) -> Classification:
        self._peft.set_adapter(ref.object_id)
        pixels = self._backbone.pixels([standard_view(image, self._side)], self._side)
        cls = self._backbone.suffix(self._backbone.prefix(pixels)).cls[0].numpy()
        score = float((self._prototypes[ref.object_id] @ normalize(cls)).max())
        return Classification(score, 0.5, self._thresholds[ref.object_id])
