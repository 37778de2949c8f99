"""Registries for tests of serving: objects that are coloured discs, adapters of random weights, and true prototypes."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers.tiny import shape
from helpers.vits import KINDS
from safetensors.numpy import save

from persrep_ray.backbones.backbone import Backbone
from persrep_ray.backbones.lora import LoraBackbone, State, load_lora
from persrep_ray.config import BackboneConfig, EvaluateConfig, LoraSection, RunConfig, TrainConfig
from persrep_ray.data.images import standard_view
from persrep_ray.registry.registry import Registry
from persrep_ray.serving.engine.answers import AdapterRef
from persrep_ray.storage.store import open_store
from persrep_ray.tasks.calibration import Calibration
from persrep_ray.tasks.dense import make_reference
from persrep_ray.tasks.find import Sample, fit_finder
from persrep_ray.tasks.model import ObjectModel
from persrep_ray.tasks.patches import PatchModel
from persrep_ray.tasks.recognize import Recognizer

SIZE, DENSE = 56, 112  # sides of the two views, pixels
PHOTOS = 3  # of an object
NEIGHBOURS = range(20, 28)


def tiny_checkpoint(folder: Path, *, rank: int = 4, precision: str = "float32", kind: str = "dinov2") -> RunConfig:
    """Saves a tiny ViT in `folder`, whose features tell colours apart; returns the settings of runs that use it."""
    torch.manual_seed(0)
    model = KINDS[kind].make()
    with torch.no_grad():  # the initial weights hardly tell two photos apart
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    model.save_pretrained(folder)
    return RunConfig(
        backbone=BackboneConfig(name=str(folder), adapted_blocks=2, image_size=SIZE, precision=precision),  # type: ignore[arg-type]
        train=TrainConfig(lora=LoraSection(r=rank, alpha=2.0 * rank)),
        evaluate=EvaluateConfig(dense_size=DENSE),
    )


def photo(number: int, index: int, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Photo `index` of object `number` (H, W, 3) uint8 and its mask; from index `PHOTOS` on, no prototype knows it."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.381966 % 1, 1.0, 1.0 if number % 2 else 0.6)
    return shape((round(255 * red), round(255 * green), round(255 * blue)), seed=1000 * number + index, size=size)


def adapter_state(lora: LoraBackbone, seed: int, size: float = 0.1) -> State:
    """Random A and B, neither of them zero."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) * size for name, value in lora.state().items()}


def publish_object(
    registry: str | Path,
    object_id: str,
    config: RunConfig,
    number: int,
    *,
    version: str = "v1",
    change: Callable[[dict[str, bytes]], None] | None = None,
    **options: Any,
) -> AdapterRef:
    """Publishes an object that looks like `photo(number, …)`.

    Args:
        config: of `tiny_checkpoint`.
        change: gets the files, by name, before they are published.
        options: of `object_files`.
    """
    files = object_files(object_id, config, number, **options)
    if change is not None:
        change(files)
    Registry(open_store(registry)).publish(object_id, version, files)
    return AdapterRef(object_id, version)


def make_model(backbone: Backbone, config: RunConfig, number: int, *, finder: bool) -> ObjectModel:
    """What a version knows under the adapter that `backbone` holds, from the object's photos and those of neighbours.

    The witnesses of its recognizer rely on the likeness of CLS alone, which is what a tiny ViT tells colours apart by.
    """
    side, dense = config.backbone.image_size, config.evaluate.dense_size

    def features(images: Sequence[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
        grid = size // backbone.patch_size
        with torch.no_grad(), backbone.full_precision():
            made = backbone.suffix(backbone.prefix(backbone.pixels([standard_view(one, size) for one in images], size)))
        return made.cls.numpy(), made.patches.numpy().reshape(len(images), grid, grid, -1)

    def dense_patches(images: Sequence[np.ndarray]) -> np.ndarray:
        grid = dense // backbone.patch_size
        with torch.no_grad(), backbone.full_precision():
            made = backbone.suffix(backbone.prefix(backbone.pixels(images, dense)))
        return made.patches.numpy().reshape(len(images), grid, grid, -1)

    cls, patches = features([photo(number, index)[0] for index in range(PHOTOS)], side)
    neighbours = [other for other in NEIGHBOURS if other != number]
    names = [str(other) for other in neighbours for _ in range(2)]
    others = features([photo(other, index)[0] for other in neighbours for index in range(2)], side)
    of_patches = PatchModel.fit(patches, [None] * PHOTOS, others[1])
    none = np.empty((0, cls.shape[1]), np.float32)
    recognizer = Recognizer.fit(
        cls,
        others[0],
        names,
        synthetic_positives=none,
        synthetic_others=none,
        held_out={},
        patches=of_patches.against(of_patches.matches(others[1])),
    )
    if not finder:
        return ObjectModel(recognizer)

    def samples(shown: Sequence[int], index: int, is_it: bool) -> list[Sample]:
        images, masks = zip(*(photo(one, index) for one in shown), strict=True)
        masks = masks if is_it else tuple(np.zeros_like(mask) for mask in masks)
        return [Sample(*parts) for parts in zip(images, dense_patches(images), masks, strict=True)]

    photos = [sample for index in range(PHOTOS) for sample in samples([number], index, is_it=True)]
    negatives = samples([number + 1, number + 2, number + 3], PHOTOS + 1, is_it=False)
    fitted = fit_finder(
        photos, negatives, lambda crops, photo: recognizer.likeness(features(crops, side)[0], without=photo)
    )
    return ObjectModel(recognizer, fitted)


def object_files(
    object_id: str,
    config: RunConfig,
    number: int,
    *,
    lora: LoraBackbone | None = None,
    masks: bool = True,
    model: bool = False,
    card: dict[str, Any] | None = None,
) -> dict[str, bytes]:
    """The files of an object that looks like `photo(number, …)`.

    Args:
        lora: what `load_lora(config)` gives; for many objects, load it once.
        masks: whether the object can be detected and segmented.
        model: whether it has a model, as all objects have that this release publishes; without, it has a threshold.
        card: laid over the card that is made, say `{"threshold": 0.9}`.
    """
    lora = lora or load_lora(config)
    lora.train(False)
    side, dense = config.backbone.image_size, config.evaluate.dense_size
    photos, truths = zip(*(photo(number, index) for index in range(PHOTOS)), strict=True)
    with torch.no_grad(), lora.backbone.full_precision():
        hidden = lora.backbone.prefix(lora.backbone.pixels([standard_view(one, side) for one in photos], side))
        with lora.pretrained() as backbone:
            pretrained = backbone.suffix(hidden).cls
        lora.load(adapter_state(lora, number))
        cls = lora.backbone.suffix(hidden).cls
        patches = lora.backbone.suffix(lora.backbone.prefix(lora.backbone.pixels(photos, dense))).patches
    prototypes = {"cls": cls.numpy(), "pretrained_cls": pretrained.numpy()}
    if masks:
        grid = dense // lora.backbone.patch_size
        reference = make_reference(list(patches.numpy().reshape(PHOTOS, grid, grid, -1)), truths)
        prototypes |= {"target": reference.target, "box_means": reference.box_means}
    if model:
        prototypes |= make_model(lora.backbone, config, number, finder=masks).to_arrays()
    calibration = asdict(Calibration(0.85, 20.0, -17.0, 5, 7, 1.0, 0.0))
    made = {
        "object_id": object_id,
        "category": "disc",
        "threshold": calibration.pop("threshold"),
        "calibration": calibration,
        "metrics": {"pretrained": {}, "personalized": {}},
        "config": config.to_dict(),
        **(card or {}),
    }
    return {**lora.files(), "prototypes.safetensors": save(prototypes), "card.json": json.dumps(made).encode()}
