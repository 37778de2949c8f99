"""Chunks of pasted images, from the run's photos and masks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from persrep_ray.config import RunConfig
from persrep_ray.data.distractors import choose_distractors
from persrep_ray.data.images import read_mask, read_rgb
from persrep_ray.data.lru import Lru
from persrep_ray.data.objects import Manifest
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.cut_paste.backgrounds import Backgrounds
from persrep_ray.generate.cut_paste.composer import Composer
from persrep_ray.generate.cut_paste.cutouts import Cutout, make_cutout
from persrep_ray.generate.cut_paste.photos import PhotoPool
from persrep_ray.generate.types import Chunk, SyntheticImage
from persrep_ray.generate.workers import ChunkWorker
from persrep_ray.storage.files import File

_CUTOUTS_KEPT = 512  # about 0.5 MB each at the default size


class UserPhotos(NamedTuple):
    """Photos to paste onto (without any, scenes are procedural), and photos that half of the negatives are crops of."""

    backgrounds: Sequence[File] = ()
    negatives: Sequence[File] = ()


class CutPasteWorker(ChunkWorker):
    """Composes chunks. It keeps the cutouts that it used last, because the objects of a run share them as negatives."""

    def __init__(self, config: RunConfig, manifest: Manifest, folder: RunFolder, photos: UserPhotos) -> None:
        super().__init__(folder)
        self._config = config
        self._objects = {one.object_id: one for one in manifest.objects.values() if one.train}
        self._categories = {object_id: one.category for object_id, one in self._objects.items()}
        self._backgrounds = Backgrounds(photos.backgrounds, config.data)
        self._negatives = PhotoPool(photos.negatives, config.data)
        problems = (*self._backgrounds.problems, *self._negatives.problems)
        self._warnings += [f"{problem.path}: {problem.cause}" for problem in problems]
        self._cutouts: Lru[str, list[Cutout]] = Lru(_CUTOUTS_KEPT, size=len)
        self._composers: Lru[str, Composer] = Lru(1)  # chunks come object by object

    def make(self, chunk: Chunk) -> tuple[list[SyntheticImage], dict[str, Any]]:
        composer = self._composers.get_or(chunk.object_id, lambda: self._composer(chunk.object_id))
        return composer.compose(chunk), {}

    def _composer(self, object_id: str) -> Composer:
        generate = self._config.generate
        others = choose_distractors(object_id, self._categories, generate.negative_objects, self._config.seed)
        cutouts = {}
        for one in (object_id, *others):
            cutouts[one] = self._cutouts.get_or(one, partial(self._cut_out, one))
        return Composer(generate, cutouts, self._categories, self._backgrounds, self._negatives, self._config.data)

    def _cut_out(self, object_id: str) -> list[Cutout]:
        """The object's cutouts; photos without a mask, or with one that is too small, have none."""
        limits, side = self._config.data, max(256, self._config.generate.image_size)
        cutouts = []
        for index, photo in enumerate(self._folder.masked_photos(self._objects[object_id])):
            if photo.mask is not None:
                image, mask = read_rgb(photo.path, limits), read_mask(photo.mask, limits)
                with suppress(ValueError):
                    cutouts.append(make_cutout(object_id, image, mask, photo=index, max_side=side))
        return cutouts
