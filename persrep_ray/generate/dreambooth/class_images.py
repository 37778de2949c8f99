"""Class images: what the untouched text-to-image model draws for a category. The objects of the category share them."""

from __future__ import annotations

import numpy as np
import torch

from persrep_ray.config import RunConfig
from persrep_ray.data.images import encode_png, read_rgb
from persrep_ray.data.lru import Lru
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.dreambooth.diffusion.examples import to_tensor
from persrep_ray.generate.dreambooth.diffusion.model import DiffusionModel
from persrep_ray.generate.dreambooth.diffusion.sampling import Sampler, Shot
from persrep_ray.generate.types import seed_of

_AT_A_TIME = 8  # images that are drawn between two looks at what other processes have drawn


class ClassImages:
    """Latents of the class images of a category; images that do not exist yet are drawn first.

    Several processes may want the same category at the same time. Each starts at another image and skips those that
    exist, so they share the work without talking to each other. An image that is drawn twice is the same both times.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, model: DiffusionModel, sampler: Sampler) -> None:
        self._config = config
        self._folder = folder
        self._model = model
        self._sampler = sampler
        self._latents: Lru[str, torch.Tensor] = Lru(1)  # objects mostly come category by category

    def latents(self, prompt: str, begin_at: int) -> torch.Tensor | None:
        """(M, C, h, w) for the class prompt; None without prior preservation. `begin_at` may be any number."""
        dreambooth = self._config.generate.dreambooth
        if not dreambooth.prior_images or not dreambooth.prior_weight:
            return None
        return self._latents.get_or(prompt, lambda: self._encoded(prompt, begin_at))

    def _encoded(self, prompt: str, begin_at: int) -> torch.Tensor:
        prefix = self._folder.class_images(prompt)
        keys = [f"{prefix}{index:05d}.png" for index in range(self._config.generate.dreambooth.prior_images)]
        self._draw_missing(prompt, keys, begin_at % len(keys))
        files = self._folder.store.files(prefix)
        return torch.cat(
            [self._model.encode_images(to_tensor(read_rgb(files[key], self._config.data))) for key in keys]
        )

    def _draw_missing(self, prompt: str, keys: list[str], begin: int) -> None:
        store, prefix = self._folder.store, self._folder.class_images(prompt)
        order = [*range(begin, len(keys)), *range(begin)]

        def some_missing() -> list[int]:
            present = {entry.key for entry in store.list(prefix)}
            return [index for index in order if keys[index] not in present][:_AT_A_TIME]

        missing = some_missing()
        if not missing:
            return
        with self._model.pretrained():
            while missing:
                images = self._sampler.draw([self._shot(prompt, index) for index in missing])
                for index, image in zip(missing, images, strict=True):
                    store.write(keys[index], encode_png(image))
                missing = some_missing()

    def _shot(self, prompt: str, index: int) -> Shot:
        seed = seed_of(self._config.seed, "class image", prompt, index)
        return Shot(prompt, seed, float(np.random.default_rng(seed).choice(self._config.generate.sampling.guidance)))
