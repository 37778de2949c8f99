"""What the untouched text-to-image model draws for a category: made once in a run, shared by the category's objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from persrep_ray.config import RunConfig
from persrep_ray.data.images import encode_png, read_rgb
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.dreambooth.diffusion.examples import to_tensor
from persrep_ray.generate.dreambooth.diffusion.model import DiffusionModel
from persrep_ray.generate.dreambooth.diffusion.sampling import Sampler, Shot
from persrep_ray.generate.types import seed_of

_AT_A_TIME = 8  # images between two looks at what others have made


class ClassImages:
    """Latents of a category's class images; those that do not exist yet are drawn first.

    Any number of processes may want the same category at a time. Each begins at another image and passes over what
    is there, so they share the work without talking to each other. An image drawn twice is the same one.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, model: DiffusionModel, sampler: Sampler) -> None:
        self._config = config
        self._folder = folder
        self._model = model
        self._sampler = sampler
        self._latest: tuple[str, torch.Tensor] | None = None  # objects mostly come category by category

    def latents(self, prompt: str, begin_at: int) -> torch.Tensor | None:
        """(M, C, h, w) for the class prompt; None where there is no prior preservation. `begin_at`: any number."""
        count = self._config.generate.dreambooth.prior_images
        if not count or not self._config.generate.dreambooth.prior_weight:
            return None
        if self._latest is None or self._latest[0] != prompt:
            files = [self._folder.class_images(prompt) / f"{index:05d}.png" for index in range(count)]
            self._draw_missing(prompt, files, begin_at % count)
            images = (to_tensor(read_rgb(file, self._config.data)) for file in files)
            self._latest = prompt, torch.cat([self._model.encode_images(image) for image in images])
        return self._latest[1]

    def _draw_missing(self, prompt: str, files: list[Path], begin: int) -> None:
        if all(file.exists() for file in files):
            return
        order = [*range(begin, len(files)), *range(begin)]
        with self._model.pretrained():
            while missing := [index for index in order if not files[index].exists()][:_AT_A_TIME]:
                pictures = self._sampler.draw([self._shot(prompt, index) for index in missing])
                for index, picture in zip(missing, pictures, strict=True):
                    self._folder.write_file(files[index], encode_png(picture))

    def _shot(self, prompt: str, index: int) -> Shot:
        seed = seed_of(self._config.seed, "class image", prompt, index)
        return Shot(prompt, seed, float(np.random.default_rng(seed).choice(self._config.generate.sampling.guidance)))
