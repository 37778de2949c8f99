"""The generator `dreambooth`: a text-to-image model is fine-tuned to the object, then draws it in new scenes.

Two plain classes, so that the two kinds of work may sit on different machines: `ObjectFineTuner` writes an object's weights
into the run folder, `DreamBooth` takes them from there and draws. Negatives are what the untouched model draws for
the object's category.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from persrep_ray.config import RunConfig
from persrep_ray.config.versions import versions
from persrep_ray.data.distractors import choose_distractors
from persrep_ray.data.images import read_mask, read_rgb
from persrep_ray.data.objects import Manifest, ObjectPhotos
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.dreambooth.class_images import ClassImages
from persrep_ray.generate.dreambooth.diffusion.examples import make_examples
from persrep_ray.generate.dreambooth.diffusion.fine_tuning import Task, tune
from persrep_ray.generate.dreambooth.diffusion.loading import DiffusionError
from persrep_ray.generate.dreambooth.diffusion.model import DiffusionModel
from persrep_ray.generate.dreambooth.diffusion.sampling import Sampler, Shot
from persrep_ray.generate.dreambooth.filter import LikenessFilter, MaskedImage, Verdict, cut_out
from persrep_ray.generate.dreambooth.filter_report import FilterReport
from persrep_ray.generate.dreambooth.prompts.book import PromptSet
from persrep_ray.generate.types import Chunk, SyntheticImage, image_seed, seed_of

_CROPS = 4  # of each photo
_CLASS_IMAGES_COMPARED = 16
_CUTOUTS_KEPT = 512  # 0.2 MB each at most

Warn = Callable[[str], None]


class ObjectFineTuner:
    """Fine-tunes the model to one object of a run per call; the model is loaded once."""

    def __init__(
        self,
        config: RunConfig,
        manifest: Manifest,
        folder: RunFolder,
        book: PromptSet,
        warn: Warn,
        device: torch.device | str = "cpu",
    ) -> None:
        self._config = config
        self._objects = manifest.objects
        self._folder = folder
        self._book = book
        self._warn = warn
        self._model = DiffusionModel(config.generate.dreambooth, device, trains=True)
        self._model.latent_side(config.generate.sampling.size or config.generate.dreambooth.resolution)  # or it is late
        sampling = config.generate.sampling.model_copy(update={"size": config.generate.dreambooth.resolution})
        self._class_images = ClassImages(config, folder, self._model, Sampler(self._model, sampling, warn))

    def __call__(self, object_id: str) -> None:
        """Writes the object's weights and how they were made, whole or not at all; what exists is kept.

        Raises ValueError, which names the object: no category, no photo with a mask, a loss that is not finite.
        """
        target = self._folder.generator(object_id)
        if target.is_dir():
            return
        started = time.monotonic()
        one, seed = self._objects[object_id], seed_of(self._config.seed, object_id, "dreambooth")
        self._book.positives(object_id, one.category)  # what could not be drawn afterwards is not worth the hours
        prompt, class_prompt = self._book.instance(one.category), self._book.class_prompt(one.category)
        masked = self._config.generate.dreambooth.masked_loss
        photos = [(image, mask if masked else None) for image, mask in _masked(self._folder, one, self._config)]
        if not photos:
            raise DiffusionError(f"object {object_id}: generate: no photo has a mask")
        class_latents = self._class_images.latents(class_prompt, begin_at=seed)
        examples = make_examples(self._model, photos, crops=_CROPS, seed=seed)
        task = Task(f"object {object_id}", examples, prompt, class_latents, class_prompt, seed)
        tuned = tune(self._model, task, self._warn)
        report = {
            "object_id": object_id,
            "photos": [photo.path.name for photo in self._folder.masked_photos(one) if photo.mask is not None],
            "commit": self._model.commit,
            "prompt": prompt,
            "class_prompt": class_prompt,
            "seed": seed,
            "seconds": time.monotonic() - started,
            **asdict(tuned),
            "config": self._config.generate.dreambooth.model_dump(mode="json"),
            "versions": versions(),
        }
        with self._folder.whole_folder(target) as scratch:
            self._model.save(scratch)
            self._folder.write_json(scratch / "dreambooth.json", report)
            self._folder.write_json(self._folder.tuned(object_id), report)  # weights that exist have been reported


class DreamBooth:
    """Draws images of one object after another; the model is loaded once, and each object's weights swapped in.

    A positive is the first of at most `generate.filter.max_tries` pictures that the filter lets pass; where none does,
    it is left out. A negative's `source_id` is the category.
    """

    def __init__(
        self,
        config: RunConfig,
        manifest: Manifest,
        folder: RunFolder,
        book: PromptSet,
        warn: Warn,
        device: torch.device | str = "cpu",
    ) -> None:
        self._config = config
        self._objects = manifest.objects
        self._folder = folder
        self._book = book
        self._model = DiffusionModel(config.generate.dreambooth, device)
        self._sampler = Sampler(self._model, config.generate.sampling, warn)
        self._categories = {one.object_id: one.category for one in manifest.objects.values() if one.train}
        self._filter = LikenessFilter(config, device)
        self._cutouts: OrderedDict[str, MaskedImage | None] = OrderedDict()
        self._object = ""  # whose weights and photos are in
        self.report = FilterReport()  # of the latest request

    def generate(self, request: Chunk) -> list[SyntheticImage]:
        """Images of `start … start + count - 1`, in order; positives that were all rejected are missing.

        Raises ValueError, which names the object: no prompts, weights that do not fit.
        """
        self.report = FilterReport()
        one = self._objects[request.object_id]
        if request.role == "negative":
            prompts = self._book.negatives(one.category)
            shots = [self._shot(request, prompts, index) for index in _indices(request)]
            with self._model.pretrained():
                pictures = self._sampler.draw(shots)
            nothing = Verdict(None, None)
            source = one.category or self._config.generate.dreambooth.category or ""
            return [self._image(request, source, *row, nothing) for row in zip(shots, pictures, strict=True)]
        self._set_object(one)
        return self._positives(request, self._book.positives(one.object_id, one.category))

    def _positives(self, request: Chunk, prompts: Sequence[str]) -> list[SyntheticImage]:
        accepted: dict[int, SyntheticImage] = {}
        for attempt in range(self._config.generate.filter.max_tries):
            pending = [index for index in _indices(request) if index not in accepted]
            shots = [self._shot(request, prompts, index, attempt) for index in pending]
            pictures = self._sampler.draw(shots)
            verdicts = self._filter.judge(pictures)
            for index, shot, picture, verdict in zip(pending, shots, pictures, verdicts, strict=True):
                passes = self._filter.accepts(verdict)
                self.report.add(shot.prompt, verdict.score, accepted=passes)
                if passes:
                    accepted[index] = self._image(request, request.object_id, shot, picture, verdict)
        return [accepted[index] for index in sorted(accepted)]

    def _shot(self, request: Chunk, prompts: Sequence[str], index: int, attempt: int = 0) -> Shot:
        """First attempts go through all prompts in turn, in an order of the object's own; further ones draw one."""
        seed = image_seed(request.seed, request.object_id, request.role, index)
        if attempt:
            seed = seed_of(seed, attempt)
        rng = np.random.default_rng(seed)
        guidance = float(rng.choice(self._config.generate.sampling.guidance))
        if attempt:
            return Shot(prompts[int(rng.integers(len(prompts)))], seed, guidance)
        own = np.random.default_rng(seed_of(request.seed, request.object_id, request.role, "prompts"))
        return Shot(prompts[own.permutation(len(prompts))[index % len(prompts)]], seed, guidance)

    def _set_object(self, one: ObjectPhotos) -> None:
        if self._object == one.object_id:
            return
        self._object = ""  # neither the old nor the new one, should what follows fail
        self._model.load(self._folder.generator(one.object_id))
        self._filter.set_object(list(_masked(self._folder, one, self._config)), self._others(one))
        self._object = one.object_id

    def _others(self, one: ObjectPhotos) -> list[MaskedImage]:
        """Other objects: a photo of each of some of the run's, else what the untouched model drew for the category."""
        config = self._config
        ids = choose_distractors(one.object_id, self._categories, config.generate.negative_objects, config.seed)
        found = [cutout for other in ids if (cutout := self._cutout(other)) is not None]
        if found:
            return found
        files = sorted(self._folder.class_images(self._book.class_prompt(one.category)).glob("*.png"))
        return self._filter.masked([read_rgb(file, config.data) for file in files[:_CLASS_IMAGES_COMPARED]])

    def _cutout(self, object_id: str) -> MaskedImage | None:
        """Of an object's first photo that has a mask; many objects are compared with the same others."""
        if object_id not in self._cutouts:
            found = next(_masked(self._folder, self._objects[object_id], self._config), None)
            self._cutouts[object_id] = None if found is None else cut_out(*found)
            while len(self._cutouts) > _CUTOUTS_KEPT:
                self._cutouts.popitem(last=False)
        self._cutouts.move_to_end(object_id)
        return self._cutouts[object_id]

    def _image(
        self, request: Chunk, source: str, shot: Shot, picture: NDArray[np.uint8], verdict: Verdict
    ) -> SyntheticImage:
        side = self._config.generate.image_size
        method = cv2.INTER_AREA if side < len(picture) else cv2.INTER_CUBIC
        image = cv2.resize(picture, (side, side), interpolation=method).astype(np.uint8, copy=False)
        mask: NDArray[np.bool_] = np.zeros((side, side), np.bool_)
        if verdict.mask is not None:
            mask = cv2.resize(verdict.mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA) > 0.5
        return SyntheticImage(
            request.object_id,
            request.role,
            "dreambooth",
            shot.prompt,
            shot.seed,
            verdict.score,
            source,
            None,
            image,
            mask,
        )


def _masked(folder: RunFolder, one: ObjectPhotos, config: RunConfig) -> Iterator[MaskedImage]:
    """An object's train photos (H, W, 3) uint8 with the masks (H, W) bool of the run; those without are left out."""
    for photo in folder.masked_photos(one):
        if photo.mask is not None:
            yield read_rgb(photo.path, config.data), read_mask(photo.mask, config.data)


def _indices(request: Chunk) -> range:
    return range(request.start, request.start + request.count)
