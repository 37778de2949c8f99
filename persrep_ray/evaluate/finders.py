"""Finders (`tasks.find`) on the features of the photo cache: fitted to an object, and used on photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from persrep_ray.data.objects import Photo
from persrep_ray.evaluate.photo_cache import PhotoCache, ViewFeatures
from persrep_ray.storage.files import File
from persrep_ray.tasks.dense import DensePrediction
from persrep_ray.tasks.features import evenly
from persrep_ray.tasks.find import MOST_PHOTOS, Finder, Sample, fit_finder
from persrep_ray.tasks.keypoints import LEAST_KEYPOINTS, GeometricMatch, KeypointModel, chosen_photos
from persrep_ray.tasks.metrics import Side
from persrep_ray.tasks.model import ObjectModel
from persrep_ray.tasks.recognize import Recognizer

_OTHERS = 8  # objects whose photos say which keypoints are not the object's alone


class LabelledImage(NamedTuple):
    """A synthetic image (H, W, 3) uint8 and the mask (H, W) bool of what it shows."""

    image: np.ndarray
    mask: np.ndarray


def samples_of(cache: PhotoCache, images: Sequence[LabelledImage], features: ViewFeatures) -> list[Sample]:
    """What the standard views of `images`, whose features are given, tell a finder."""
    samples = []
    for one, patches in zip(images, features.patches, strict=True):
        mask = np.repeat(one.mask[:, :, None].astype(np.uint8) * 255, 3, axis=2)
        samples.append(Sample(cache.standard(one.image), patches, cache.standard(mask)[:, :, 0] > 127))
    return samples


def keypoints_of(
    cache: PhotoCache, photos: Sequence[tuple[Photo, np.ndarray]], others: Sequence[Sequence[Photo]]
) -> KeypointModel | None:
    """The keypoints of train photos with their masks, less what photos of `others`, a few other objects, share.

    None if there are too few to find anything.
    """
    if not photos:
        return None
    # Only those that the model keeps: all images of hundreds of photos take gigabytes.
    photos = [photos[index] for index in chosen_photos(len(photos))]
    images = [cache.image(photo) for photo, _ in photos]
    masks = [
        cv2.resize(mask.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
        for image, (_, mask) in zip(images, photos, strict=True)
    ]
    scenes = [[cache.keypoints(photo) for photo in cache.readable(one[:1], None)] for one in others[:_OTHERS]]
    model = KeypointModel.fit(images, masks, scenes)
    return model if len(model) >= LEAST_KEYPOINTS else None


def fit(
    cache: PhotoCache,
    side: Side,
    photos: Sequence[tuple[Photo, np.ndarray]],
    synthetic: Sequence[Sample],
    recognizer: Recognizer,
    rows: Mapping[File, int],
) -> Finder:
    """The finder of one side, from train photos with their masks. Of many photos, it takes some, spread evenly.

    `rows` says which of the recognizer's photos is which.

    The features of the photos are exact, so that the same inputs give the same bytes whatever is in the cache. Raises
    `DiscriminantError` if there is nothing to tell the object from.
    """
    spread = evenly(len(photos), MOST_PHOTOS)
    known = [
        Sample(cache.image(photo), cache.exact_patches(photo, adapted=side == "personalized"), mask)
        for photo, mask in (photos[index] for index in spread)
    ]
    rows_of = [rows.get(photos[index][0].path) for index in spread]

    def recognise(crops: Sequence[np.ndarray], cut_from: int | None) -> np.ndarray:
        without = None if cut_from is None else rows_of[cut_from]
        return recognizer.likeness(cache.of_images(crops, [side])[side].cls, without=without)

    return fit_finder(known, synthetic, recognise)


def find(
    cache: PhotoCache,
    side: Side,
    model: ObjectModel,
    photo: Photo,
    patches: np.ndarray,
    matches: Sequence[GeometricMatch],
) -> DensePrediction:
    """What the model's finder finds on `photo`, whose dense view has the features `patches` (h, w, D).

    `matches` are what the model's keypoints find on it.
    """
    assert model.finder is not None
    image = cache.image(photo)
    proposals = model.finder.propose(image, patches, matches)
    crops = model.finder.crops(image, proposals)
    looks = model.recognizer.likeness(cache.of_images(crops, [side])[side].cls) if crops else np.empty(0)
    return model.finder.decide(image, proposals, looks)
