"""The test photos that a report shows of an evaluation, and how they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from persrep_ray.config import DataConfig
from persrep_ray.data.images import decode_mask, encode_png_mask
from persrep_ray.data.objects import Photo
from persrep_ray.evaluate.scan import Scan
from persrep_ray.storage.files import File, file_at
from persrep_ray.tasks import classification
from persrep_ray.tasks.metrics import SIDES, Side

_OF_OBJECT = 6  # photos of the object


@dataclass(frozen=True)
class Example:
    """A test photo and what either side finds on it.

    `similarity` (h, w) float32 covers the whole photo. The masks are (H, W) bool, at most `dense.LONGEST_SIDE` wide and
    high: `truth` is None if the photo has no mask or shows another object, `found` if the side finds nothing.
    """

    photo: File
    title: str
    truth: np.ndarray | None
    similarity: Mapping[Side, np.ndarray]
    found: Mapping[Side, np.ndarray | None]


def choose_examples(galleries: Mapping[Side, Scan], tests: Mapping[Side, Scan]) -> Iterator[tuple[Photo, str]]:
    """Photos and their titles, which tell the classification scores before and after.

    Photos of the object come first, those with a mask before the rest. The last two are the photos of other objects
    that the pretrained and the personalized features rate highest.
    """
    scores = {side: _scores(galleries[side], tests[side]) for side in SIDES}
    seen = tests["pretrained"]
    chosen = sorted((one.photo for one in seen.of_object().seen), key=lambda photo: photo.mask is None)[:_OF_OBJECT]
    for side in SIDES:
        distractors = [one.photo for one in seen.distractors().seen if one.photo not in chosen]
        chosen += sorted(distractors, key=lambda photo: scores[side][photo.path], reverse=True)[:1]
    for photo in chosen:
        which = "" if photo.object_id == seen.object_id else "another object: "
        before, after = (scores[side][photo.path] for side in SIDES)
        yield photo, f"{which}{photo.object_id}/{photo.path.name}   score {before:.2f} → {after:.2f}"


def pack(examples: Sequence[Example]) -> tuple[list[dict[str, Any]], bytes]:
    """What `unpack` needs: a JSON object per example, and a safetensors file of similarities and of masks as PNGs."""
    entries: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for index, example in enumerate(examples):
        entries.append({"photo": str(example.photo), "title": example.title})
        arrays |= {f"{index}.similarity.{side}": example.similarity[side] for side in SIDES}
        for name, mask in (("truth", example.truth), *example.found.items()):
            if mask is not None:
                arrays[f"{index}.mask.{name}"] = np.frombuffer(encode_png_mask(mask), np.uint8)
    return entries, save(arrays)


def unpack(entries: Sequence[Mapping[str, Any]], data: bytes, limits: DataConfig) -> list[Example]:
    """The examples that `pack` was given. Raises StorageError if a photo in S3 no longer exists."""
    arrays = load(data)

    def mask(index: int, name: str) -> np.ndarray | None:
        png = arrays.get(f"{index}.mask.{name}")
        return None if png is None else decode_mask(png.tobytes(), limits, f"example {index}")

    return [
        Example(
            photo=file_at(entry["photo"]),
            title=entry["title"],
            truth=mask(index, "truth"),
            similarity={side: arrays[f"{index}.similarity.{side}"] for side in SIDES},
            found={side: mask(index, side) for side in SIDES},
        )
        for index, entry in enumerate(entries)
    ]


def _scores(gallery: Scan, tests: Scan) -> dict[File, float]:
    """Each test photo's classification score."""
    if not tests.seen:
        return {}
    scores = classification.scores(gallery.of_object().cls, tests.cls)
    return {one.photo.path: float(score) for one, score in zip(tests.seen, scores, strict=True)}
