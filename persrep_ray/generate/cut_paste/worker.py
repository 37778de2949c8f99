"""Chunks of pasted images, from the run's photos and masks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from persrep_ray.config import RunConfig
from persrep_ray.data.distractors import Neighbours
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
        self._manifest = manifest
        self._neighbours = Neighbours(manifest, config.generate.negative_objects, config.seed)
        self._backgrounds = Backgrounds(photos.backgrounds, config.data)
        self._negatives = PhotoPool(photos.negatives, config.data)
        problems = (*self._backgrounds.problems, *self._negatives.problems)
        self._warnings += [f"{problem.path}: {problem.cause}" for problem in problems]
        self._cutouts: Lru[tuple[str, tuple[int, ...]], list[Cutout]] = Lru(_CUTOUTS_KEPT, size=len)
        self._composers: Lru[str, Composer] = Lru(1)  # chunks come object by object

    def make(self, chunk: Chunk) -> tuple[list[SyntheticImage], dict[str, Any]]:
        composer = self._composers.get_or(chunk.object_id, lambda: self._composer(chunk.object_id))
        return composer.compose(chunk), {}

    def _composer(self, object_id: str) -> Composer:
        all_photos = tuple(range(len(self._neighbours.objects[object_id].train)))
        cutouts = {}
        for one, photos in {object_id: all_photos, **self._neighbours.of(object_id)}.items():
            cutouts[one] = self._cutouts.get_or((one, photos), partial(self._cut_out, one, photos))
        return Composer(
            self._config.generate,
            cutouts,
            self._neighbours.categories,
            self._backgrounds,
            self._negatives,
            self._config.data,
        )

    def _cut_out(self, object_id: str, photos: Sequence[int]) -> list[Cutout]:
        """The object's cutouts from these of its photos; a photo without a mask, or with a tiny one, has none."""
        limits, side = self._config.data, max(256, self._config.generate.image_size)
        source = self._neighbours.objects[object_id]
        masked = self._folder.masked_photos(source) if object_id in self._manifest.objects else source.train
        cutouts = []
        for index in photos:
            photo = masked[index]
            if photo.mask is not None:
                image, mask = read_rgb(photo.path, limits), read_mask(photo.mask, limits)
                with suppress(ValueError):
                    cutouts.append(make_cutout(object_id, image, mask, photo=index, max_side=side))
        return cutouts
