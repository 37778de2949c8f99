"""One object's four tasks on real photos, the pretrained backbone beside the personalized one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch

from persrep_ray.backbones.lora import LoraBackbone
from persrep_ray.config import RunConfig
from persrep_ray.data.distractors import choose_distractors
from persrep_ray.data.images import read_rgb
from persrep_ray.data.objects import Manifest, ObjectPhotos, Photo, Problem
from persrep_ray.evaluate.persam import PersamPhotos
from persrep_ray.evaluate.photo_cache import PhotoCache
from persrep_ray.evaluate.rows import choose_rows
from persrep_ray.evaluate.scan import Scan, Seen, metrics
from persrep_ray.report.contact_sheet import TestRow
from persrep_ray.tasks.calibration import Calibration, calibrate
from persrep_ray.tasks.dense import DensePrediction, DenseReference, make_reference, outcome, predict, threshold

Side = Literal["pretrained", "personalized"]
SIDES: tuple[Side, Side] = ("pretrained", "personalized")

CACHE_BYTES = 2 * 1024**3


class SideReference(NamedTuple):
    """What one side looks for in the dense tasks; only the mode `persam` has `weights` (3,) of SAM's scales."""

    dense: DenseReference
    weights: np.ndarray | None = None


References = Mapping[Side, SideReference]


class EvaluateError(ValueError):
    """An object cannot be evaluated; the message names it and the cause."""


@dataclass(frozen=True)
class Evaluation:
    """What the photos say of one adapter.

    `pretrained` and `personalized` are flat metrics (`evaluate.summary.METRICS`); a task without data is absent.
    `by_split`: per test split of the object's photos, both sides' metrics on all test photos of that split.
    `tests`: rows of the contact sheet: own test photos, then the other object's photo that either side rates highest.
    `calibration`: what serving makes of the largest cosine to a train photo.
    """

    pretrained: dict[str, float]
    personalized: dict[str, float]
    by_split: dict[str, dict[str, dict[str, float]]]
    tests: tuple[TestRow, ...]
    calibration: Calibration


class Evaluator:
    """Evaluates adapters of the objects of one manifest, one after the other.

    What does not depend on the adapter is computed once per photo, whichever objects it serves, and kept within
    `cache_bytes`. A photo that cannot be read is left out and listed in `problems`.

    Args:
        lora: the slot that adapters are loaded into; afterwards it holds the last one, in eval mode.
        masks: object id -> the masks (H, W) bool of its train photos in their order, None where there is none.

    Raises:
        SamError: the mode is `persam` and the checkpoint cannot be loaded.
    """

    def __init__(
        self,
        lora: LoraBackbone,
        manifest: Manifest,
        masks: Callable[[str], Sequence[np.ndarray | None]],
        config: RunConfig,
        *,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._lora = lora
        self._objects = manifest.objects
        self._categories = {object_id: photos.category for object_id, photos in manifest.objects.items()}
        self._masks = masks
        self._config = config
        self._persam: PersamPhotos | None = None
        if config.evaluate.mode == "persam":
            cache_bytes //= 2
            self._persam = PersamPhotos(config, cache_bytes)
        self._cache = PhotoCache(lora, config, cache_bytes)

    @property
    def problems(self) -> list[Problem]:
        return self._cache.problems

    def evaluate(
        self,
        object_id: str,
        state: Mapping[str, torch.Tensor],
        *,
        synthetic_positives: Sequence[np.ndarray] = (),
        synthetic_others: Sequence[np.ndarray] = (),
    ) -> Evaluation:
        """The four tasks with the adapter `state`, on the object's test photos and those of other objects.

        At most `most_photos` test photos of other objects (`choose_distractors`: same category first) are distractors, and
        at most as many of their train photos share the gallery. An object whose test photos have masks joins the dense
        tasks with these alone; one that has none joins with all of them, as a distractor.

        The calibration is found on the gallery and on synthetic images (H, W, 3) uint8 of the object and of anything
        else, which the adapter's training must not have seen.

        Raises:
            EvaluateError: no such object, no train photo, an adapter that does not fit or gives non-finite features.
        """
        with self._errors_of(object_id) as own:
            self._load(state)
            most, seed = self._config.evaluate.most_photos, self._config.seed
            others = [
                self._objects[other]
                for other in choose_distractors(object_id, self._categories, len(self._categories), seed)
            ]
            gallery_photos = [*own.train, *islice(chain.from_iterable(other.train for other in others), most)]
            gallery = self._scan(own, gallery_photos)
            if not gallery["personalized"].shows_object.any():
                raise EvaluateError("no train photo can be read")
            references = self._references(own)
            test_photos = [*own.test, *islice(chain.from_iterable(other.test for other in others), most)]
            tests = self._scan(own, test_photos, references)

            whole = {side: metrics(gallery[side], tests[side]) for side in SIDES}
            return Evaluation(
                pretrained=whole["pretrained"],
                personalized=whole["personalized"],
                by_split={
                    split: {side: metrics(gallery[side], _within(split, tests[side])) for side in SIDES}
                    for split in sorted({photo.split for photo in own.test if photo.split})
                },
                tests=tuple(self._rows(gallery, tests, references)),
                calibration=calibrate(
                    gallery["personalized"].own().cls,
                    gallery["personalized"].others().cls,
                    self._cls_of(synthetic_positives),
                    self._cls_of(synthetic_others),
                ),
            )

    def prototypes(self, object_id: str, state: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """Reference features of the object under the adapter `state`, float32, computed without autocast.

        Returns:
            `cls` (T, D) of the train photos, and `pretrained_cls` (T, D) of the same without the adapter; with at least
            one mask also `target` (D,) and `box_means` (M, D) of `dense.DenseReference`.

        Raises:
            EvaluateError: as `evaluate`.
        """
        with self._errors_of(object_id) as own:
            self._load(state)
            cls, pretrained_cls, patches, masks = [], [], [], []
            for photo, mask in self._train_masks(own):
                if not self._cache.readable([photo], None):
                    continue
                embedding, grid = self._cache.exact(photo)
                cls.append(embedding)
                with self._lora.pretrained():
                    pretrained_cls.append(self._cache.exact_cls(photo))
                if mask is not None:
                    patches.append(grid)
                    masks.append(mask)
            if not cls:
                raise EvaluateError("no train photo can be read")
            prototypes = {"cls": np.stack(cls), "pretrained_cls": np.stack(pretrained_cls)}
            if masks:
                reference = make_reference(patches, masks)
                prototypes |= {"target": reference.target, "box_means": reference.box_means}
            if not all(np.isfinite(value).all() for value in prototypes.values()):
                raise EvaluateError("the features of the train photos are not finite")
            return prototypes

    @contextmanager
    def _errors_of(self, object_id: str) -> Iterator[ObjectPhotos]:
        """Gives the object's photos; errors within name the object."""
        try:
            if object_id not in self._objects:
                raise EvaluateError("not among the objects")
            yield self._objects[object_id]
        except ValueError as error:
            raise EvaluateError(f"object {object_id}: evaluate: {error}") from error

    def _load(self, state: Mapping[str, torch.Tensor]) -> None:
        self._lora.train(False)
        self._lora.load(state)

    def _scan(
        self, own: ObjectPhotos, photos: Sequence[Photo], references: References | None = None
    ) -> dict[Side, Scan]:
        """Embeds `photos` by either side; with `references`, also looks for the object on those of the dense tasks."""
        seen: dict[Side, dict[Path, Seen]] = {side: {} for side in SIDES}
        size = self._config.evaluate.batch_size
        waiting = sorted(photos, key=self._missing)
        for start in range(0, len(waiting), size):
            batch = self._cache.readable(waiting[start : start + size], "standard")
            if not batch:
                continue
            for side in SIDES:
                rows = self._cache.cls(batch, adapted=side == "personalized")
                seen[side] |= {photo.path: Seen(photo, row) for photo, row in zip(batch, rows, strict=True)}
            if references:
                self._look(own, batch, references, seen)
        return {
            side: Scan(own.object_id, [seen[side][photo.path] for photo in photos if photo.path in seen[side]])
            for side in SIDES
        }

    def _missing(self, photo: Photo) -> tuple[bool, bool]:
        """What would have to be computed, the costliest first."""
        return self._persam is not None and not self._persam.holds(photo), not self._cache.holds(photo)

    def _cls_of(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """(N, D) float32, adapted."""
        size = self._config.evaluate.batch_size
        batches = [self._cache.cls_of_images(images[start : start + size]) for start in range(0, len(images), size)]
        return np.concatenate(batches) if batches else np.empty((0, 0), dtype=np.float32)

    def _look(
        self, own: ObjectPhotos, batch: Sequence[Photo], references: References, seen: dict[Side, dict[Path, Seen]]
    ) -> None:
        """Adds to `seen` what either side finds on the photos of `batch` that belong to the dense tasks."""
        truths: dict[Path, np.ndarray | None] = {}
        for photo in batch:
            if photo.object_id != own.object_id:
                if photo.mask or not any(other.mask for other in self._objects[photo.object_id].test):
                    truths[photo.path] = None
            elif (truth := self._cache.truth(photo)) is not None:
                truths[photo.path] = truth
        wanted = self._cache.readable([photo for photo in batch if photo.path in truths], "dense")
        for side, reference in references.items():
            for photo, prediction in zip(wanted, self._predict(wanted, side, reference), strict=True):
                found = outcome(prediction, truths[photo.path])
                seen[side][photo.path] = replace(seen[side][photo.path], outcome=found)

    def _predict(self, photos: Sequence[Photo], side: Side, reference: SideReference) -> list[DensePrediction]:
        if not photos:
            return []
        predictions = []
        for photo, grid in zip(photos, self._cache.patches(photos, adapted=side == "personalized"), strict=True):
            find = threshold if self._persam is None else self._persam.find(photo, reference.weights)
            predictions.append(predict(reference.dense, grid, self._cache.size(photo), find))
        return predictions

    def _references(self, own: ObjectPhotos) -> References:
        """Of either side; empty if no train photo has a mask."""
        mask_of = {photo.path: mask for photo, mask in self._train_masks(own) if mask is not None}
        photos = self._cache.readable([photo for photo in own.train if photo.path in mask_of], "dense")
        if not photos:
            return {}
        masks = [mask_of[photo.path] for photo in photos]
        references: dict[Side, SideReference] = {}
        for side in SIDES:
            patches = list(self._cache.patches(photos, adapted=side == "personalized"))
            reference = make_reference(patches, masks)
            weights = None
            if self._persam is not None:
                similarity = predict(reference, patches[0], masks[0].shape).similarity
                weights = self._persam.learn_weights(photos[0], similarity, masks[0])
            references[side] = SideReference(reference, weights)
        return references

    def _train_masks(self, own: ObjectPhotos) -> list[tuple[Photo, np.ndarray | None]]:
        """The train photos, each with its mask; an empty mask counts as none."""
        masks = self._masks(own.object_id)
        if len(masks) != len(own.train):
            raise EvaluateError(f"{len(masks)} masks for {len(own.train)} train photos")
        return [
            (photo, mask if mask is not None and mask.any() else None)
            for photo, mask in zip(own.train, masks, strict=True)
        ]

    def _rows(
        self, gallery: Mapping[Side, Scan], tests: Mapping[Side, Scan], references: References
    ) -> Iterator[TestRow]:
        """What the contact sheet shows; nothing without `references`, since there are no similarities then."""
        chosen = choose_rows(
            (gallery["pretrained"], gallery["personalized"]), (tests["pretrained"], tests["personalized"])
        )
        titles = dict(chosen) if references else {}
        for photo in self._cache.readable(list(titles), None):
            size = self._cache.size(photo)
            image = cv2.resize(read_rgb(photo.path, self._config.data), size[::-1], interpolation=cv2.INTER_AREA)
            found = {side: self._predict([photo], side, references[side])[0] for side in SIDES}
            yield TestRow(
                image=image,
                pretrained_similarity=found["pretrained"].similarity,
                personalized_similarity=found["personalized"].similarity,
                truth_mask=self._cache.truth(photo) if photo.object_id == tests["pretrained"].object_id else None,
                title=titles[photo],
                pretrained_mask=found["pretrained"].mask,
                personalized_mask=found["personalized"].mask,
            )


def _within(split: str, tests: Scan) -> Scan:
    return tests.only(lambda photo: photo.split == split)
