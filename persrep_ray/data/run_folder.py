"""Every key of a run in one place, in a local folder or below an S3 prefix. What is complete here is never done again.

run.json                                    the configuration and digests of the inputs
lock                                        held by the driver of the run
masks/<object>/00.png … masks.json          foreground masks of the train photos, in their order
class_images/<class prompt>/00000.png …     images of a category for prior preservation, shared by its objects
generators/<object>/… dreambooth.json       the object's weights for the text-to-image model
fine_tuned/<object>.json                    how these weights were made
prompts.json                                the prompts that a language model wrote, by category
synthetic/<object>/<role>-<start>.parquet   one shard per chunk
filtered/<object>.json                      what the filter of sampled images let pass, per prompt
trained/<object>/… train.json               the PEFT adapter and how it was trained
evaluated/<object>/… evaluation.json        metrics, calibration, prototypes, and what the contact sheet shows
published/<object>.json                     what was published
<object>.jpg                                its contact sheet
summary.json                                the run's result

A file appears whole. A thing of several files is complete when its JSON, which is written last, exists.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from persrep_ray.data.objects import ObjectPhotos, Photo
from persrep_ray.storage.store import ConflictError, NotFoundError, Store


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run; `store` is rooted there."""

    store: Store

    # -- masks -------------------------------------------------------------------------------------------------------

    def masked(self) -> set[str]:
        """The objects whose masks are complete."""
        return self._complete("masks/", "masks.json")

    def masks_report(self, object_id: str) -> str:
        return f"masks/{object_id}/masks.json"

    def write_masks(self, object_id: str, masks: list[bytes | None], report: Mapping[str, Any]) -> None:
        """`masks[i]`, a PNG, belongs to the object's train photo i, None where it has no mask; `report` is JSON."""
        files = {f"{i:02d}.png": mask for i, mask in enumerate(masks) if mask is not None}
        self._write_all(f"masks/{object_id}/", files, "masks.json", report)

    def masked_photos(self, photos: ObjectPhotos) -> tuple[Photo, ...]:
        """The object's train photos, each with the mask that this run uses, or None."""
        folder = f"masks/{photos.object_id}/"
        files = self.store.files(folder)
        return tuple(
            replace(photo, mask=files.get(f"{folder}{index:02d}.png")) for index, photo in enumerate(photos.train)
        )

    # -- generators --------------------------------------------------------------------------------------------------

    def class_images(self, prompt: str) -> str:
        """The prefix of a prompt's class images. It is readable, safe as a key, and different for each prompt."""
        readable = re.sub("[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40]
        return f"class_images/{readable}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}/"

    def weights(self, object_id: str) -> str:
        """The prefix of the object's weights for the text-to-image model."""
        return f"generators/{object_id}/"

    def has_weights(self, object_id: str) -> bool:
        return self.exists(self.weights(object_id) + "dreambooth.json")

    def write_weights(self, object_id: str, folder: Path, report: Mapping[str, Any]) -> None:
        """Stores the files below the local `folder`; weights that exist already are kept."""
        self.write_json(self.fine_tuned(object_id), report)  # first: weights that exist have been reported
        files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
        self._write_all(self.weights(object_id), files, "dreambooth.json", report)

    def drop_weights(self, object_id: str) -> None:
        """Removes the object's weights. From the first step on, `has_weights` is false."""
        self.store.delete(self.weights(object_id) + "dreambooth.json")
        self.store.delete_all(self.weights(object_id))

    def fine_tuned(self, object_id: str) -> str:
        """The key of the report on how the object's weights were made; it outlives the weights."""
        return f"fine_tuned/{object_id}.json"

    def filtered(self, object_id: str) -> str:
        """The key of the report on what the filter let pass, per prompt."""
        return f"filtered/{object_id}.json"

    @property
    def prompts(self) -> str:
        return "prompts.json"

    def shard(self, object_id: str, role: str, start: int) -> str:
        return f"synthetic/{object_id}/{role}-{start:05d}.parquet"

    # -- adapters ----------------------------------------------------------------------------------------------------

    def trained(self) -> set[str]:
        """The objects whose training is complete."""
        return self._complete("trained/", "train.json")

    def train_report(self, object_id: str) -> str:
        return f"trained/{object_id}/train.json"

    def write_trained(self, object_id: str, files: Mapping[str, bytes], report: Mapping[str, Any]) -> None:
        self._write_all(f"trained/{object_id}/", files, "train.json", report)

    def read_trained(self, object_id: str, name: str) -> bytes:
        return self.store.read(f"trained/{object_id}/{name}")

    def evaluation(self, object_id: str) -> str:
        return f"evaluated/{object_id}/evaluation.json"

    def write_evaluated(self, object_id: str, files: Mapping[str, bytes], report: Mapping[str, Any]) -> None:
        self._write_all(f"evaluated/{object_id}/", files, "evaluation.json", report)

    def read_evaluated(self, object_id: str, name: str) -> bytes:
        return self.store.read(f"evaluated/{object_id}/{name}")

    def published(self, object_id: str) -> str:
        return f"published/{object_id}.json"

    def published_objects(self) -> set[str]:
        keys = (entry.key for entry in self.store.list("published/"))
        return {key.removeprefix("published/").removesuffix(".json") for key in keys}

    def sheet(self, object_id: str) -> str:
        return f"{object_id}.jpg"

    @property
    def summary(self) -> str:
        return "summary.json"

    # -- reading and writing -----------------------------------------------------------------------------------------

    def exists(self, key: str) -> bool:
        return self.store.stat(key) is not None

    def read_json(self, key: str) -> dict[str, Any]:
        """A JSON file of the run. Raises ValueError, which names the file, if it is missing or damaged."""
        try:
            value: dict[str, Any] = json.loads(self.store.read(key))
        except (NotFoundError, ValueError) as error:
            raise ValueError(f"{self.store.url(key)}: {error}; delete it and run again") from error
        return value

    def write_json(self, key: str, value: Mapping[str, Any]) -> None:
        """Writes `value`, whole or not at all."""
        self.store.write(key, _json(value))

    def _complete(self, prefix: str, last: str) -> set[str]:
        keys = (entry.key.removeprefix(prefix) for entry in self.store.list(prefix))
        return {key.removesuffix(f"/{last}") for key in keys if key.endswith(f"/{last}")}

    def _write_all(self, prefix: str, files: Mapping[str, bytes | Path], last: str, report: Mapping[str, Any]) -> None:
        """Keeps what is already complete: another worker was faster, and its files are just as good."""
        content = _json(report)
        if self.exists(prefix + last):
            return
        for name, data in files.items():
            self.store.write(prefix + name, data)
        try:
            self.store.write_if(prefix + last, content, None)
        except ConflictError:
            return


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()
