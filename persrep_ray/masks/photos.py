"""The foreground masks of an object's train photos: the user's own, else saliency and GrabCut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from persrep_ray.config import RunConfig
from persrep_ray.data.images import ImageError, read_mask, read_rgb
from persrep_ray.data.objects import Photo
from persrep_ray.masks.grabcut import MaskError
from persrep_ray.masks.images import ImageMasker


@dataclass(frozen=True)
class PhotoMasks:
    """`masks[i]` (H, W) bool belongs to photo i; None where it could not be made, and `problems` says why."""

    masks: list[NDArray[np.bool_] | None]
    problems: list[str]


class PhotoMasker:
    """Makes masks of photos."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._masker = ImageMasker(config)

    def __call__(self, photos: Sequence[Photo]) -> PhotoMasks:
        masks: list[NDArray[np.bool_] | None] = []
        problems: list[str] = []
        for photo in photos:
            try:
                masks.append(self._mask(photo))
            except (ImageError, MaskError) as error:
                masks.append(None)
                problems.append(f"{photo.path}: {str(error).removeprefix(f'{photo.path}: ')}")
        return PhotoMasks(masks, problems)

    def _mask(self, photo: Photo) -> NDArray[np.bool_]:
        if photo.mask is not None:
            return read_mask(photo.mask, self._config.data)
        return self._masker.mask(read_rgb(photo.path, self._config.data))
