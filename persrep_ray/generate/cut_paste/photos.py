"""A pool of photos, kept small and encoded, so that many fit into memory and a draw takes a millisecond or two."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from persrep_ray.config import DataConfig
from persrep_ray.data.images import ImageError, decode_rgb, encode_jpeg, read_rgb
from persrep_ray.data.tree import Problem
from persrep_ray.storage.files import File


class PhotoPool:
    """Photos reduced to a shorter side of `side` px; those that cannot be read are listed in `problems` and left out.

    Every photo is decoded once here, so at most `most` of them are read: an even choice, by a hash of the file name.
    """

    def __init__(self, files: Sequence[File], limits: DataConfig, side: int = 384, most: int = 256) -> None:
        chosen = sorted(files, key=lambda file: (hashlib.blake2b(file.name.encode()).digest(), str(file)))[:most]
        photos: list[tuple[str, bytes]] = []
        problems: list[Problem] = []
        for file in chosen:
            try:
                photos.append((file.stem, encode_jpeg(_reduce(read_rgb(file, limits), side))))
            except ImageError as error:
                problems.append(Problem(None, file, str(error).removeprefix(f"{file}: ")))
        self.problems: tuple[Problem, ...] = tuple(problems)
        self._photos = tuple(photos)
        self._limits = limits

    def __len__(self) -> int:
        return len(self._photos)

    def crop(self, rng: np.random.Generator, size: int, smallest: float = 0.5) -> tuple[str, NDArray[np.uint8]]:
        """The file stem of a random photo and a random square crop of it, perhaps mirrored: (size, size, 3) uint8.

        The side of the crop is `smallest` to 1 times the shorter side. Raises ValueError if the pool is empty.
        """
        if not self._photos:
            raise ValueError("no readable photo to crop from")
        stem, data = self._photos[rng.integers(len(self._photos))]
        photo = decode_rgb(data, self._limits, stem)
        height, width = photo.shape[:2]
        side = max(1, round(min(height, width) * rng.uniform(smallest, 1.0)))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        crop = photo[top : top + side, left : left + side]
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
        resized = cv2.resize(np.ascontiguousarray(crop), (size, size), interpolation=method)
        return stem, resized.astype(np.uint8, copy=False)


def _reduce(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = side / min(height, width)
    if scale >= 1.0:
        return image
    size = max(side, round(width * scale)), max(side, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
