"""The foreground mask of one image: by saliency and GrabCut, or by SAM."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from persrep_ray.config import RunConfig
from persrep_ray.masks.grabcut import mask_from_saliency

if TYPE_CHECKING:
    from persrep_ray.backbones.embedded import EmbeddedSaliency
    from persrep_ray.masks.sam import SamSegmenter

_INWARDS = 8.0  # standard deviation of the blur, pixels of 224


class ImageMasker:
    """Masks images as `masks.method` says. The networks are loaded with the first image that needs them."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config.masks

    @cached_property
    def sam(self) -> SamSegmenter:
        """Raises `SamError` where the checkpoint cannot be loaded."""
        from persrep_ray.masks.sam import SamSegmenter  # seconds to import, and masks may all be given

        return SamSegmenter(self._config.sam)

    @cached_property
    def _saliency(self) -> EmbeddedSaliency:
        from persrep_ray.backbones.embedded import EmbeddedSaliency

        return EmbeddedSaliency()

    def mask(self, image: NDArray[np.uint8], likeness: NDArray[np.float32] | None = None) -> NDArray[np.bool_]:
        """(H, W) bool: the foreground of `image` (H, W, 3). Raises `MaskError` where there is none.

        `likeness` (h, w) is a map over the image, at any resolution, of where the object is: it prompts SAM in place of
        the saliency. Saliency and GrabCut have no use for it.
        """
        if self._config.method == "embedded":
            return mask_from_saliency(image, self._salient(image), self._config)
        return self.sam.segment(self.sam.embed(image), self._prompt(image) if likeness is None else likeness)

    def _salient(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        (saliency,) = self._saliency([image])
        return saliency

    def _prompt(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The saliency, blurred: its many nearly equal values would else put the point anywhere, at the edge too."""
        return cv2.GaussianBlur(self._salient(image), (0, 0), _INWARDS).astype(np.float32, copy=False)
