"""A run with objects for DreamBooth to learn: coloured discs with masks, and a tiny Stable Diffusion."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.text_to_image import SIDE, settings
from helpers.tiny import COLOURS, shape
from numpy.typing import NDArray
from PIL import Image

from persrep_ray.config import FilterConfig, GenerateConfig, RunConfig, SamplingConfig
from persrep_ray.data.images import encode_png_mask
from persrep_ray.data.objects import Manifest, ObjectPhotos, Photo
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.dreambooth import object_sampler
from persrep_ray.generate.dreambooth.diffusion.sampling import Sampler, Shot
from persrep_ray.generate.dreambooth.filter import Match
from persrep_ray.generate.dreambooth.object_sampler import ObjectSampler
from persrep_ray.generate.dreambooth.prompts.prompt_set import build_prompts
from persrep_ray.generate.dreambooth.run import DreamBoothRun, MaskedImage
from persrep_ray.storage.store import open_store

CATEGORIES = {"red": "mug", "green": "mug", "blue": None}


def config(base: Path, **changes: Any) -> RunConfig:
    """`changes` are settings of `generate`, and mappings of settings for its sections."""
    parts = {
        "dreambooth": settings(
            base, **{"steps": 2, "prior_images": 2, "learning_rate": 1e-2, **changes.pop("dreambooth", {})}
        ),
        "sampling": SamplingConfig(**{"steps": 1, "guidance": (4.0, 7.5), **changes.pop("sampling", {})}),
        "filter": FilterConfig(**{"threshold": None, **changes.pop("filter", {})}),
    }
    generate = GenerateConfig(**{"generator": "dreambooth", "image_size": SIDE, **parts, **changes})
    return RunConfig(seed=7, generate=generate)


def manifest(root: Path, folder: RunFolder, *names: str) -> Manifest:
    """Objects named by their colours, with three photos each; the run has masks of the first two."""
    objects = {}
    for name in names or tuple(CATEGORIES):
        drawn = [shape(COLOURS[name], index) for index in range(3)]
        paths = [root / name / f"{index}.png" for index in range(3)]
        paths[0].parent.mkdir(parents=True)
        for path, (image, _) in zip(paths, drawn, strict=True):
            Image.fromarray(image).save(path)
        folder.write_masks(name, [encode_png_mask(mask) for _, mask in drawn[:2]], {})
        photos = tuple(Photo(name, path, None, None) for path in paths)
        objects[name] = ObjectPhotos(name, CATEGORIES[name], photos, ())
    return Manifest(root, objects, ())


class RuleFilter:
    """Takes the place of the filter: scores images by a rule, and calls their left half the foreground."""

    def __init__(self, score: Callable[[NDArray[np.uint8]], float | None]) -> None:
        self._score = score
        self.objects: list[tuple[Sequence[MaskedImage], Sequence[MaskedImage]]] = []

    def set_object(self, photos: Sequence[MaskedImage], distractors: Sequence[MaskedImage]) -> None:
        self.objects.append((photos, distractors))

    def masked(self, images: Sequence[NDArray[np.uint8]]) -> list[MaskedImage]:
        return [(image, np.ones(image.shape[:2], np.bool_)) for image in images]

    def match(self, images: Sequence[NDArray[np.uint8]]) -> list[Match]:
        scores = [self._score(image) for image in images]
        return [
            Match(None, None) if score is None else Match(score, left_half(image))
            for image, score in zip(images, scores, strict=True)
        ]

    def accepts(self, match: Match) -> bool:
        return match.score is not None and match.score >= 0.5


def left_half(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[:, : image.shape[1] // 2] = True
    return mask


class Recorded:
    """A sampler that records each call and draws what it is asked for, or always the same image."""

    def __init__(self, sampler: Sampler, instead: NDArray[np.uint8] | None = None) -> None:
        self.asked: list[list[Shot]] = []
        self._sampler, self._instead = sampler, instead

    def draw(self, shots: Sequence[Shot]) -> list[NDArray[np.uint8]]:
        self.asked.append(list(shots))
        return self._sampler.draw(shots) if self._instead is None else [self._instead for _ in shots]


class Run:
    """A run whose objects are learned, and what samples them."""

    def __init__(
        self, root: Path, base: Callable[[str], Path], learned: Callable[[str], Path], *names: str, **changes: Any
    ) -> None:
        self.folder = RunFolder(open_store(root / "run"))
        self.config = config(base("sd"), **changes)
        self.manifest = manifest(root / "photos", self.folder, *names)
        self.prompts = build_prompts(self.config.generate)
        for name in self.manifest.objects:
            shutil.copytree(learned(name), self.weights(name))

    @property
    def context(self) -> DreamBoothRun:
        return DreamBoothRun(self.config, self.manifest, self.folder, self.prompts, print)

    def weights(self, object_id: str) -> Path:
        return Path(self.folder.store.url(self.folder.weights(object_id)))

    def dreams(self, score: Callable[[NDArray[np.uint8]], float | None] = lambda _: 1.0) -> ObjectSampler:
        """A new sampler that filters by `score`."""
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(object_sampler, "LikenessFilter", lambda *_: RuleFilter(score))
            return ObjectSampler(self.context)
