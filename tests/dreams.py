"""A run in which DreamBooth has objects to learn: coloured discs with masks, and a tiny Stable Diffusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from text_to_image import SIDE, settings
from tiny import COLOURS, shape

from persrep_ray.config import RunConfig
from persrep_ray.config_generate import FilterConfig, GenerateConfig, SamplingConfig
from persrep_ray.data.objects import Manifest, ObjectPhotos, Photo
from persrep_ray.run_folder import RunFolder

CATEGORIES = {"red": "mug", "green": "mug", "blue": None}


def config(base: Path, **changes: Any) -> RunConfig:
    """`changes`: of `generate`, and the settings of its sections."""
    parts = {
        "dreambooth": settings(
            base, **{"steps": 2, "prior_images": 2, "learning_rate": 1e-2, **changes.pop("dreambooth", {})}
        ),
        "sampling": SamplingConfig(**{"steps": 1, "guidance": (4.0, 7.5), **changes.pop("sampling", {})}),
        "filter": FilterConfig(**{"threshold": None, **changes.pop("filter", {})}),
    }
    return RunConfig(seed=7, generate=GenerateConfig(generator="dreambooth", image_size=SIDE, **parts, **changes))


def manifest(root: Path, folder: RunFolder, *names: str) -> Manifest:
    """Objects by the names of their colours, three photos each; the run has made masks of the first two."""
    objects = {}
    for name in names or tuple(CATEGORIES):
        drawn = [shape(COLOURS[name], index) for index in range(3)]
        paths = [root / name / f"{index}.png" for index in range(3)]
        paths[0].parent.mkdir(parents=True)
        for path, (image, _) in zip(paths, drawn, strict=True):
            Image.fromarray(image).save(path)
        folder.write_masks(name, [mask for _, mask in drawn[:2]], {})
        photos = tuple(Photo(name, path, None, None) for path in paths)
        objects[name] = ObjectPhotos(name, CATEGORIES[name], photos, ())
    return Manifest(root, objects, ())
