"""The last stage of an object: evaluate its adapter, publish it, draw its contact sheet. No Ray in here."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from safetensors.numpy import save

from persrep_ray.backbones.lora import ADAPTER_FILES, load_lora
from persrep_ray.config import RunConfig
from persrep_ray.config.versions import versions
from persrep_ray.data.images import bounded_mask, read_mask
from persrep_ray.data.objects import Manifest
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.distributed.outcome import describe
from persrep_ray.evaluate.evaluator import Evaluator
from persrep_ray.evaluate.examples import pack
from persrep_ray.evaluate.finders import LabelledImage
from persrep_ray.generate.schedule import calibration_chunks
from persrep_ray.generate.shards import read_shards
from persrep_ray.registry.registry import Registry
from persrep_ray.report.object_sheet import object_sheet
from persrep_ray.runs.summary import work_report

_PROTOTYPES = "prototypes.safetensors"


class Publisher:
    """Publishes trained objects of one run, one per call. To publish an object again changes nothing."""

    def __init__(self, config: RunConfig, manifest: Manifest, folder: RunFolder, registry: Registry) -> None:
        self._config = config
        self._manifest = manifest
        self._folder = folder
        self._registry = registry
        self._lora = load_lora(config)
        self._evaluator = Evaluator(self._lora, manifest, self._masks, config)

    def __call__(self, object_id: str) -> dict[str, Any]:
        """Does what earlier runs have left to do. Returns `warnings`: a sheet that cannot be drawn is no failure."""
        adapter = {name: self._folder.read_trained(object_id, name) for name in ADAPTER_FILES}
        if not self._folder.exists(self._folder.evaluation(object_id)):
            self._evaluate(object_id, adapter)
        published = self._publish(object_id, adapter)
        warnings = []
        try:
            sheet = object_sheet(self._folder, self._config, self._manifest.objects[object_id])
            self._folder.store.write(self._folder.sheet(object_id), sheet)
        except Exception as error:
            warnings.append(f"object {object_id}: no contact sheet: {describe(error)}")
        # This comes last: an object whose result is there is never looked at again.
        self._folder.write_json(self._folder.published(object_id), published)
        return {"warnings": warnings}

    def _evaluate(self, object_id: str, adapter: Mapping[str, bytes]) -> None:
        """Measures the adapter and stores everything that publishing and reports need."""
        started = time.monotonic()
        state = self._lora.load_files(adapter)
        shards = {
            role: read_shards(self._folder, chunks, self._config.data)
            for role, chunks in calibration_chunks(object_id, self._config).items()
        }
        images = {role: [LabelledImage(row.image, row.mask) for row in rows] for role, rows in shards.items()}
        evaluation = self._evaluator.evaluate(
            object_id, state, synthetic_positives=images["positive"], synthetic_others=images["negative"]
        )
        prototypes = self._evaluator.prototypes(object_id, state, evaluation.model)
        examples, arrays = pack(evaluation.examples)
        report = {
            "metrics": {"pretrained": evaluation.pretrained, "personalized": evaluation.personalized},
            "by_split": evaluation.by_split,
            "calibration": asdict(evaluation.calibration),
            "examples": examples,
            "seconds": time.monotonic() - started,
            "generate_seconds": sum(report["seconds"] for rows in shards.values() for report in rows.reports),
        }
        self._folder.write_evaluated(object_id, {_PROTOTYPES: save(prototypes), "examples.safetensors": arrays}, report)

    def _publish(self, object_id: str, adapter: Mapping[str, bytes]) -> dict[str, Any]:
        """Publishes the adapter and returns what the run records about it."""
        evaluation = self._folder.read_json(self._folder.evaluation(object_id))
        calibration = evaluation["calibration"]
        files = {**adapter, _PROTOTYPES: self._folder.read_evaluated(object_id, _PROTOTYPES)}
        version = _content_version({**files, "calibration": json.dumps(calibration, sort_keys=True).encode()})
        card = {
            "object_id": object_id,
            "category": self._manifest.objects[object_id].category,
            "version": version,
            "threshold": calibration.pop("threshold"),
            "calibration": calibration,
            "metrics": evaluation["metrics"],
            "by_split": evaluation["by_split"],
            "training": self._folder.read_json(self._folder.train_report(object_id)),
            "photos": [photo.path.name for photo in self._manifest.objects[object_id].train],
            "config": self._config.to_dict(),
            "versions": versions(),
        }
        self._registry.publish(object_id, version, {**files, "card.json": json.dumps(card, indent=2).encode()})
        return {
            "version": version,
            "metrics": evaluation["metrics"],
            **work_report(self._folder, self._config, object_id),
        }

    def _masks(self, object_id: str) -> list[np.ndarray | None]:
        photos = self._folder.masked_photos(self._manifest.objects[object_id])
        limits = self._config.data
        return [None if photo.mask is None else bounded_mask(read_mask(photo.mask, limits)) for photo in photos]


def _content_version(files: Mapping[str, bytes]) -> str:
    """The name of a version comes from what it does: the adapter, the prototypes and the calibration."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(files[name])
    return digest.hexdigest()[:12]
