"""The foreground mask of an image, by the embedded ViT and GrabCut or by SAM."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from persrep_ray.config import RunConfig
from persrep_ray.masks.grabcut import mask_from_saliency
from persrep_ray.masks.probes import MaskProbes

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

    @cached_property
    def _probes(self) -> MaskProbes:
        return MaskProbes()

    def refer(self, image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> SamReference | None:
        """What an image with its mask tells about an object; None if the method does not use it.

        Raises `MaskError` for a mask that tells nothing.
        """
        return None if self._config.method == "embedded" else self._sam.refer(self._sam.embed(image), mask)

    def mask(self, image: NDArray[np.uint8], reference: SamReference | None = None) -> NDArray[np.bool_]:
        """The foreground of `image` (H, W, 3), or what is like `reference` if that is given, as (H, W) bool.

        A package that fills the image is its foreground as a whole, and a hand that holds something is not. Raises
        `MaskError` if there is no foreground.
        """
        if self._config.method == "embedded":
            saliency, patches = self.look(image)
            if self._probes.filled(patches):
                return np.ones(image.shape[:2], np.bool_)
            return mask_from_saliency(image, self._probes.without_hands(saliency, patches), self._config)
        embedded = self._sam.embed(image)
        if reference is not None:
            return self._sam.segment_like(embedded, reference)
        return self._sam.segment(embedded, self._prompt(image))

    def look(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The saliency (h, w) of `image` and the patches (P, D) that it is made of, see `EmbeddedSaliency.look`."""
        return self._saliency.look(image)

    def _prompt(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The blurred saliency. Without the blur, its many nearly equal values could put the point at the edge."""
        saliency, _ = self.look(image)
        return cv2.GaussianBlur(saliency, (0, 0), _INWARDS).astype(np.float32, copy=False)
