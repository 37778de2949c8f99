"""One chunk of synthetic images, from the run's photos and masks to a shard."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from persrep_ray.config import RunConfig
from persrep_ray.data.distractors import choose_distractors
from persrep_ray.data.images import read_mask, read_rgb
from persrep_ray.data.objects import Manifest, Photo
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.cut_paste.backgrounds import Backgrounds
from persrep_ray.generate.cut_paste.cutouts import Cutout, make_cutout
from persrep_ray.generate.cut_paste.generator import CutPaste
from persrep_ray.generate.shards import write_shard
from persrep_ray.generate.types import Chunk

_CUTOUTS_KEPT = 512  # about 0.5 MB each at the default size


class ChunkGenerator:
    """Generates chunks; keeps the cutouts it used last, because the objects of a run share them as negatives.

    Args:
        backgrounds: photos to paste onto; none: procedural scenes.
        negatives: photos that half of the negatives are crops of; may be none.
    """

    def __init__(
        self,
        config: RunConfig,
        manifest: Manifest,
        folder: RunFolder,
        backgrounds: Sequence[Path] = (),
        negatives: Sequence[Path] = (),
    ) -> None:
        self._config = config
        self._folder = folder
        self._objects = {one.object_id: one for one in manifest.objects.values() if one.train}
        self._categories = {object_id: one.category for object_id, one in self._objects.items()}
        self._backgrounds = Backgrounds(backgrounds, config.data)
        self._negatives = tuple(negatives)
        self._cutouts: OrderedDict[Photo, Cutout | None] = OrderedDict()
        self._generator: tuple[str, CutPaste] | None = None  # of the object at hand: chunks come object by object

    def write(self, request: Chunk) -> float:
        """Generates the chunk into its shard; returns the seconds it took. The same request, the same images."""
        started = time.monotonic()
        images = self._generator_of(request.object_id).generate(request)
        seconds = time.monotonic() - started
        write_shard(self._folder.shard(request), images, {"seconds": seconds})
        return seconds

    def _generator_of(self, object_id: str) -> CutPaste:
        if self._generator is None or self._generator[0] != object_id:
            generate = self._config.generate
            others = choose_distractors(object_id, self._categories, generate.negative_objects, self._config.seed)
            self._generator = (
                object_id,
                CutPaste(
                    generate,
                    {one: self._cutouts_of(one) for one in (object_id, *others)},
                    self._categories,
                    self._backgrounds,
                    self._negatives,
                    self._config.data,
                ),
            )
        return self._generator[1]

    def _cutouts_of(self, object_id: str) -> list[Cutout]:
        photos = self._folder.masked_photos(self._objects[object_id])
        cutouts = [self._cutout(photo, index) for index, photo in enumerate(photos) if photo.mask is not None]
        return [cutout for cutout in cutouts if cutout is not None]

    def _cutout(self, photo: Photo, index: int) -> Cutout | None:
        """The cutout of the object's train photo number `index`; None where its mask is too small."""
        if photo not in self._cutouts:
            assert photo.mask is not None
            image, mask = read_rgb(photo.path, self._config.data), read_mask(photo.mask, self._config.data)
            side = max(256, self._config.generate.image_size)
            try:
                cutout = make_cutout(photo.object_id, image, mask, photo=index, max_side=side)
            except ValueError:
                cutout = None
            self._cutouts[photo] = cutout
            while len(self._cutouts) > _CUTOUTS_KEPT:
                self._cutouts.popitem(last=False)
        self._cutouts.move_to_end(photo)
        return self._cutouts[photo]
