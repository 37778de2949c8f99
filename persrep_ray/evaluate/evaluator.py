"""The four tasks of one object on real photos, with the pretrained and with the personalized backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from persrep_ray.backbones.lora import LoraBackbone
from persrep_ray.config import RunConfig
from persrep_ray.data.distractors import choose_distractors
from persrep_ray.data.objects import Manifest, ObjectPhotos, Photo
from persrep_ray.data.tree import Problem
from persrep_ray.distributed import machine
from persrep_ray.evaluate import recognizers as recognizing
from persrep_ray.evaluate.examples import Example, choose_examples
from persrep_ray.evaluate.finders import LabelledImage, find, fit, keypoints_of, samples_of
from persrep_ray.evaluate.persam import PersamPhotos
from persrep_ray.evaluate.photo_cache import PhotoCache, ViewFeatures
from persrep_ray.evaluate.scan import Scan, Seen, metrics
from persrep_ray.storage.files import File
from persrep_ray.tasks.calibration import Calibration, calibrate
from persrep_ray.tasks.dense import DensePrediction, DenseReference, make_reference, outcome, predict, threshold
from persrep_ray.tasks.discriminant import DiscriminantError
from persrep_ray.tasks.features import evenly
from persrep_ray.tasks.find import Sample
from persrep_ray.tasks.keypoints import GeometricMatch, KeypointModel, chosen_photos, witness_score
from persrep_ray.tasks.metrics import SIDES, Side
from persrep_ray.tasks.model import ObjectModel
from persrep_ray.tasks.patches import PatchModel
from persrep_ray.tasks.recognize import Recognizer, chosen_rows

MOST_PROTOTYPES = 16
"""How many of the object's photos have their features in a version, at most."""

_GEOMETRY_OTHERS = 32  # photos of other objects that keypoints are weighed on
_T = TypeVar("_T")


class SideReference(NamedTuple):
    """What a side looks for in the dense tasks.

    Only the mode `persam` has `weights` (3,) of SAM's scales, and only the mode `discriminant` a `model`.
    """

    dense: DenseReference
    weights: np.ndarray | None = None
    model: ObjectModel | None = None


References = Mapping[Side, SideReference]


class EvaluateError(ValueError):
    """An object cannot be evaluated; the message names it and the cause."""


@dataclass(frozen=True)
class Evaluation:
    """The result for one adapter.

    `pretrained` and `personalized` are flat metrics (`tasks.metrics.METRICS`); a task without data is absent.
    `by_split` holds, for each test split of the object's photos, both sides' metrics on all test photos of that split.
    `model` is what the personalized side was measured with: `served.pr_auc` by its recognizer, and the dense tasks by
    its finder, which it has only if the mode is `discriminant` and a train photo has a mask.
    """

    pretrained: dict[str, float]
    personalized: dict[str, float]
    by_split: dict[str, dict[Side, dict[str, float]]]
    calibration: Calibration
    examples: tuple[Example, ...]
    model: ObjectModel | None


class Evaluator:
    """Evaluates adapters of the objects of one manifest, one after the other.

    What does not depend on the adapter is computed once per photo and kept for all objects, within `cache_bytes`, by
    default what the machine affords. A photo that cannot be read is left out and listed in `problems`.

    Args:
        lora: the slot that adapters are loaded into. It keeps the last adapter, in eval mode.
        masks: returns, for an object id, the masks (H, W) bool of its train photos in their order, None for a photo
            without a mask.

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
        cache_bytes: int | None = None,
    ) -> None:
        self._lora = lora
        self._objects = manifest.objects
        self._categories = {object_id: photos.category for object_id, photos in manifest.objects.items()}
        self._masks = masks
        self._config = config
        budget = machine.cache_bytes() if cache_bytes is None else cache_bytes
        self._persam: PersamPhotos | None = None
        if config.evaluate.mode == "persam":
            budget //= 2
            self._persam = PersamPhotos(config, budget)
        self._cache = PhotoCache(lora, config, budget)
        self._found: dict[File, Sequence[GeometricMatch]] = {}  # by the keypoints of the object at hand

    @property
    def problems(self) -> list[Problem]:
        return self._cache.problems

    def evaluate(
        self,
        object_id: str,
        state: Mapping[str, torch.Tensor],
        *,
        synthetic_positives: Sequence[LabelledImage] = (),
        synthetic_others: Sequence[LabelledImage] = (),
        published: ObjectModel | None = None,
    ) -> Evaluation:
        """Evaluates the adapter `state` on the object's test photos and on those of other objects.

        At most `most_photos` test photos of other objects serve as distractors (`choose_distractors`: same category
        first), and at most as many of their train photos are in the gallery. The dense tasks are evaluated if train and
        test photos of the object have masks. They leave out test photos without a mask, except those of other objects
        none of whose test photos has a mask.

        The calibration is found on the gallery and on synthetic images of the object and of anything else, which the
        adapter's training must not have seen. The models of both sides are fitted on these images, on the gallery and
        on the cohort of the bank. If the model of a version is given as `published`, nothing is fitted; the pretrained
        side, which has no model then, lacks `served.pr_auc` and, in the mode `discriminant`, the dense tasks.

        Raises:
            EvaluateError: there is no such object or no train photo, or the adapter does not fit or gives features that
                are not finite.
        """
        with self._errors_of(object_id) as subject:
            self._load(state)
            self._found = {}
            most, seed = self._config.evaluate.most_photos, self._config.seed
            distractors = [
                self._objects[other]
                for other in choose_distractors(object_id, self._categories, len(self._categories), seed)
            ]
            own, own_patches = self._scan_whole(subject, subject.train)
            if not own["personalized"].seen:
                raise EvaluateError("no train photo can be read")
            others_photos = list(islice(chain.from_iterable(other.train for other in distractors), most))
            positives = self._features_of([one.image for one in synthetic_positives])
            others = self._features_of([one.image for one in synthetic_others])
            models: dict[Side, ObjectModel] = {}
            if published is not None:
                models = {"personalized": published}
                rest = self._scan(subject, others_photos)
            else:
                keypoints = keypoints_of(self._cache, self._masked(subject), [other.train for other in distractors])
                rest, recognizers = self._recognizers(
                    subject, own, own_patches, others_photos, keypoints, positives, others
                )
                models = {side: ObjectModel(recognizers[side], keypoints=keypoints) for side in SIDES}
            gallery = {side: Scan(object_id, [*own[side].seen, *rest[side].seen]) for side in SIDES}
            references = self._references(subject)
            if self._config.evaluate.mode == "discriminant" and references:
                if published is None:
                    samples: dict[Side, list[Sample]] = {
                        side: [
                            *samples_of(self._cache, synthetic_positives, positives[side]),
                            *samples_of(self._cache, [_empty(one) for one in synthetic_others], others[side]),
                        ]
                        for side in SIDES
                    }
                    models = self._with_finders(subject, own, models, samples)
                references = {
                    side: one._replace(model=models[side])
                    for side, one in references.items()
                    if side in models and models[side].finder is not None
                }
            test_photos = [*subject.test, *islice(chain.from_iterable(other.test for other in distractors), most)]
            has_truth = any(photo.mask for photo in subject.test)
            tests = self._scan(subject, test_photos, references if has_truth else {}, models)

            whole = {side: metrics(gallery[side], tests[side]) for side in SIDES}
            return Evaluation(
                pretrained=whole["pretrained"],
                personalized=whole["personalized"],
                by_split={
                    split: {side: metrics(gallery[side], _within(split, tests[side])) for side in SIDES}
                    for split in sorted({photo.split for photo in subject.test if photo.split})
                },
                calibration=calibrate(
                    gallery["personalized"].of_object().cls,
                    gallery["personalized"].distractors().cls,
                    positives["personalized"].cls,
                    others["personalized"].cls,
                ),
                examples=tuple(self._examples(gallery, tests, references if len(references) == len(SIDES) else {})),
                model=models.get("personalized"),
            )

    def prototypes(
        self,
        object_id: str,
        state: Mapping[str, torch.Tensor],
        model: ObjectModel | None = None,
    ) -> dict[str, np.ndarray]:
        """Reference features of the object under the adapter `state`, computed in float32 without autocast.

        Returns:
            `cls` (T, D) float16 of the train photos and `pretrained_cls` (T, D) float16 without the adapter; of many
            photos, `MOST_PROTOTYPES`, evenly. If one of them has a mask, also `target` (D,) float32 and `box_means`
            (M, D) float16 of `dense.DenseReference`. The arrays of the `model` of an `Evaluation` are added.

        Raises:
            EvaluateError: as in `evaluate`.
        """
        with self._errors_of(object_id) as subject:
            self._load(state)
            cls, pretrained_cls, patches, masks = [], [], [], []
            for photo, mask in _some(self._train_masks(subject), MOST_PROTOTYPES):
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
            half = np.float16
            prototypes = {"cls": np.stack(cls).astype(half), "pretrained_cls": np.stack(pretrained_cls).astype(half)}
            if masks:
                reference = make_reference(patches, masks)
                prototypes |= {"target": reference.target, "box_means": reference.box_means.astype(half)}
            if model is not None:
                prototypes |= model.to_arrays()
            if not all(np.isfinite(value).all() for value in prototypes.values()):
                raise EvaluateError("the features of the train photos are not finite")
            # safetensors writes an array's memory as it lies, so a transposed view would be stored scrambled.
            return {name: np.ascontiguousarray(value) for name, value in prototypes.items()}

    @contextmanager
    def _errors_of(self, object_id: str) -> Iterator[ObjectPhotos]:
        """Yields the object's photos; errors within the context name the object."""
        try:
            if object_id not in self._objects:
                raise EvaluateError("not among the objects")
            yield self._objects[object_id]
        except ValueError as error:
            raise EvaluateError(f"object {object_id}: evaluate: {error}") from error

    def _load(self, state: Mapping[str, torch.Tensor]) -> None:
        self._lora.train(False)
        self._lora.load(state)

    def _scan_whole(
        self, subject: ObjectPhotos, photos: Sequence[Photo]
    ) -> tuple[dict[Side, Scan], dict[Side, np.ndarray]]:
        """Embeds a few photos by both sides, and returns the patches (N, h, w, D) of their standard views, too."""
        patches: dict[Side, dict[File, np.ndarray]] = {side: {} for side in SIDES}

        def keep(side: Side, batch: Sequence[Photo], views: ViewFeatures) -> None:
            patches[side] |= {photo.path: rows for photo, rows in zip(batch, views.patches, strict=True)}

        scans = self._scan(subject, photos, watch=keep)
        return scans, {
            side: np.stack([patches[side][one.photo.path] for one in scan.seen])
            if scan.seen
            else np.empty((0, 0, 0, 0))
            for side, scan in scans.items()
        }

    def _scan(
        self,
        subject: ObjectPhotos,
        photos: Sequence[Photo],
        references: References | None = None,
        models: Mapping[Side, ObjectModel] | None = None,
        watch: Callable[[Side, Sequence[Photo], ViewFeatures], None] | None = None,
    ) -> dict[Side, Scan]:
        """Embeds `photos` by both sides.

        With `references`, it also looks for the object on them, and with `models` it weighs the evidence for it.
        `watch` is shown the features of every batch of standard views.
        """
        seen: dict[Side, dict[File, Seen]] = {side: {} for side in SIDES}
        size = self._config.evaluate.batch_size
        waiting = sorted(photos, key=self._missing)  # photos that are kept come first, before a full cache drops them
        for start in range(0, len(waiting), size):
            batch = self._cache.readable(waiting[start : start + size], "standard")
            if not batch:
                continue
            for side in SIDES:
                model = (models or {}).get(side)
                if model is None and watch is None:
                    rows, evidence = self._cache.cls(batch, adapted=side == "personalized"), None
                else:
                    views = self._cache.views(batch, adapted=side == "personalized")
                    rows, evidence = views.cls, None if model is None else self._evidence(model, batch, views)
                    if watch is not None:
                        watch(side, batch, views)
                for index, photo in enumerate(batch):
                    weighed = None if evidence is None else float(evidence[index])
                    seen[side][photo.path] = Seen(photo, rows[index], weighed)
            if references:
                self._look(subject, batch, references, seen)
        return {
            side: Scan(subject.object_id, [seen[side][photo.path] for photo in photos if photo.path in seen[side]])
            for side in SIDES
        }

    def _evidence(self, model: ObjectModel, batch: Sequence[Photo], views: ViewFeatures) -> np.ndarray:
        evidence = model.evidence(views.cls, views.patches)
        if model.uses_geometry:
            evidence = evidence + [model.geometric_evidence(self._matches(model.keypoints, one)) for one in batch]
        return evidence

    def _matches(self, keypoints: KeypointModel | None, photo: Photo) -> Sequence[GeometricMatch]:
        """What the object's keypoints find on a photo; both sides share it."""
        if keypoints is None:
            return ()
        if photo.path not in self._found:
            self._found[photo.path] = keypoints.find(self._cache.keypoints(photo))
        return self._found[photo.path]

    def _masked(self, subject: ObjectPhotos) -> list[tuple[Photo, np.ndarray]]:
        """The train photos that can be read and have a mask, with their masks."""
        masked = [(photo, mask) for photo, mask in self._train_masks(subject) if mask is not None]
        readable = {photo.path for batch in self._dense([photo for photo, _ in masked]) for photo in batch}
        return [(photo, mask) for photo, mask in masked if photo.path in readable]

    def _recognizers(
        self,
        subject: ObjectPhotos,
        own: Mapping[Side, Scan],
        own_patches: Mapping[Side, np.ndarray],
        others: Sequence[Photo],
        keypoints: KeypointModel | None,
        positives: Mapping[Side, ViewFeatures],
        negatives: Mapping[Side, ViewFeatures],
    ) -> tuple[dict[Side, Scan], dict[Side, Recognizer]]:
        """The scans of `others`, photos of other objects, and the recognizers of both sides."""
        cohort, cohort_patches = self._scan_whole(subject, recognizing.cohort_photos())
        shares = {photo.path: mask for photo, mask in self._train_masks(subject)}
        models: dict[Side, PatchModel] = {}
        for side, patches in own_patches.items():
            grid = patches.shape[1:3]
            masks = [self._cache.covered(shares[one.photo.path], grid) for one in own[side].seen]
            models[side] = PatchModel.fit(patches, masks, cohort_patches[side])
        matches: dict[Side, dict[File, np.ndarray]] = {side: {} for side in SIDES}

        def match(side: Side, batch: Sequence[Photo], views: ViewFeatures) -> None:
            found = models[side].matches(views.patches)
            matches[side] |= {photo.path: row for photo, row in zip(batch, found, strict=True)}

        scans = self._scan(subject, others, watch=match)
        geometry = self._geometry(subject, scans["personalized"], keypoints)
        recognizers = {}
        for side, model in models.items():
            both = Scan(subject.object_id, [*scans[side].seen, *cohort[side].seen])
            rows = [matches[side][one.photo.path] for one in scans[side].seen]
            recognizers[side] = recognizing.fit(
                own[side],
                both,
                model,
                model.matches(own_patches[side]),
                np.concatenate(
                    [np.array(rows, np.float32).reshape(-1, len(model.patches)), model.matches(cohort_patches[side])]
                ),
                positives[side].cls,
                negatives[side],
                geometry,
            )
        return scans, recognizers

    def _geometry(
        self, subject: ObjectPhotos, others: Scan, keypoints: KeypointModel | None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """What the keypoints say of the object's photos, each without its keypoints, and of some of other objects."""
        if keypoints is None:
            return None
        masked = self._masked(subject)
        kept = [masked[index][0] for index in chosen_photos(len(masked))]
        alike = [
            witness_score(keypoints.find(self._cache.keypoints(photo), without=index))
            for index, photo in enumerate(kept)
            if len(kept) > 1
        ]
        some = self._cache.readable([one.photo for one in _some(others.seen, _GEOMETRY_OTHERS)], None)
        return np.array(alike), np.array([witness_score(self._matches(keypoints, photo)) for photo in some])

    def _missing(self, photo: Photo) -> tuple[bool, bool]:
        """Whether the photo's SAM embedding, which costs the most, and its features have to be computed."""
        return self._persam is not None and not self._persam.holds(photo), not self._cache.holds(photo)

    def _features_of(self, images: Sequence[np.ndarray]) -> dict[Side, ViewFeatures]:
        """The features of the standard views of `images`."""
        size = self._config.evaluate.batch_size
        batches = [self._cache.of_images(images[start : start + size]) for start in range(0, len(images), size)]
        if not batches:
            return dict.fromkeys(SIDES, ViewFeatures(np.empty((0, 0), np.float32), np.empty((0, 0, 0, 0), np.float16)))
        return {
            side: ViewFeatures(
                np.concatenate([batch[side].cls for batch in batches]),
                np.concatenate([batch[side].patches for batch in batches]),
            )
            for side in SIDES
        }

    def _look(
        self, subject: ObjectPhotos, batch: Sequence[Photo], references: References, seen: dict[Side, dict[File, Seen]]
    ) -> None:
        """Adds to `seen` what each side finds on the photos of `batch` that take part in the dense tasks."""
        truths: dict[File, list[np.ndarray]] = {}
        for photo in batch:
            if photo.object_id != subject.object_id:
                if photo.mask or not any(other.mask for other in self._objects[photo.object_id].test):
                    truths[photo.path] = []
            elif (truth := self._cache.truth(photo)) is not None:
                truths[photo.path] = [truth]
        wanted = self._cache.readable([photo for photo in batch if photo.path in truths], "dense")
        for side, reference in references.items():
            grids = self._cache.patches(wanted, adapted=side == "personalized") if wanted else ()
            for photo, grid in zip(wanted, grids, strict=True):
                found = outcome(self._predict(photo, grid, side, reference), truths[photo.path])
                paper = None
                if self._config.evaluate.mode == "discriminant":
                    paper = outcome(predict(reference.dense, grid, self._cache.size(photo)), truths[photo.path])
                seen[side][photo.path] = replace(seen[side][photo.path], outcome=found, paper=paper)

    def _predict(self, photo: Photo, grid: np.ndarray, side: Side, reference: SideReference) -> DensePrediction:
        """What `side` finds on a photo, whose dense view has the patches `grid` (h, w, D)."""
        if reference.model is not None:
            return find(
                self._cache, side, reference.model, photo, grid, self._matches(reference.model.keypoints, photo)
            )
        mode = threshold if self._persam is None else self._persam.find(photo, reference.weights)
        return predict(reference.dense, grid, self._cache.size(photo), mode)

    def _with_finders(
        self,
        subject: ObjectPhotos,
        own: Mapping[Side, Scan],
        models: Mapping[Side, ObjectModel],
        samples: Mapping[Side, Sequence[Sample]],
    ) -> dict[Side, ObjectModel]:
        """The models with fitted finders; without them if there is nothing to tell the object from."""
        photos = self._masked(subject)
        rows = own["personalized"].seen
        recognised = {rows[index].photo.path: row for row, index in enumerate(chosen_rows(len(rows)))}
        try:
            return {
                side: replace(model, finder=fit(self._cache, side, photos, samples[side], model.recognizer, recognised))
                for side, model in models.items()
            }
        except DiscriminantError:
            return dict(models)

    def _references(self, subject: ObjectPhotos) -> References:
        """The references of both sides; empty if no train photo has a mask."""
        mask_of = {photo.path: mask for photo, mask in self._train_masks(subject) if mask is not None}
        photos: list[Photo] = []
        patches: dict[Side, list[np.ndarray]] = {side: [] for side in SIDES}
        for batch in self._dense([photo for photo in subject.train if photo.path in mask_of]):
            photos += batch
            for side in SIDES:
                patches[side] += list(self._cache.patches(batch, adapted=side == "personalized"))
        if not photos:
            return {}
        masks = [mask_of[photo.path] for photo in photos]
        references: dict[Side, SideReference] = {}
        for side in SIDES:
            reference = make_reference(patches[side], masks)
            weights = None
            if self._persam is not None:
                similarity = predict(reference, patches[side][0], masks[0].shape).similarity
                weights = self._persam.learn_weights(photos[0], similarity, masks[0])
            references[side] = SideReference(reference, weights)
        return references

    def _dense(self, photos: Sequence[Photo]) -> Iterator[list[Photo]]:
        """The readable ones of `photos`, batch by batch: only one batch is decoded at a time."""
        size = self._config.evaluate.batch_size
        for start in range(0, len(photos), size):
            if batch := self._cache.readable(photos[start : start + size], "dense"):
                yield batch

    def _train_masks(self, subject: ObjectPhotos) -> list[tuple[Photo, np.ndarray | None]]:
        """The train photos, each with its mask or None; an empty mask counts as None."""
        masks = self._masks(subject.object_id)
        if len(masks) != len(subject.train):
            raise EvaluateError(f"{len(masks)} masks for {len(subject.train)} train photos")
        return [
            (photo, mask if mask is not None and mask.any() else None)
            for photo, mask in zip(subject.train, masks, strict=True)
        ]

    def _examples(
        self, gallery: Mapping[Side, Scan], tests: Mapping[Side, Scan], references: References
    ) -> Iterator[Example]:
        """What reports show; nothing without `references`, because there are no similarities then."""
        titles = dict(choose_examples(gallery, tests)) if references else {}
        for photo in self._cache.readable(list(titles), "dense"):
            predictions = {
                side: self._predict(
                    photo, self._cache.patches([photo], adapted=side == "personalized")[0], side, references[side]
                )
                for side in SIDES
            }
            yield Example(
                photo=photo.path,
                title=titles[photo],
                truth=self._cache.truth(photo) if photo.object_id == tests["pretrained"].object_id else None,
                similarity={side: predictions[side].similarity for side in SIDES},
                found={side: predictions[side].mask() for side in SIDES},
            )


def _some(items: Sequence[_T], most: int) -> list[_T]:
    return [items[row] for row in evenly(len(items), most)]


def _empty(image: LabelledImage) -> LabelledImage:
    """An image of anything else shows nothing of the object."""
    return image._replace(mask=np.zeros_like(image.mask))


def _within(split: str, tests: Scan) -> Scan:
    return tests.only(lambda photo: photo.split == split)
