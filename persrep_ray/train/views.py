"""Views of photos and synthetic images, and their prefix output, computed once per view.

The prefix is frozen, so a view costs its share of the ViT once however often training draws it. The number of views is
what augmentation can vary; random subsets of patch tokens (`Batch`) vary the rest for free.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from persrep_ray.backbones.backbone import Backbone
from persrep_ray.config import DataConfig, ViewsConfig
from persrep_ray.data.images import read_mask, read_rgb, standard_view
from persrep_ray.data.objects import Photo
from persrep_ray.generate.types import SyntheticImage

_BATCH = 16


@dataclass(frozen=True)
class Views:
    """V views of one image, or of a list of images."""

    hidden: torch.Tensor  # (V, T, D) prefix output, in the backbone's cache type
    foreground: torch.Tensor  # (V, N) share of each patch that the object covers, 0..1; NaN where no mask is known

    def __len__(self) -> int:
        return len(self.hidden)


def join(views: Sequence[Views]) -> Views:
    return Views(torch.cat([v.hidden for v in views]), torch.cat([v.foreground for v in views]))


def augment(
    rng: np.random.Generator,
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_] | None,
    size: int,
    config: ViewsConfig,
    smallest_crop: float,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """A random crop (aspect ratio of the photo kept, so the square squashes it a little), rotation, flip and light.

    Args:
        smallest_crop: share of the picture's area that the smallest crop shows.

    Returns:
        (size, size, 3) uint8 and the mask moved alike.
    """
    height, width = image.shape[:2]
    side = np.sqrt(rng.uniform(smallest_crop, 1.0))
    crop = np.array([width * side, height * side])
    centre = np.array([width, height]) / 2 + rng.uniform(-0.5, 0.5, 2) * (np.array([width, height]) - crop)
    angle = np.deg2rad(rng.uniform(-config.rotation, config.rotation))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    back = turn @ np.diag(crop / size * [flip, 1.0])  # from the view's pixels to the photo's

    def matrix(shrunk: float) -> NDArray[np.float64]:
        # Pixel centres lie at +0.5 in both pictures.
        offset = centre - back @ np.full(2, (size - 1) / 2)
        return np.column_stack([back / shrunk, offset / shrunk - 0.5])

    # Shrink first: warpAffine samples single pixels, and would alias where a view is much smaller than the photo.
    factor = max(1.0, float(crop.min()) / size)
    if factor > 1:
        smaller = cv2.resize(image, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
        image = smaller.astype(np.uint8)
    inverse = cv2.WARP_INVERSE_MAP
    view = cv2.warpAffine(
        image, matrix(factor), (size, size), flags=cv2.INTER_LINEAR | inverse, borderMode=cv2.BORDER_REFLECT_101
    )
    moved = None
    if mask is not None:
        moved = cv2.warpAffine(mask.astype(np.uint8), matrix(1.0), (size, size), flags=cv2.INTER_NEAREST | inverse) > 0
    gain = rng.uniform(1 - config.light, 1 + config.light) * rng.uniform(1 - config.light / 4, 1 + config.light / 4, 3)
    lit = view.astype(np.float32) * gain.astype(np.float32) + np.float32(rng.uniform(-80, 80) * config.light)
    return np.clip(lit, 0, 255).astype(np.uint8), moved


class ViewStore:
    """Makes views and keeps those of photos, because the objects of a run share them as negatives.

    Views of a photo depend on the seed and the photo's object and name alone, so what is cached never changes a result.
    At most `most_photos` photos are kept, the least recently used go first.
    """

    def __init__(self, backbone: Backbone, config: ViewsConfig, limits: DataConfig, *, size: int, seed: int) -> None:
        self._backbone = backbone
        self._config = config
        self._limits = limits
        self._size = max(1, size // backbone.patch_size) * backbone.patch_size
        self._grid = self._size // backbone.patch_size
        self._seed = seed
        self._photos: OrderedDict[Photo, Views] = OrderedDict()

    def photo(self, photo: Photo) -> Views:
        """The photo's standard view, then `config.per_photo` augmented ones."""
        if photo not in self._photos:
            image = read_rgb(photo.path, self._limits)
            mask = None if photo.mask is None else read_mask(photo.mask, self._limits)
            key = f"{self._seed}/{photo.object_id}/{photo.path.name}"
            rng = np.random.default_rng(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big"))
            standard = standard_view(image, self._size)
            standard_mask = None if mask is None else standard_view(np.dstack([mask * np.uint8(255)] * 3), self._size)
            made = [(standard, None if standard_mask is None else standard_mask[..., 0] > 127)]
            for _ in range(self._config.per_photo):
                made.append(augment(rng, image, mask, self._size, self._config, self._config.smallest_crop))
            self._photos[photo] = self._views(made)
            while len(self._photos) > self._config.cached_photos:
                self._photos.popitem(last=False)
        self._photos.move_to_end(photo)
        return self._photos[photo]

    def synthetic(self, images: Sequence[SyntheticImage]) -> Views:
        """One view of each image; they vary by themselves, so the view changes little."""
        made = []
        for synthetic in images:
            rng = np.random.default_rng(synthetic.seed)
            made.append(augment(rng, synthetic.image, synthetic.mask, self._size, self._config, 0.75))
        return self._views(made)

    def _views(self, made: Sequence[tuple[NDArray[np.uint8], NDArray[np.bool_] | None]]) -> Views:
        hidden, foreground = [], []
        for start in range(0, len(made), _BATCH):
            pixels = self._backbone.pixels([image for image, _ in made[start : start + _BATCH]], self._size)
            hidden.append(self._backbone.prefix(pixels))
        for _, mask in made:
            if mask is None:
                foreground.append(torch.full((self._grid**2,), torch.nan))
            else:
                share = cv2.resize(mask.astype(np.float32), (self._grid, self._grid), interpolation=cv2.INTER_AREA)
                foreground.append(torch.from_numpy(share).flatten())
        return Views(torch.cat(hidden), torch.stack(foreground))
