"""The inference mode `persam` of the dense tasks: SAM (`masks.sam`), prompted by the similarities of the patches.

As in the reference implementation (arXiv 2412.16156, `downstream/perSAM.py`), a photo's similarity map comes from the
backbone, adapted or not, and the weights of SAM's scales are learned for either from its map of the reference photo.
The prompts are PerSAM's own: there, they are several points on the object and none off it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np

from persrep_ray.config import RunConfig
from persrep_ray.data.images import read_rgb
from persrep_ray.data.lru import ByteLru
from persrep_ray.data.objects import Photo
from persrep_ray.masks.grabcut import MaskError
from persrep_ray.masks.sam import SamImage, SamSegmenter
from persrep_ray.tasks.dense import Find


class PersamPhotos:
    """SAM on photos. Its embeddings depend on no adapter and no object: they are kept, at most `budget` bytes of them.

    Raises:
        SamError: the checkpoint cannot be loaded.
    """

    def __init__(self, config: RunConfig, budget: int) -> None:
        self._sam = SamSegmenter(config.masks.sam)
        self._limits = config.data
        self._kept: ByteLru[SamImage] = ByteLru(budget)

    def holds(self, photo: Photo) -> bool:
        """Whether the embedding of `photo` is kept."""
        return photo.path in self._kept

    def learn_weights(self, photo: Photo, similarity: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
        """(3,) float32: the weights that turn `similarity` (h, w) into `mask` (H, W) bool, both of `photo`.

        None where none are learned: SAM's best-rated scale is then taken.
        """
        with suppress(MaskError):  # a map that says nothing of a photo
            return self._sam.learn_weights(self._embedded(photo), similarity, mask)
        return None

    def find(self, photo: Photo, weights: np.ndarray | None) -> Find:
        """The inference mode on `photo`. A mask that SAM cannot make is empty: nothing is found."""

        def find_here(similarity: np.ndarray, size: tuple[int, int]) -> np.ndarray:
            try:
                return self._sam.segment(replace(self._embedded(photo), size=size), similarity, weights)
            except MaskError:
                return np.zeros(size, dtype=bool)

        return find_here

    def _embedded(self, photo: Photo) -> SamImage:
        embedded = self._kept.get(photo.path)
        if embedded is None:
            embedded = self._sam.embed(read_rgb(photo.path, self._limits))
            self._kept.put(photo.path, embedded)
        return embedded
