"""Views of photos and synthetic images, and their prefix output, computed once per view.

The prefix is frozen, so a view costs its share of the ViT once however often training draws it. The number of views is
what augmentation can vary; random subsets of patch tokens (`Batch`) vary the rest for free.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from persrep_ray.backbones.backbone import Backbone
from persrep_ray.config import DataConfig, ViewsConfig
from persrep_ray.data.images import read_rgb, standard_view
from persrep_ray.data.objects import Photo
from persrep_ray.generate.types import SyntheticImage

_BATCH = 16
_SYNTHETIC_CROP = 0.75


def augment(
    rng: np.random.Generator, image: NDArray[np.uint8], size: int, config: ViewsConfig, smallest_crop: float
) -> NDArray[np.uint8]:
    """A random crop (aspect ratio of the photo kept, so the square squashes it a little), rotation, flip and light.

    Args:
        smallest_crop: share of the picture's area that the smallest crop shows.

    Returns:
        (size, size, 3) uint8.
    """
    whole = np.array([image.shape[1], image.shape[0]], dtype=float)
    crop = whole * np.sqrt(rng.uniform(smallest_crop, 1.0))
    centre = whole / 2 + rng.uniform(-0.5, 0.5, 2) * (whole - crop)
    angle = np.deg2rad(rng.uniform(-config.rotation, config.rotation))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # Shrink first: warpAffine samples single pixels, and would alias where a view is much smaller than the photo.
    factor = max(1.0, float(crop.min()) / size)
    if factor > 1:
        smaller = cv2.resize(image, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
        image = smaller.astype(np.uint8)
    # From the view's pixels to the photo's; pixel centres lie at +0.5 in both.
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
    """Makes views and keeps those of photos, because the objects of a run share them as negatives.

    Views of a photo depend on the seed and the photo's object and name alone, so what is cached never changes a result.
    At most `cached_photos` photos are kept, the least recently used go first. All results are (V, T, D) prefix outputs
    in the backbone's cache type.
    """

    def __init__(self, backbone: Backbone, config: ViewsConfig, limits: DataConfig, *, size: int, seed: int) -> None:
        self._backbone = backbone
        self._config = config
        self._limits = limits
        self._size = backbone.whole_patches(size)
        self._seed = seed
        self._photos: OrderedDict[Photo, torch.Tensor] = OrderedDict()

    def photo(self, photo: Photo) -> torch.Tensor:
        """The photo's standard view, then `config.per_photo` augmented ones."""
        if photo not in self._photos:
            image = read_rgb(photo.path, self._limits)
            key = f"{self._seed}/{photo.object_id}/{photo.path.name}"
            rng = np.random.default_rng(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big"))
            smallest = self._config.smallest_crop
            views = [augment(rng, image, self._size, self._config, smallest) for _ in range(self._config.per_photo)]
            self._photos[photo] = self._prefix([standard_view(image, self._size), *views])
            while len(self._photos) > self._config.cached_photos:
                self._photos.popitem(last=False)
        self._photos.move_to_end(photo)
        return self._photos[photo]

    def synthetic(self, images: Sequence[SyntheticImage]) -> torch.Tensor:
        """One view of each image; they vary by themselves, so the view changes little."""
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
