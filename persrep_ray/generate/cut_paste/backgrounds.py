"""Scenes to paste objects into: photos from a folder, or procedural ones when there are none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from persrep_ray.config import DataConfig
from persrep_ray.data.objects import Problem
from persrep_ray.generate.cut_paste.photometric import blur, tone
from persrep_ray.generate.cut_paste.photos import PhotoPool
from persrep_ray.generate.cut_paste.scenes import procedural

_PROCEDURAL_SHARE = 0.15


class Backgrounds:
    """Draws backgrounds. With readable `paths` most are crops of those photos; without, all are procedural.

    `problems` lists the photos that could not be read.
    """

    def __init__(self, paths: Sequence[Path] = (), limits: DataConfig | None = None) -> None:
        self._photos = PhotoPool(paths, limits or DataConfig())
        self.problems: tuple[Problem, ...] = self._photos.problems

    def sample(self, rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
        """A background, (size, size, 3) uint8; a function of the generator's state alone."""
        if len(self._photos) == 0 or rng.random() < _PROCEDURAL_SHARE:
            return procedural(rng, size)
        picture = self._photos.crop(rng, size)[1]
        table = np.stack([tone(1.0, 1.0, gain) for gain in rng.uniform(0.75, 1.2) * rng.uniform(0.95, 1.05, 3)], axis=1)
        picture = cv2.LUT(picture, table.reshape(256, 1, 3)).astype(np.uint8, copy=False)
        if rng.random() < 0.35:
            picture = blur(picture, size * rng.uniform(0.004, 0.025))
        return picture
