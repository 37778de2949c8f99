"""The foreground mask of an image, by saliency and GrabCut or by SAM."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from persrep_ray.config import RunConfig
from persrep_ray.masks.grabcut import mask_from_saliency

if TYPE_CHECKING:
    import torch

    from persrep_ray.backbones.embedded import EmbeddedSaliency
    from persrep_ray.masks.sam import SamReference, SamSegmenter

_INWARDS = 8.0  # standard deviation of the blur, pixels of 224


class ImageMasker:
    """Masks images as `masks.method` says. The networks are loaded with the first image that needs them."""

    def __init__(self, config: RunConfig, device: torch.device | str = "cpu") -> None:
        """`device` is where SAM runs."""
        self._config = config.masks
        self._device = device

    @cached_property
    def _sam(self) -> SamSegmenter:
        """Raises `SamError` if the checkpoint cannot be loaded."""
        from persrep_ray.masks.sam import SamSegmenter  # takes seconds to import, and all masks may be given

        return SamSegmenter(self._config.sam, self._device)

    @cached_property
    def _saliency(self) -> EmbeddedSaliency:
        from persrep_ray.backbones.embedded import EmbeddedSaliency

        return EmbeddedSaliency()

    def refer(self, image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> SamReference | None:
        """What an image with its mask tells about an object; None if the method does not use it.

        Raises `MaskError` for a mask that tells nothing.
        """
        return None if self._config.method == "embedded" else self._sam.refer(self._sam.embed(image), mask)

    def mask(self, image: NDArray[np.uint8], reference: SamReference | None = None) -> NDArray[np.bool_]:
        """The foreground of `image` (H, W, 3), or what is like `reference` if that is given, as (H, W) bool.

        Raises `MaskError` if there is none.
        """
        if self._config.method == "embedded":
            return mask_from_saliency(image, self._salient(image), self._config)
        embedded = self._sam.embed(image)
        if reference is not None:
            return self._sam.segment_like(embedded, reference)
        return self._sam.segment(embedded, self._prompt(image))

    def _salient(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        (saliency,) = self._saliency([image])
        return saliency

    def _prompt(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The blurred saliency. Without the blur, its many nearly equal values could put the point at the edge."""
        return cv2.GaussianBlur(self._salient(image), (0, 0), _INWARDS).astype(np.float32, copy=False)
