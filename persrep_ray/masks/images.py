"""The foreground mask of one image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from persrep_ray.config import RunConfig
from persrep_ray.masks.grabcut import mask_from_saliency

if TYPE_CHECKING:
    from persrep_ray.backbones.embedded import EmbeddedSaliency


class ImageMasker:
    """Masks images. The networks are loaded with the first image that needs them."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._saliency: EmbeddedSaliency | None = None

    def mask(self, image: NDArray[np.uint8], likeness: NDArray[np.float32] | None = None) -> NDArray[np.bool_]:
        """(H, W) bool: the foreground of `image` (H, W, 3). Raises `MaskError` where there is none.

        `likeness` (h, w) is a map over the squashed image of where the object is: SAM's prompt in place of the
        saliency. Saliency and GrabCut have no use for it.
        """
        return mask_from_saliency(image, self._salient(image), self._config.masks)

    def _salient(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self._saliency is None:
            from persrep_ray.backbones.embedded import EmbeddedSaliency  # seconds to import, and masks may all be given

            self._saliency = EmbeddedSaliency()
        (saliency,) = self._saliency([image])
        return saliency
