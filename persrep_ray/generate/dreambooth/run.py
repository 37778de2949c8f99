"""What fine-tuning and sampling need of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from persrep_ray.config import RunConfig
from persrep_ray.data.images import read_mask, read_rgb
from persrep_ray.data.objects import Manifest
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.dreambooth.prompts.prompt_set import PromptSet

MaskedImage = tuple[NDArray[np.uint8], NDArray[np.bool_]]  # (H, W, 3) and (H, W)


@dataclass(frozen=True)
class DreamBoothRun:
    """`warn` shows a message to the user; `device` is what PyTorch calls the device of the model."""

    config: RunConfig
    manifest: Manifest
    folder: RunFolder
    prompts: PromptSet
    warn: Callable[[str], None]
    device: str = "cpu"

    def masked_photos(self, object_id: str) -> Iterator[MaskedImage]:
        """An object's train photos with the masks of the run; photos without a mask are left out."""
        for photo in self.folder.masked_photos(self.manifest.objects[object_id]):
            if photo.mask is not None:
                yield read_rgb(photo.path, self.config.data), read_mask(photo.mask, self.config.data)
