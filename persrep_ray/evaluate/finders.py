"""Finders (`tasks.find`) on the features of the photo cache: fitted to an object, and used on photos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from persrep_ray.data.objects import Photo
from persrep_ray.evaluate.photo_cache import PhotoCache, ViewFeatures
from persrep_ray.tasks.dense import DensePrediction
from persrep_ray.tasks.find import MOST_PHOTOS, Finder, Sample, fit_finder
from persrep_ray.tasks.keypoints import MOST_PHOTOS as KEYPOINT_PHOTOS
from persrep_ray.tasks.keypoints import KeypointModel
from persrep_ray.tasks.metrics import Side

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
) -> KeypointModel:
    """The keypoints of train photos with their masks, less what photos of `others`, a few other objects, share."""
    # Those that `KeypointModel.fit` would choose. All images of hundreds of photos take gigabytes.
    chosen = np.unique(np.linspace(0, len(photos) - 1, KEYPOINT_PHOTOS).round().astype(int))
    photos = [photos[index] for index in chosen]
    images = [cache.image(photo) for photo, _ in photos]
    masks = [
        cv2.resize(mask.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
        for image, (_, mask) in zip(images, photos, strict=True)
    ]
    scenes = [[cache.keypoints(photo) for photo in cache.readable(one[:1], None)] for one in others[:_OTHERS]]
    return KeypointModel.fit(images, masks, scenes)


def fit(
    cache: PhotoCache,
    side: Side,
    photos: Sequence[tuple[Photo, np.ndarray]],
    synthetic: Sequence[Sample],
    keypoints: KeypointModel,
) -> Finder:
    """The finder of one side, from train photos with their masks. Of many photos, it takes some, spread evenly.

    The features of the photos are exact, so that the same inputs give the same bytes whatever is in the cache. Raises
    `DiscriminantError` if there is nothing to tell the object from.
    """
    spread = np.linspace(0, len(photos) - 1, min(len(photos), MOST_PHOTOS)).round().astype(int)
    known = [
        Sample(cache.image(photo), cache.exact_patches(photo, adapted=side == "personalized"), mask)
        for photo, mask in (photos[index] for index in spread)
    ]
    return fit_finder(known, synthetic, lambda crops: cache.of_images(crops, [side])[side].cls, keypoints)


def find(cache: PhotoCache, side: Side, finder: Finder, photo: Photo, patches: np.ndarray) -> DensePrediction:
    """What `finder` finds on `photo`, whose dense view has the features `patches` (h, w, D)."""
    image = cache.image(photo)
    proposals = finder.propose(image, patches, cache.keypoints(photo) if finder.uses_keypoints else None)
    crops = finder.crops(image, proposals)
    cls = cache.of_images(crops, [side])[side].cls if crops else np.empty((0, patches.shape[-1]))
    return finder.decide(image, proposals, cls)
