"""For tests of the evaluation: coloured discs on disk, adapters of a tiny ViT, and a naive evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers.tiny import COLOURS, shape, tiny_backbone
from PIL import Image

from persrep_ray.backbones.backbone import Backbone
from persrep_ray.backbones.lora import LoraBackbone, State
from persrep_ray.config import BackboneConfig, EvaluateConfig, RunConfig
from persrep_ray.data.distractors import choose_distractors
from persrep_ray.data.images import read_mask, read_rgb, resize_square, standard_view
from persrep_ray.data.objects import Manifest, Photo, load_manifest
from persrep_ray.evaluate import recognizers
from persrep_ray.evaluate.evaluator import Evaluation, Evaluator
from persrep_ray.tasks import classification, retrieval
from persrep_ray.tasks.calibration import Calibration, calibrate
from persrep_ray.tasks.dense import DensePrediction, DenseReference, coco_metrics, make_reference, predict
from persrep_ray.tasks.metrics import flatten
from persrep_ray.tasks.patches import PatchModel
from persrep_ray.tasks.recognize import Recognizer

SIZE, DENSE = 56, 112
TRAIN, TEST = 2, 3


def config(**evaluate: Any) -> RunConfig:
    return RunConfig(
        backbone=BackboneConfig(image_size=SIZE, precision="float32"),
        evaluate=EvaluateConfig(**{"dense_size": DENSE, "batch_size": 2, "mode": "threshold", **evaluate}),
    )


def save(root: Path, folder: str, object_id: str, index: int, image: np.ndarray, mask: np.ndarray | None) -> None:
    for name, array in ((folder, image), (f"{folder}_masks", mask)):
        if array is not None:
            path = root / name / object_id / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)


def save_discs(root: Path) -> None:
    """Three coloured discs in the reference layout. All photos have masks, and no two of an object have one size."""
    for number, (object_id, colour) in enumerate(COLOURS.items()):
        for index in range(TRAIN + TEST):
            image, mask = shape(colour, seed=10 * number + index)
            height = 48 + 4 * index  # photos are not square
            part = "train" if index < TRAIN else "test"
            save(root, part, object_id, index, image[:height], mask[:height])


def manifest_of(root: Path) -> Manifest:
    return load_manifest(root, RunConfig().data)


def lora_slot() -> LoraBackbone:
    lora = LoraBackbone(tiny_backbone(), RunConfig().train.lora, base_name="tiny")
    with torch.no_grad():  # the initial weights hardly tell two photos apart
        generator = torch.Generator().manual_seed(0)
        for parameter in lora.backbone.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    lora.reset(0)
    return lora


def adapter(lora: LoraBackbone, seed: int = 1) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) * 0.4 for name, value in lora.state().items()}


def evaluator(root: Path, lora: LoraBackbone | None = None, **options: Any) -> Evaluator:
    manifest = manifest_of(root)
    cache = {"cache_bytes": options.pop("cache_bytes")} if "cache_bytes" in options else {}

    def masks(object_id: str) -> list[np.ndarray | None]:
        photos = manifest.objects[object_id].train
        return [read_mask(photo.mask, RunConfig().data) if photo.mask else None for photo in photos]

    return Evaluator(lora or lora_slot(), manifest, masks, config(**options), **cache)


def same_calibration(left: Calibration, right: Calibration) -> None:
    assert left.threshold == pytest.approx(right.threshold, abs=1e-5)
    assert left.slope == pytest.approx(right.slope, rel=1e-3)
    counts = [(one.positives, one.others, one.true_positive_rate, one.false_positive_rate) for one in (left, right)]
    assert counts[0] == counts[1]


def same(left: Evaluation, right: Evaluation) -> None:
    assert left.personalized == pytest.approx(right.personalized, abs=1e-6)
    assert left.pretrained == pytest.approx(right.pretrained, abs=1e-6)
    same_calibration(left.calibration, right.calibration)
    assert [(one.photo, one.title) for one in left.examples] == [(one.photo, one.title) for one in right.examples]
    for one, other in zip(left.examples, right.examples, strict=True):
        np.testing.assert_allclose(one.similarity["personalized"], other.similarity["personalized"], atol=1e-3)


class Naive:
    """Computes the same figures photo by photo; nothing is batched and nothing is kept."""

    def __init__(self, root: Path, backbone: Backbone) -> None:
        self.objects = manifest_of(root).objects
        self.backbone = backbone
        self.limits = RunConfig().data

    @torch.no_grad()
    def features(self, square: np.ndarray) -> Any:
        return self.backbone.suffix(self.backbone.prefix(self.backbone.pixels([square], len(square))))

    def cls(self, photos: Sequence[Photo]) -> np.ndarray:
        return self.cls_of_images([read_rgb(photo.path, self.limits) for photo in photos])

    def cls_of_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([self.features(standard_view(image, SIZE)).cls[0].numpy() for image in images])

    def patches(self, photo: Photo) -> np.ndarray:
        square = resize_square(read_rgb(photo.path, self.limits), DENSE)
        grid = DENSE // self.backbone.patch_size
        return self.features(square).patches[0].half().numpy().reshape(grid, grid, -1)

    def mask(self, photo: Photo) -> np.ndarray:
        assert photo.mask is not None
        return read_mask(photo.mask, self.limits)

    def predict(self, reference: DenseReference, photo: Photo, first_train: Photo) -> DensePrediction:
        height, width, _ = read_rgb(photo.path, self.limits).shape
        return predict(reference, self.patches(photo), (height, width))

    def metrics(
        self, object_id: str, most: int, synthetic: Sequence[np.ndarray]
    ) -> tuple[dict[str, float], Calibration]:
        """The first of the `synthetic` images is a positive, the rest are not."""
        own = self.objects[object_id]
        distractors = [
            self.objects[other] for other in choose_distractors(object_id, dict.fromkeys(self.objects), 9, seed=0)
        ]
        gallery = [*own.train, *[photo for other in distractors for photo in other.train][:most]]
        tests = [*own.test, *[photo for other in distractors for photo in other.test][:most]]
        train, known, seen = self.cls(own.train), self.cls(gallery), self.cls(tests)
        is_own = np.array([photo.object_id == object_id for photo in tests])
        relevant = np.array([photo.object_id == object_id for photo in gallery])

        reference = make_reference([self.patches(photo) for photo in own.train], [self.mask(p) for p in own.train])
        predictions, truths = [], []
        for photo in tests:
            predictions.append(self.predict(reference, photo, own.train[0]))
            truths.append([self.mask(photo)] if photo.object_id == object_id else [])
        unseen = self.cls_of_images(synthetic)
        others = [photo for photo in gallery if photo.object_id != object_id] + recognizers.cohort_photos()
        evidence = self.evidence(own.train, others, synthetic, tests)
        tasks = {
            "classification": {"pr_auc": classification.pr_auc(train, seen, is_own)},
            "served": {"pr_auc": classification.average_precision(evidence, is_own)},
            "retrieval": retrieval.scores(seen[is_own], known, relevant),
            **coco_metrics(predictions, truths),
        }
        return flatten(tasks), calibrate(train, known[~relevant], unseen[:1], unseen[1:])

    def evidence(
        self, own: Sequence[Photo], others: Sequence[Photo], synthetic: Sequence[np.ndarray], tests: Sequence[Photo]
    ) -> np.ndarray:
        """By CLS and patches. Discs have too few keypoints for geometry."""

        def views(photos: Sequence[Photo]) -> np.ndarray:
            return self.views([read_rgb(photo.path, self.limits) for photo in photos])

        def covered(mask: np.ndarray, grid: int) -> np.ndarray:
            white = standard_view(np.repeat(mask[:, :, None].astype(np.uint8) * 255, 3, axis=2), SIZE)[:, :, 0]
            return cv2.resize(white, (grid, grid), interpolation=cv2.INTER_AREA) > 127

        mine, theirs = views(own), views(others)
        names = np.array([photo.object_id for photo in others])
        masks = [covered(self.mask(photo), mine.shape[1]) if photo.mask else None for photo in own]
        patches = PatchModel.fit(mine, masks, views(recognizers.cohort_photos()))
        matches = patches.matches(theirs)
        known = patches.against(matches)
        alike = [known.scores(patches.matches(mine[i : i + 1]), without=i)[0] for i in range(len(own)) if len(own) > 1]
        unlike = [
            patches.against(matches[names != name]).scores(matches[names == name]) for name in np.unique(names)
        ] + ([known.scores(patches.matches(self.views(synthetic[1:])))] if len(synthetic) > 1 else [])
        recognizer = Recognizer.fit(
            self.cls(own),
            self.cls(others),
            list(names),
            synthetic_positives=self.cls_of_images(synthetic[:1]),
            synthetic_others=self.cls_of_images(synthetic[1:]),
            held_out={"patches": (np.array(alike), np.concatenate(unlike))},
            patches=known,
        )
        return recognizer.evidence(self.cls(tests), {"patches": known.scores(patches.matches(views(tests)))})

    def views(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """The patches (N, h, w, D) of standard views."""
        grid = SIZE // self.backbone.patch_size
        rows = [self.features(standard_view(image, SIZE)).patches[0].half().numpy() for image in images]
        return np.stack(rows).reshape(len(images), grid, grid, -1)
