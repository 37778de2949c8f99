"""The contact sheet of an object of a run, drawn from what the run has stored."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from persrep_ray.config import DataConfig, RunConfig
from persrep_ray.data.images import capped_size, read_bounded, read_mask
from persrep_ray.data.objects import ObjectPhotos, Photo
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.evaluate.examples import Example, unpack
from persrep_ray.generate.schedule import training_chunks
from persrep_ray.generate.shards import read_shards
from persrep_ray.generate.types import SyntheticImage
from persrep_ray.report.contact_sheet import TestRow, contact_sheet
from persrep_ray.tasks.dense import LONGEST_SIDE
from persrep_ray.tasks.features import evenly
from persrep_ray.tasks.metrics import Sides

_SHOWN = 16  # synthetic images of each role
_PHOTOS_SHOWN = 32  # of the object; a JPEG is at most 65,500 pixels high, which the rows of 700 photos would exceed
_PHOTO_SIDE = 720  # pixels, twice the size of a tile
_HEADLINE = {
    "classification.pr_auc": "PR-AUC",
    "retrieval.ndcg": "nDCG",
    "detection.map50": "detection mAP50",
    "segmentation.map50": "segmentation mAP50",
}


def object_sheet(folder: RunFolder, config: RunConfig, photos: ObjectPhotos) -> bytes:
    """Draws the sheet of an evaluated object as a JPEG.

    Raises:
        ValueError: a photo, a mask or a shard cannot be read any more.
        StorageError: a file is gone, or the storage fails.
    """
    object_id, limits = photos.object_id, config.data
    evaluation = folder.read_json(folder.evaluation(object_id))
    examples = unpack(evaluation["examples"], folder.read_evaluated(object_id, "examples.safetensors"), limits)
    shown = {
        role: _spread(read_shards(folder, chunks, limits))
        for role, chunks in training_chunks(object_id, config).items()
    }
    masked = [photo for photo in folder.masked_photos(photos) if photo.mask]
    spread = evenly(len(masked), _PHOTOS_SHOWN)
    return contact_sheet(
        object_id,
        train=[_thumbnail(masked[index], limits) for index in spread],
        photos=len(masked),
        positives=shown["positive"],
        negatives=shown["negative"],
        tests=[_row(example, limits) for example in examples],
        title_metrics=_headline(evaluation["metrics"]),
    )


def _spread(rows: Sequence[SyntheticImage]) -> list[np.ndarray]:
    """A few images, spread evenly over all of them."""
    every = max(1, len(rows) // _SHOWN)
    return [rows[index].image for index in range(0, len(rows), every)][:_SHOWN]


def _thumbnail(photo: Photo, limits: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """A small photo (H, W, 3) uint8 and its mask (H, W) bool."""
    assert photo.mask is not None
    image = read_bounded(photo.path, limits, _PHOTO_SIDE)
    mask = read_mask(photo.mask, limits).astype(np.uint8) * 255
    return image, cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_AREA) > 127


def _row(example: Example, limits: DataConfig) -> TestRow:
    image = read_bounded(example.photo, limits)
    height, width = capped_size((image.shape[0], image.shape[1]), LONGEST_SIDE)
    return TestRow(
        image=cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA),
        pretrained_similarity=example.similarity["pretrained"],
        personalized_similarity=example.similarity["personalized"],
        truth_mask=example.truth,
        title=example.title,
        pretrained_mask=example.found["pretrained"],
        personalized_mask=example.found["personalized"],
    )


def _headline(metrics: Sides) -> str:
    before, after = metrics["pretrained"], metrics["personalized"]
    return "   ".join(
        f"{name} {before[key]:.2f} → {after[key]:.2f}"
        for key, name in _HEADLINE.items()
        if key in before and key in after
    )
