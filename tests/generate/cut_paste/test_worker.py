"""A chunk of pasted images, from photos and masks to a shard, without Ray."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny import COLOURS, shape

import persrep_ray.generate.cut_paste.worker as cut_paste
from persrep_ray.config import RunConfig, load_config
from persrep_ray.data.images import encode_png
from persrep_ray.data.objects import Manifest, ObjectPhotos, Photo
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.cut_paste.worker import CutPasteWorker, UserPhotos
from persrep_ray.generate.shards import read_shards
from persrep_ray.generate.types import Chunk
from persrep_ray.storage.store import open_store

CONFIG: RunConfig = load_config("debug")


@pytest.fixture
def run(tmp_path: Path) -> tuple[Manifest, RunFolder]:
    """Two objects of two photos each with masks, and `bare`, whose photos have none."""
    folder, objects = RunFolder(open_store(tmp_path / "run")), {}
    for name, colour in {**COLOURS, "bare": (9, 9, 9)}.items():
        drawn = [shape(colour, index) for index in range(2)]
        photos = tuple(Photo(name, tmp_path / f"{name}-{index}.png", None, None) for index in range(2))
        for photo, (image, _) in zip(photos, drawn, strict=True):
            Path(str(photo.path)).write_bytes(encode_png(image))
        folder.write_masks(name, [None if name == "bare" else mask for _, mask in drawn], {})
        objects[name] = ObjectPhotos(name, None, photos, ())
    return Manifest(tmp_path, objects, ()), folder


def item(object_id: str, role: Any = "positive", start: int = 0) -> dict[str, Any]:
    return asdict(Chunk(object_id, role, start, 2, 0, "cut_paste"))


def test_a_chunk_becomes_a_shard(run: tuple[Manifest, RunFolder]) -> None:
    manifest, folder = run
    row = CutPasteWorker(CONFIG, manifest, folder, UserPhotos())(item("red"))
    assert row == {"object_id": "red", "generator": "cut_paste", "images": 2, "error": "", "warnings": []}
    images = read_shards(folder, [Chunk(**item("red"))], CONFIG.data)
    assert [(image.source_id, image.source_photo) for image in images] == [("red", 0), ("red", 1)]
    assert images.reports[0]["seconds"] > 0


def test_an_object_without_a_mask_fails_by_name_and_the_next_does_not(run: tuple[Manifest, RunFolder]) -> None:
    worker = CutPasteWorker(CONFIG, *run, UserPhotos())
    assert worker(item("bare"))["error"] == "object bare: generate: no photo gave a cutout to paste"
    assert worker(item("green"))["error"] == ""


def test_photos_of_the_user_that_cannot_be_read_are_reported_once(
    run: tuple[Manifest, RunFolder], tmp_path: Path
) -> None:
    bad = [tmp_path / "background.jpg", tmp_path / "negative.jpg"]
    for file in bad:
        file.write_bytes(b"no image")
    worker = CutPasteWorker(CONFIG, *run, UserPhotos([bad[0]], [bad[1]]))
    cause = "not a JPEG, PNG, WebP or BMP image"
    assert worker(item("red"))["warnings"] == [f"{file}: {cause}" for file in bad]
    assert worker(item("red", start=2))["warnings"] == []


def test_photos_are_decoded_once_for_all_objects(
    run: tuple[Manifest, RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    read_rgb = cut_paste.read_rgb
    monkeypatch.setattr(cut_paste, "read_rgb", lambda file, limits: read.append(file.name) or read_rgb(file, limits))
    worker = CutPasteWorker(CONFIG, *run, UserPhotos())
    for object_id in ("red", "green", "blue", "red"):
        assert not worker(item(object_id, "negative"))["error"]
    assert sorted(read) == sorted(f"{name}-{index}.png" for name in COLOURS for index in range(2))
