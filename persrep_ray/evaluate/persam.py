"""The inference mode `persam` of the dense tasks: SAM (`masks.sam`), prompted by the similarities of the patches.

As in the reference implementation (arXiv 2412.16156, `downstream/perSAM.py`), a photo's similarity map comes from the
backbone, pretrained or personalized, and each of the two learns weights of SAM's scales from its map of the reference
photo. The prompts are those of PerSAM; the reference uses several points on the object and none off it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np

from persrep_ray.config import RunConfig
from persrep_ray.data.images import read_rgb
from persrep_ray.data.lru import Lru, nbytes
from persrep_ray.data.objects import Photo
from persrep_ray.masks.grabcut import MaskError
from persrep_ray.masks.sam import SamImage, SamSegmenter
from persrep_ray.storage.files import File
from persrep_ray.tasks.dense import Find


class PersamPhotos:
    """SAM on photos. It keeps at most `budget` bytes of embeddings, which depend on no adapter and no object.

    Raises:
        SamError: the checkpoint cannot be loaded.
    """

    def __init__(self, config: RunConfig, budget: int) -> None:
        self._sam = SamSegmenter(config.masks.sam)
        self._limits = config.data
        self._kept: Lru[File, SamImage] = Lru(budget, nbytes)

    def holds(self, photo: Photo) -> bool:
        """Whether the embedding of `photo` is kept."""
        return photo.path in self._kept

    def learn_weights(self, photo: Photo, similarity: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
        """The weights (3,) float32 that turn `similarity` (h, w) into `mask` (H, W) bool, both of `photo`.

        None if nothing is learned; the scale that SAM rates best is then used.
        """
        with suppress(MaskError):  # a flat map
            return self._sam.learn_weights(self._embedded(photo), similarity, mask)
        return None

    def find(self, photo: Photo, weights: np.ndarray | None) -> Find:
        """The inference mode on `photo`. If SAM cannot make a mask, nothing is found."""

        def find_here(similarity: np.ndarray, size: tuple[int, int]) -> np.ndarray:
            try:
                return self._sam.segment(replace(self._embedded(photo), size=size), similarity, weights)
            except MaskError:
                return np.zeros(size, dtype=bool)

        return find_here

    def _embedded(self, photo: Photo) -> SamImage:
        return self._kept.get_or(photo.path, lambda: self._sam.embed(read_rgb(photo.path, self._limits)))
