"""Views of photos and synthetic images, and their prefix output, computed once per view.

The prefix is frozen, so a view passes it once, however often training draws the view. Augmentation is therefore limited
to the number of views; random subsets of patches (`Batch`) add variation at no cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from persrep_ray.backbones.backbone import Backbone
from persrep_ray.config import DataConfig, ViewsConfig
from persrep_ray.data.images import read_rgb, standard_view
from persrep_ray.data.lru import Lru
from persrep_ray.data.objects import Photo
from persrep_ray.generate.types import SyntheticImage

_BATCH = 16
_SYNTHETIC_CROP = 0.75


def augment(
    rng: np.random.Generator, image: NDArray[np.uint8], size: int, config: ViewsConfig, smallest_crop: float
) -> NDArray[np.uint8]:
    """Crops, rotates, flips and lights `image` (H, W, 3) at random.

    The crop has the aspect ratio of the image, so a square view squashes it a little.

    Args:
        smallest_crop: the share of the image's area that the smallest crop shows.

    Returns:
        (size, size, 3) uint8.
    """
    whole = np.array([image.shape[1], image.shape[0]], dtype=float)
    crop = whole * np.sqrt(rng.uniform(smallest_crop, 1.0))
    centre = whole / 2 + rng.uniform(-0.5, 0.5, 2) * (whole - crop)
    angle = np.deg2rad(rng.uniform(-config.rotation, config.rotation))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # warpAffine samples single pixels and would alias if the view is much smaller than the image, so shrink it first.
    factor = max(1.0, float(crop.min()) / size)
    if factor > 1:
        smaller = cv2.resize(image, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
        image = smaller.astype(np.uint8)
    # This maps the view's pixels to the image's; pixel centres lie at +0.5 in both.
    back = turn @ np.diag(crop / size * [flip, 1.0]) / factor
    offset = centre / factor - back @ np.full(2, size / 2) + back @ np.full(2, 0.5) - 0.5
    view = cv2.warpAffine(
        image,
        np.column_stack([back, offset]),
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    gain = rng.uniform(1 - config.light, 1 + config.light) * rng.uniform(1 - config.light / 4, 1 + config.light / 4, 3)
    lit = view.astype(np.float32) * gain.astype(np.float32) + np.float32(rng.uniform(-80, 80) * config.light)
    return np.clip(lit, 0, 255).astype(np.uint8)


class ViewStore:
    """Makes views, and keeps those of photos, because the objects of a run share them as distractors.

    The views of a photo depend only on the seed, its object and its name, so the cache never changes a result. It keeps
    the views of at most `cached_photos` photos. All results are prefix outputs (V, T, D) in the backbone's cache type.
    """

    def __init__(self, backbone: Backbone, config: ViewsConfig, limits: DataConfig, *, size: int, seed: int) -> None:
        self._backbone = backbone
        self._config = config
        self._limits = limits
        self._size = backbone.whole_patches(size)
        self._seed = seed
        self._photos: Lru[Photo, torch.Tensor] = Lru(config.cached_photos)
        self._standard: Lru[Photo, torch.Tensor] = Lru(config.cached_photos)

    def photo(self, photo: Photo) -> torch.Tensor:
        """The photo's standard view, then `config.per_photo` augmented views."""
        return self._photos.get_or(photo, lambda: self._make(photo))

    def standard(self, photo: Photo) -> torch.Tensor:
        """The photo's standard view alone (T, D)."""
        return self._standard.get_or(
            photo, lambda: self._prefix([standard_view(read_rgb(photo.path, self._limits), self._size)])[0]
        )

    def _make(self, photo: Photo) -> torch.Tensor:
        image = read_rgb(photo.path, self._limits)
        key = f"{self._seed}/{photo.object_id}/{photo.path.name}"
        rng = np.random.default_rng(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big"))
        smallest = self._config.smallest_crop
        views = [augment(rng, image, self._size, self._config, smallest) for _ in range(self._config.per_photo)]
        return self._prefix([standard_view(image, self._size), *views])

    def synthetic(self, images: Sequence[SyntheticImage]) -> torch.Tensor:
        """One view of each image. Synthetic images vary already, so the views change them little."""
        return self._prefix(
            [
                augment(np.random.default_rng(one.seed), one.image, self._size, self._config, _SYNTHETIC_CROP)
                for one in images
            ]
        )

    def _prefix(self, views: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        parts = [
            self._backbone.prefix(self._backbone.pixels(views[start : start + _BATCH], self._size))
            for start in range(0, len(views), _BATCH)
        ]
        return torch.cat(parts) if parts else torch.empty(0, 0, 0)
