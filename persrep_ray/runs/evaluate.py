"""`persrep evaluate`: the four tasks with the live adapters of a registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ray
from safetensors.numpy import load

from persrep_ray.config import ConfigError, RunConfig, Section, recorded_config
from persrep_ray.config.versions import versions
from persrep_ray.data.images import bounded_mask, decode_mask
from persrep_ray.data.objects import Manifest, load_manifest
from persrep_ray.distributed.connect import connected
from persrep_ray.distributed.pool import ObjectPool
from persrep_ray.distributed.resources import evaluate_actors
from persrep_ray.distributed.streaming import Pool
from persrep_ray.masks.photos import PhotoMasker
from persrep_ray.registry.registry import Registry
from persrep_ray.runs.inputs import check_checkpoints, select_objects
from persrep_ray.runs.progress import StageProgress, StatusLine
from persrep_ray.tasks.metrics import mean_sides
from persrep_ray.tasks.model import ObjectModel


def evaluate_registry(
    objects: str,
    registry: Registry,
    config: RunConfig | None,
    status: StatusLine,
    *,
    only: Sequence[str] = (),
    verbose: bool = False,
) -> dict[str, Any]:
    """Evaluates the live adapter of every object that is both in `objects`, a folder or S3 prefix, and in the registry.

    Without `config` the cards of the adapters say how to evaluate, and they must agree.

    Returns:
        `{"objects": {id: {"version", "error", "metrics"}}, "mean", "config", "versions"}`.

    Raises:
        ConfigError: no object is in both, or the cards disagree.
        ValueError: the photos cannot be used.
        StorageError: a bucket cannot be read.
    """
    published = [object_id for object_id in registry.objects() if not only or object_id in only]
    config = config or _config_of(registry, published)
    manifest = load_manifest(objects, config.data)
    status.warn([f"{problem.path}: {problem.cause}" for problem in manifest.problems])
    chosen = sorted(set(select_objects(manifest, only)).intersection(published))
    if not chosen:
        raise ConfigError(f"no object of {objects} is published in {registry.store.uri}")
    check_checkpoints(config, generates=False)
    stage = StageProgress("evaluate", total=len(chosen))
    results: dict[str, Any] = {}
    with connected(verbose=verbose):
        pool = ObjectPool(
            Pool(
                RegisteredEvaluator,
                [ray.put(value) for value in (config, manifest, registry)],
                actors=evaluate_actors(config, cpus=ray.cluster_resources().get("CPU", 0), objects=len(chosen)),
                cpus=config.evaluate.cpus_per_actor,
            )
        )
        for object_id in chosen:
            pool.submit(object_id)
        while len(results) < len(chosen):
            for outcome in pool.poll(timeout=0.2):
                error = outcome.error and f"object {outcome.object_id}: evaluate: {_bare(outcome.error)}"
                results[outcome.object_id] = {"version": None, "metrics": None, **outcome.report, "error": error}
                stage.count_object()
            status.show([stage])
    status.show([stage], final=True)
    return {
        "objects": {object_id: results[object_id] for object_id in chosen},
        "mean": mean_sides(result["metrics"] for result in results.values() if result["metrics"]),
        "config": config.to_dict(),
        "versions": versions(),
    }


class RegisteredEvaluator:
    """Evaluates one published object per call. It makes masks for train photos that have none."""

    def __init__(self, config: RunConfig, manifest: Manifest, registry: Registry) -> None:
        # The driver, which imports this module, needs neither torch nor transformers.
        from persrep_ray.backbones.lora import ADAPTER_FILES, load_lora
        from persrep_ray.evaluate.evaluator import Evaluator

        self._config = config
        self._manifest = manifest
        self._registry = registry
        self._masker = PhotoMasker(config)
        self._adapter_files = ADAPTER_FILES
        self._lora = load_lora(config)
        self._evaluator = Evaluator(self._lora, manifest, self._masks, config)

    def __call__(self, object_id: str) -> Mapping[str, Any]:
        version = self._registry.current(object_id)
        state = self._lora.load_files(self._registry.files(object_id, version, self._adapter_files))
        name = "prototypes.safetensors"
        arrays = load(self._registry.files(object_id, version, [name])[name])
        published = ObjectModel.from_arrays(arrays, arrays["cls"].shape[-1])
        if published is None or (published.finder is None and "target" in arrays):
            raise ValueError(f"version {version} was published by an older persrep: publish the object again")
        evaluation = self._evaluator.evaluate(object_id, state, published=published)
        metrics = {"pretrained": evaluation.pretrained, "personalized": evaluation.personalized}
        return {"version": version, "metrics": metrics}

    def _masks(self, object_id: str) -> list[np.ndarray | None]:
        pngs = self._masker(self._manifest.objects[object_id].train).masks
        return [None if png is None else bounded_mask(decode_mask(png, self._config.data, "mask")) for png in pngs]


def _config_of(registry: Registry, published: Sequence[str]) -> RunConfig:
    """The configuration in the cards, which must agree on what makes figures comparable."""
    if not published:
        raise ConfigError(f"{registry.store.uri} holds no published object")
    configs = (
        recorded_config(registry.card(object_id)["config"], where=f"the card of {object_id}: ")
        for object_id in published
    )
    first = next(configs)
    wanted = _decisive(first)
    for object_id, config in zip(published[1:], configs, strict=True):
        for section, settings in _decisive(config).items():
            if settings != wanted[section]:
                raise ConfigError(
                    f"objects {published[0]} and {object_id} were made with different {section} settings; "
                    "choose objects with --only, or settings with --config"
                )
    return first


def _decisive(config: RunConfig) -> dict[str, Section | None]:
    """The settings that must be equal for figures to be comparable."""
    sam = config.masks.sam if config.evaluate.mode == "persam" else None
    return {"backbone": config.backbone, "evaluate": config.evaluate, "masks.sam": sam}


def _bare(error: str) -> str:
    """The cause alone: errors of the evaluator already name object and stage."""
    return error.split(": evaluate: ", 1)[-1]
