"""Scenes to paste objects into: the user's photos, or procedural scenes if there are none."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from persrep_ray.config import DataConfig
from persrep_ray.data.tree import Problem
from persrep_ray.generate.cut_paste.photometric import blur, tone
from persrep_ray.generate.cut_paste.photos import PhotoPool
from persrep_ray.generate.cut_paste.scenes import procedural
from persrep_ray.storage.files import File

_PROCEDURAL_SHARE = 0.15


class Backgrounds:
    """Draws backgrounds. Most are crops of the photos that can be read; without any, all are procedural.

    `problems` lists the photos that cannot be read.
    """

    def __init__(self, photos: Sequence[File], limits: DataConfig) -> None:
        self._photos = PhotoPool(photos, limits)
        self.problems: tuple[Problem, ...] = self._photos.problems

    def sample(self, rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
        """A background, (size, size, 3) uint8, that depends only on the state of `rng`."""
        if len(self._photos) == 0 or rng.random() < _PROCEDURAL_SHARE:
            return procedural(rng, size)
        image = self._photos.crop(rng, size)[1]
        table = np.stack([tone(1.0, 1.0, gain) for gain in rng.uniform(0.75, 1.2) * rng.uniform(0.95, 1.05, 3)], axis=1)
        image = cv2.LUT(image, table.reshape(256, 1, 3)).astype(np.uint8, copy=False)
        if rng.random() < 0.35:
            image = blur(image, size * rng.uniform(0.004, 0.025))
        return image
