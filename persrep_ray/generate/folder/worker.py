"""Chunks of images that the user already has.

<object>/positive/                     images of the object
<object>/positive_masks/<stem>.png     optional masks; the others are made as `masks.method` says
<object>/negative/                     images of other objects; without any, those in <category>/negative/
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from persrep_ray.config import RunConfig
from persrep_ray.data.images import ImageError, read_mask, read_mask_of, read_rgb
from persrep_ray.data.lru import Lru
from persrep_ray.data.objects import Manifest
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.data.tree import is_image
from persrep_ray.generate.types import Chunk, SyntheticImage, image_seed
from persrep_ray.generate.workers import ChunkWorker
from persrep_ray.masks.grabcut import MaskError
from persrep_ray.masks.images import ImageMasker
from persrep_ray.storage.files import File
from persrep_ray.storage.store import Store

if TYPE_CHECKING:
    from persrep_ray.masks.sam import SamReference

_LISTINGS_KEPT = 64  # of folders; those of categories are shared by their objects


class FolderWorker(ChunkWorker):
    """Reads chunks from the user's `store`. Images and masks that cannot be read become warnings."""

    def __init__(self, config: RunConfig, manifest: Manifest, folder: RunFolder, store: Store) -> None:
        super().__init__(folder)
        self._config = config
        self._objects = manifest.objects
        self._store = store
        self._masker = ImageMasker(config)
        self._listings: Lru[str, list[File]] = Lru(_LISTINGS_KEPT)
        self._references: Lru[str, SamReference | None] = Lru(1)  # chunks come object by object

    def make(self, chunk: Chunk) -> tuple[list[SyntheticImage], dict[str, Any]]:
        files = self._files(chunk)
        generate = self._config.generate
        wanted = generate.positives if chunk.role == "positive" else generate.negatives
        if len(files) > wanted + generate.calibration_images:
            self._warnings.append(
                f"generate.folder: there are more {chunk.role} images than generate.{chunk.role}s and "
                f"generate.calibration_images use ({wanted} + {generate.calibration_images} for each object)"
            )
        chosen = choose(files, wanted, generate.calibration_images)
        masks: dict[str, File] = {}
        if chunk.role == "positive":
            masks = {file.stem: file for file in self._listed(f"{chunk.object_id}/positive_masks/")}
        images = []
        for index in chunk.indices:
            if index in chosen:
                try:
                    images.append(self._image(chunk, index, chosen[index], masks.get(chosen[index].stem)))
                except ImageError as error:
                    self._warnings.append(str(error))
        return images, {}

    def _files(self, chunk: Chunk) -> list[File]:
        """All images of the object and role. Raises ValueError if there are none."""
        object_id, category = chunk.object_id, self._objects[chunk.object_id].category
        folders = [f"{object_id}/{chunk.role}/"]
        if chunk.role == "negative" and category is not None:
            folders.append(f"{category}/negative/")
        for folder in folders:
            if files := self._listed(folder):
                return files
        names = " or ".join(self._store.url(folder.rstrip("/")) for folder in folders)
        raise ValueError(f"object {object_id}: generate: there are no images in {names}")

    def _listed(self, folder: str) -> list[File]:
        """The images that lie directly in the folder."""

        def listed() -> list[File]:
            files = self._store.files(folder).items()
            direct = [file for key, file in files if "/" not in key.removeprefix(folder)]
            return [file for file in direct if (is_image(file) or not file.suffix) and not file.name.startswith(".")]

        return self._listings.get_or(folder, listed)

    def _image(self, chunk: Chunk, index: int, file: File, mask_file: File | None) -> SyntheticImage:
        """Raises ImageError if the image cannot be read."""
        original = read_rgb(file, self._config.data)
        height, width = original.shape[:2]
        scale = min(1.0, self._config.generate.image_size / min(height, width))
        size = round(width * scale), round(height * scale)
        image = cv2.resize(original, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        source_id, mask = file.stem, None
        if chunk.role == "positive":
            source_id = chunk.object_id
            if mask_file is not None:
                mask = self._given_mask(file, mask_file, size)
            if mask is None:
                mask = self._made_mask(chunk.object_id, image, file)
        if mask is None:
            mask = np.zeros(image.shape[:2], np.bool_)
        seed = image_seed(chunk.seed, chunk.object_id, chunk.role, index)
        return SyntheticImage(
            chunk.object_id, chunk.role, chunk.generator, None, seed, None, source_id, None, image, mask
        )

    def _given_mask(self, image: File, file: File, size: tuple[int, int]) -> NDArray[np.bool_] | None:
        """The user's mask of an image, scaled to `size` (w, h); None if it cannot be used."""
        try:
            mask = read_mask_of(image, file, self._config.data)
        except ImageError as error:
            self._warnings.append(str(error))
            return None
        return cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5

    def _made_mask(self, object_id: str, image: NDArray[np.uint8], file: File) -> NDArray[np.bool_] | None:
        """None if the image shows no foreground."""
        reference = self._references.get_or(object_id, lambda: self._reference(object_id))
        try:
            return self._masker.mask(image, reference)
        except MaskError as error:
            self._warnings.append(f"{file}: {error}; the image is used without a mask")
            return None

    def _reference(self, object_id: str) -> SamReference | None:
        """What SAM looks for: the object in its first photo with a mask that says something."""
        for photo in self._folder.masked_photos(self._objects[object_id]):
            if photo.mask is not None:
                with suppress(ImageError, MaskError):
                    image, mask = read_rgb(photo.path, self._config.data), read_mask(photo.mask, self._config.data)
                    return self._masker.refer(image, mask)
        return None


def choose(files: Sequence[File], training: int, calibration: int) -> dict[int, File]:
    """Which file is which image of an object, by the index of the image: `training` images, then `calibration` images.

    The files are taken in the order of a hash of their names, and none is used twice. If there are too few, both parts
    shrink alike, but to no less than an image each.
    """
    ordered = sorted(files, key=lambda file: hashlib.blake2b(file.name.encode()).digest())
    held_out = calibration
    if calibration and len(ordered) < training + calibration:
        held_out = min(max(1, round(len(ordered) * calibration / (training + calibration))), len(ordered) - 1)
    trained = min(training, len(ordered) - held_out)
    first = dict(enumerate(ordered[:trained]))
    return first | dict(enumerate(ordered[trained : trained + held_out], start=training))
