"""Samples the images of objects from the text-to-image model, with the weights that fine-tuning left in the run folder.

Negatives are what the untouched model draws for the object's category.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from persrep_ray.data.distractors import choose_distractors
from persrep_ray.data.images import read_rgb
from persrep_ray.data.lru import Lru
from persrep_ray.data.objects import ObjectPhotos
from persrep_ray.generate.dreambooth.diffusion.model import DiffusionModel
from persrep_ray.generate.dreambooth.diffusion.sampling import Sampler, Shot
from persrep_ray.generate.dreambooth.filter import LikenessFilter, Match, cut_out
from persrep_ray.generate.dreambooth.filter_report import FilterReport
from persrep_ray.generate.dreambooth.run import DreamBoothRun, MaskedImage
from persrep_ray.generate.types import Chunk, SyntheticImage, image_seed, seed_of

_CLASS_IMAGES_COMPARED = 16
_CUTOUTS_KEPT = 512  # 0.2 MB each at most


class ObjectSampler:
    """Samples images of one object after another. The model is loaded once, and each object's weights swapped in.

    A positive is the first of at most `generate.filter.max_tries` images that the filter accepts; if it accepts none,
    the positive is left out. The `source_id` of a negative is the category.
    """

    def __init__(self, run: DreamBoothRun) -> None:
        config = run.config
        self._run = run
        self._model = DiffusionModel(config.generate.dreambooth, run.device)
        self._sampler = Sampler(self._model, config.generate.sampling, run.warn)
        self._objects = run.manifest.objects
        self._categories = {one.object_id: one.category for one in self._objects.values() if one.train}
        self._filter = LikenessFilter(config, run.device)
        self._cutouts: Lru[str, MaskedImage | None] = Lru(_CUTOUTS_KEPT)
        self._object = ""  # the object whose weights and photos are loaded

    def sample(self, chunk: Chunk) -> tuple[list[SyntheticImage], FilterReport]:
        """The images of the chunk in the order of their index, without rejected positives, and what was rejected.

        Raises ValueError, which names the object: no prompts, weights that do not fit.
        """
        photos = self._objects[chunk.object_id]
        if chunk.role == "negative":
            return self._negatives(chunk, photos.category), FilterReport()
        self._set_object(photos)
        return self._positives(chunk, self._run.prompts.positives(chunk.object_id, photos.category))

    def _negatives(self, chunk: Chunk, category: str | None) -> list[SyntheticImage]:
        prompts = self._run.prompts.negatives(category)
        shots = [self._shot(chunk, prompts, index) for index in chunk.indices]
        with self._model.pretrained():
            images = self._sampler.draw(shots)
        source = category or self._run.config.generate.dreambooth.category or ""
        return [
            self._image(chunk, source, shot, image, Match(None, None))
            for shot, image in zip(shots, images, strict=True)
        ]

    def _positives(self, chunk: Chunk, prompts: Sequence[str]) -> tuple[list[SyntheticImage], FilterReport]:
        accepted: dict[int, SyntheticImage] = {}
        report = FilterReport()
        for attempt in range(self._run.config.generate.filter.max_tries):
            pending = [index for index in chunk.indices if index not in accepted]
            shots = [self._shot(chunk, prompts, index, attempt) for index in pending]
            images = self._sampler.draw(shots)
            matches = self._filter.match(images)
            for index, shot, image, match in zip(pending, shots, images, matches, strict=True):
                passes = self._filter.accepts(match)
                report.add(shot.prompt, match.score, accepted=passes)
                if passes:
                    accepted[index] = self._image(chunk, chunk.object_id, shot, image, match)
        return [accepted[index] for index in sorted(accepted)], report

    def _shot(self, chunk: Chunk, prompts: Sequence[str], index: int, attempt: int = 0) -> Shot:
        """First attempts take all prompts in turn, in an order that depends on the object; later attempts draw one."""
        seed = image_seed(chunk.seed, chunk.object_id, chunk.role, index)
        if attempt:
            seed = seed_of(seed, attempt)
        rng = np.random.default_rng(seed)
        guidance = float(rng.choice(self._run.config.generate.sampling.guidance))
        if attempt:
            return Shot(prompts[int(rng.integers(len(prompts)))], seed, guidance)
        of_object = np.random.default_rng(seed_of(chunk.seed, chunk.object_id, chunk.role, "prompts"))
        return Shot(prompts[of_object.permutation(len(prompts))[index % len(prompts)]], seed, guidance)

    def _set_object(self, photos: ObjectPhotos) -> None:
        object_id, folder = photos.object_id, self._run.folder
        if self._object == object_id:
            return
        self._object = ""  # if what follows fails, neither the old object nor the new one is loaded
        self._model.load(folder.store.local_copy(folder.weights(object_id)))
        self._filter.set_object(list(self._run.masked_photos(object_id)), self._distractors(photos))
        self._object = object_id

    def _distractors(self, photos: ObjectPhotos) -> list[MaskedImage]:
        """A photo of each of some other objects of the run; without any, class images of the object's category."""
        config, folder = self._run.config, self._run.folder
        most = config.generate.negative_objects
        ids = choose_distractors(photos.object_id, self._categories, most, config.seed)
        found = [cutout for other in ids if (cutout := self._cutout(other)) is not None]
        if found:
            return found
        files = folder.store.files(folder.class_images(self._run.prompts.class_prompt(photos.category)))
        some = list(files.values())[:_CLASS_IMAGES_COMPARED]
        return self._filter.masked([read_rgb(file, config.data) for file in some])

    def _cutout(self, object_id: str) -> MaskedImage | None:
        """The cutout of an object's first photo with a mask. Many objects share their distractors."""

        def make() -> MaskedImage | None:
            found = next(self._run.masked_photos(object_id), None)
            return None if found is None else cut_out(*found)

        return self._cutouts.get_or(object_id, make)

    def _image(self, chunk: Chunk, source: str, shot: Shot, sampled: NDArray[np.uint8], match: Match) -> SyntheticImage:
        """What was `sampled` (S, S, 3), at the size of the run."""
        side = self._run.config.generate.image_size
        method = cv2.INTER_AREA if side < len(sampled) else cv2.INTER_CUBIC
        image = cv2.resize(sampled, (side, side), interpolation=method).astype(np.uint8, copy=False)
        mask: NDArray[np.bool_] = np.zeros((side, side), np.bool_)
        if match.mask is not None:
            mask = cv2.resize(match.mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA) > 0.5
        return SyntheticImage(
            chunk.object_id,
            chunk.role,
            chunk.generator,
            shot.prompt,
            shot.seed,
            match.score,
            source,
            None,
            image,
            mask,
        )
