"""Does an image show the object's parts? Patch by patch, wherever in the image they are.

A patch of the object's photos has a best match in every image. How good that is says little by itself: eyes and straps
match in many images. So each patch is measured against its best matches in a cohort, images of other objects, and what
counts is by how much the image exceeds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from persrep_ray.tasks.features import evenly, finite_array, from_int8, stored_array, to_int8
from persrep_ray.tasks.whitening import Whitening

MOST_PATCHES = 96
"""How many patches of an object are kept, evenly from its photos; each takes 0.4 kB (384 dimensions of 8 bits)."""

MOST_PHOTOS = 8
"""How many photos they are taken from."""

_NEAREST = 3  # of the cohort: the mean of these best matches is what an image must exceed
_LEAST_COVERED = 8  # patches; a smaller mask says too little, and the whole photo is taken
_BATCH = 64  # images


@dataclass(frozen=True)
class PatchModel:
    """The K patches of an object, whitened and of unit length, from P photos.

    `photos` (K,) int32 are the indices of their photos, and `base` (K,) the best matches in the cohort.
    """

    whitening: Whitening
    patches: np.ndarray
    photos: np.ndarray
    base: np.ndarray

    @classmethod
    def fit(cls, photos: np.ndarray, masks: Sequence[np.ndarray | None], others: np.ndarray) -> PatchModel:
        """The model without a cohort, which `against` adds.

        Args:
            photos: the patch features (T, h, w, D) of the object's photos.
            masks: for each photo, which patches (h, w) bool show the object; None is all.
            others: patch features (N, h, w, D) of other images, from which the whitening is found, too.
        """
        if not np.isfinite(photos).all():
            raise ValueError("the patches of the train photos are not finite")
        chosen = evenly(len(photos), MOST_PHOTOS)
        covered = []
        for index in chosen:
            mask = masks[index]
            rows = photos[index].reshape(-1, photos.shape[-1])
            covered.append(rows if mask is None or mask.sum() < _LEAST_COVERED else rows[mask.ravel()])
        width = photos.shape[-1]
        whitening = Whitening.total(np.concatenate([*covered, others.reshape(-1, width)[::5]]))
        most = MOST_PATCHES // len(chosen)
        kept = [rows[evenly(len(rows), most)] for rows in covered]
        owners = np.repeat(chosen, [len(rows) for rows in kept]).astype(np.int32)
        patches = from_int8(to_int8(whitening(np.concatenate(kept))))  # as they are stored
        return cls(whitening, patches, owners, np.zeros(len(owners), np.float32))

    def matches(self, images: np.ndarray) -> np.ndarray:
        """The cosine (N, K) of each patch to its best match in each image, given patch features (N, h, w, D)."""
        found = np.empty((len(images), len(self.patches)), np.float32)
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH]
            rows = self.whitening(part.reshape(-1, part.shape[-1]))
            found[start : start + _BATCH] = (rows @ self.patches.T).reshape(len(part), -1, len(self.patches)).max(1)
        return found

    def against(self, cohort: np.ndarray) -> PatchModel:
        """The model that compares with a cohort, given its `matches` (N, K). Without a cohort, it compares with 0."""
        if not len(cohort):
            return replace(self, base=np.zeros(len(self.patches), np.float32))
        return replace(self, base=np.sort(cohort, axis=0)[-_NEAREST:].mean(axis=0))

    def scores(self, matches: np.ndarray, without: int | None = None) -> np.ndarray:
        """The score (N,) of images with these `matches` (N, K): that of the photo they are most like.

        The photo `without` does not count; the rest must not be empty.
        """
        over = matches - self.base
        photos = [index for index in np.unique(self.photos) if index != without]
        best: np.ndarray = np.stack([over[:, self.photos == index].mean(axis=1) for index in photos]).max(axis=0)
        return best

    @property
    def nbytes(self) -> int:
        return self.whitening.nbytes + self.patches.nbytes + self.photos.nbytes + self.base.nbytes

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The model as arrays, which `from_arrays` reads."""
        patches = to_int8(self.patches)
        return {**self.whitening.to_arrays(), "patches": patches, "photos": self.photos, "base": self.base}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], group: str) -> PatchModel:
        """The model that `to_arrays` gave. Raises ValueError unless the arrays are such a model's."""
        whitening = Whitening.from_arrays(arrays, group)
        patches = from_int8(stored_array(arrays, group, "patches", np.int8, (None, len(whitening.mean))))
        if not 1 <= len(patches) <= MOST_PATCHES:
            raise ValueError(f"{group}.patches has {len(patches)} rows, not 1 to {MOST_PATCHES}")
        photos = stored_array(arrays, group, "photos", np.int32, (len(patches),))
        return cls(whitening, patches, photos, finite_array(arrays, group, "base", np.float32, (len(patches),)))
