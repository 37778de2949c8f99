"""The last stage of an object: evaluate its adapter, draw its contact sheet, publish it. No Ray in here."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from safetensors.numpy import save as save_safetensors

from persrep_ray.backbones.lora import ADAPTER_FILES, load_lora
from persrep_ray.config import RunConfig
from persrep_ray.config.versions import versions
from persrep_ray.data.images import read_mask, read_rgb
from persrep_ray.data.objects import Manifest
from persrep_ray.data.run_folder import RunFolder, read_json
from persrep_ray.evaluate.evaluator import Evaluation, Evaluator
from persrep_ray.generate.shards import ShardRows, read_shards
from persrep_ray.generate.types import Chunk, Role
from persrep_ray.registry.registry import Registry
from persrep_ray.report.contact_sheet import contact_sheet

_SHOWN = 16  # synthetic images of either role on a contact sheet


class Publisher:
    """Publishes trained objects of one run, one per call. Doing one twice changes nothing."""

    def __init__(self, config: RunConfig, manifest: Manifest, folder: RunFolder, registry: Registry) -> None:
        self._config = config
        self._manifest = manifest
        self._folder = folder
        self._registry = registry
        self._lora = load_lora(config)
        self._evaluator = Evaluator(self._lora, manifest, self._masks, config)

    def __call__(self, object_id: str) -> dict[str, Any]:
        """Publishes the object and returns what `published/<object>.json` then holds."""
        started = time.monotonic()
        trained = self._folder.trained(object_id)
        files = {name: (trained / name).read_bytes() for name in ADAPTER_FILES}
        state = self._lora.load_files(files)
        heldout = self._images(self._folder.calibration_by_role(object_id, self._config))
        evaluation = self._evaluator.evaluate(
            object_id,
            state,
            synthetic_positives=[one.image for one in heldout["positive"]],
            synthetic_others=[one.image for one in heldout["negative"]],
        )
        calibration = asdict(evaluation.calibration)
        files["prototypes.safetensors"] = save_safetensors(self._evaluator.prototypes(object_id, state))
        version = _content_version({**files, "calibration": json.dumps(calibration, sort_keys=True).encode()})
        metrics = {"pretrained": evaluation.pretrained, "personalized": evaluation.personalized}
        self._draw_sheet(object_id, evaluation)
        card = {
            "object_id": object_id,
            "category": self._manifest.objects[object_id].category,
            "version": version,
            "threshold": calibration.pop("threshold"),
            "calibration": calibration,
            "metrics": metrics,
            "by_split": evaluation.by_split,
            "training": read_json(trained / "train.json"),
            "photos": [photo.path.name for photo in self._manifest.objects[object_id].train],
            "config": self._config.to_dict(),
            "versions": versions(),
        }
        self._registry.publish(object_id, version, {**files, "card.json": json.dumps(card, indent=2).encode()})
        result = {"version": version, "seconds": time.monotonic() - started, "metrics": metrics}
        self._folder.write_json(self._folder.published(object_id), result)
        return result

    def _masks(self, object_id: str) -> list[np.ndarray | None]:
        photos = self._folder.masked_photos(self._manifest.objects[object_id])
        return [None if photo.mask is None else read_mask(photo.mask, self._config.data) for photo in photos]

    def _images(self, chunks_by_role: Mapping[Role, Sequence[Chunk]]) -> dict[Role, ShardRows]:
        return {
            role: read_shards([self._folder.shard(chunk) for chunk in chunks], self._config.data)
            for role, chunks in chunks_by_role.items()
        }

    def _draw_sheet(self, object_id: str, evaluation: Evaluation) -> None:
        limits = self._config.data
        photos = self._folder.masked_photos(self._manifest.objects[object_id])
        shown = {}
        for role, images in self._images(self._folder.chunks_by_role(object_id, self._config)).items():
            every = max(1, len(images) // _SHOWN)
            shown[role] = [images[index].image for index in range(0, len(images), every)][:_SHOWN]
        contact_sheet(
            object_id,
            train=[(read_rgb(one.path, limits), read_mask(one.mask, limits)) for one in photos if one.mask],
            positives=shown["positive"],
            negatives=shown["negative"],
            tests=evaluation.tests,
            title_metrics=_headline(evaluation),
            out=self._folder.sheet(object_id),
        )


def _content_version(files: dict[str, bytes]) -> str:
    """A version is named by what it does: the adapter, the prototypes, the threshold and calibration."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(files[name])
    return digest.hexdigest()[:12]


def _headline(evaluation: Evaluation) -> str:
    named = {
        "classification.pr_auc": "PR-AUC",
        "retrieval.ndcg": "nDCG",
        "detection.map50": "detection mAP50",
        "segmentation.map50": "segmentation mAP50",
    }
    return "   ".join(
        f"{name} {evaluation.pretrained[key]:.2f} → {evaluation.personalized[key]:.2f}"
        for key, name in named.items()
        if key in evaluation.pretrained and key in evaluation.personalized
    )
