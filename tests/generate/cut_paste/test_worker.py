"""A chunk of pasted images, from photos and masks to a shard, without Ray."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny import COLOURS, shape

import persrep_ray.generate.cut_paste.worker as cut_paste
from persrep_ray.config import RunConfig, load_config
from persrep_ray.data.images import encode_png, encode_png_mask
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
        folder.write_masks(name, [None if name == "bare" else encode_png_mask(mask) for _, mask in drawn], {})
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
    cause = "not a JPEG, PNG, WebP, BMP, HEIC or AVIF image"
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
    own = [name for name in read if name.partition("-")[0] in COLOURS]
    assert sorted(own) == sorted(f"{name}-{index}.png" for name in COLOURS for index in range(2))
    assert len(set(read)) == len(read), "things of the bank, too"


def test_an_object_alone_is_told_apart_from_things_of_the_bank(run: tuple[Manifest, RunFolder]) -> None:
    manifest, folder = run
    alone = Manifest(manifest.root, {"red": manifest.objects["red"]}, ())
    worker = CutPasteWorker(CONFIG, alone, folder, UserPhotos())
    assert not worker({**item("red", "negative"), "count": 12})["error"]
    images = read_shards(folder, [Chunk("red", "negative", 0, 12, 0, "cut_paste")], CONFIG.data)
    assert all(image.source_id.startswith("bank:") and image.mask.any() for image in images)
    assert len({image.source_id for image in images}) > 5


def test_a_neighbour_with_hundreds_of_photos_takes_neither_the_memory_nor_the_negatives(
    run: tuple[Manifest, RunFolder], tmp_path: Path
) -> None:
    manifest, folder = run
    image, mask = shape((200, 200, 0), 7)
    (tmp_path / "big.png").write_bytes(encode_png(image))
    photos = tuple(Photo("big", tmp_path / "big.png", None, None) for _ in range(500))
    folder.write_masks("big", [encode_png_mask(mask)] * 500, {})
    crowded = Manifest(tmp_path, {**manifest.objects, "big": ObjectPhotos("big", None, photos, ())}, ())
    worker = CutPasteWorker(CONFIG, crowded, folder, UserPhotos())
    worker({**item("red", "negative"), "count": 90})
    held = [cutout for key in worker._cutouts.keys() for cutout in worker._cutouts.get(key) or []]  # noqa: SIM118
    assert sum(cutout.object_id == "big" for cutout in held) == 4
    images = read_shards(folder, [Chunk("red", "negative", 0, 90, 0, "cut_paste")], CONFIG.data)
    shown = Counter(image.source_id for image in images)  # 15 objects and things
    assert shown["big"] <= 15 and len(shown) >= 12


def test_a_photo_that_is_in_two_objects_is_pasted_into_the_negatives_of_neither(
    run: tuple[Manifest, RunFolder],
) -> None:
    manifest, folder = run
    twins = (manifest.objects["red"].train[0], manifest.objects["green"].train[1])
    worker = CutPasteWorker(CONFIG, replace(manifest, duplicates=(twins,)), folder, UserPhotos())
    for object_id, other, allowed in (("red", "green", {0}), ("green", "red", {1}), ("blue", "red", {0, 1})):
        worker({**item(object_id, "negative"), "count": 60})
        images = read_shards(folder, [Chunk(object_id, "negative", 0, 60, 0, "cut_paste")], CONFIG.data)
        assert {image.source_photo for image in images if image.source_id == other} == allowed
