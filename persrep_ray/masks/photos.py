"""The foreground masks of an object's train photos: the user's own, else saliency and GrabCut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from persrep_ray.config import RunConfig
from persrep_ray.data.images import ImageError, read_mask, read_rgb
from persrep_ray.data.objects import Photo
from persrep_ray.masks.grabcut import MaskError, mask_from_saliency

if TYPE_CHECKING:
    from persrep_ray.backbones.embedded import EmbeddedSaliency


@dataclass(frozen=True)
class PhotoMasks:
    """`masks[i]` (H, W) bool belongs to photo i; None where it could not be made, and `problems` says why."""

    masks: list[NDArray[np.bool_] | None]
    problems: list[str]


class PhotoMasker:
    """Makes masks. The saliency network is loaded with the first photo that needs it."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._saliency: EmbeddedSaliency | None = None

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
        if self._saliency is None:
            from persrep_ray.backbones.embedded import EmbeddedSaliency  # seconds to import, and masks may all be given

            self._saliency = EmbeddedSaliency()
        image = read_rgb(photo.path, self._config.data)
        (saliency,) = self._saliency([image])
        return mask_from_saliency(image, saliency, self._config.masks)
