"""Generation with everything on S3: the same images as on folders, and no needless requests."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.s3_server import FaultyS3
from helpers.tiny import COLOURS, shape

from persrep_ray.config import RunConfig, load_config
from persrep_ray.data.images import encode_jpeg
from persrep_ray.data.objects import Manifest, ObjectPhotos, Photo
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.folder.generator import Folder
from persrep_ray.generate.folder.worker import FolderWorker
from persrep_ray.generate.schedule import chunks, missing_chunks
from persrep_ray.generate.shards import read_shards, shard_report, write_shard
from persrep_ray.storage.store import Store, open_store

OVERRIDES = [
    *("generate.generator=folder", "generate.positives=2", "generate.negatives=2", "generate.calibration_images=0"),
    "generate.image_size=64",
]


def test_missing_chunks_are_found_with_a_single_listing(s3: FaultyS3) -> None:
    folder, config = RunFolder(open_store(f"{s3.uri}/run")), load_config("debug")
    first, *others = [chunk for object_id in ("cup", "mug") for chunk in chunks(object_id, config)]
    write_shard(folder, first, [], {"seconds": 1.0})
    before = s3.count()
    assert missing_chunks(["cup", "mug"], folder, config) == others
    assert s3.count() == before + 1


def test_a_shard_is_read_with_a_single_request_report_included(s3: FaultyS3) -> None:
    folder, config = RunFolder(open_store(f"{s3.uri}/run")), load_config("debug")
    chunk = chunks("mug", config)[0]
    write_shard(folder, chunk, [], {"seconds": 1.0})
    before = s3.count()
    assert read_shards(folder, [chunk], config.data).reports == [{"seconds": 1.0, "images": 0}]
    assert s3.count() == before + 1
    assert shard_report(folder, chunk) == {"seconds": 1.0, "images": 0}


def add_images(store: Store) -> None:
    """Positives of two mugs, and negatives of their category."""
    for folder, colour in (("a/positive", "red"), ("b/positive", "blue"), ("mug/negative", "green")):
        for index in range(2):
            store.write(f"{folder}/{index}.jpg", encode_jpeg(shape(COLOURS[colour], index)[0]))


def make_all(images: Store, folder: RunFolder, config: RunConfig, root: Path) -> list[np.ndarray]:
    """Makes all chunks of both objects, each in a worker of its own as in different actors."""
    photos = (Photo("", root / "photo.png", None, None),)
    manifest = Manifest(root, {name: ObjectPhotos(name, "mug", photos, ()) for name in "ab"}, ())
    made = [chunk for name in "ab" for chunk in chunks(name, config)]
    for chunk in made:
        worker: Any = FolderWorker(config, manifest, folder, images)
        worker._masker.mask = lambda image, reference: np.ones(image.shape[:2], np.bool_)
        assert worker(asdict(chunk))["error"] == ""
    return [row.image for row in read_shards(folder, made, config.data)]


def test_a_folder_on_s3_gives_the_same_images_and_each_is_fetched_once_by_a_node(s3: FaultyS3, tmp_path: Path) -> None:
    config = load_config("debug", [*OVERRIDES, f"generate.folder.path={s3.uri}/images"])
    remote, local = open_store(f"{s3.uri}/images"), open_store(tmp_path / "images")
    add_images(remote)
    add_images(local)
    assert Folder(config).digests() == Folder(config).digests()
    from_s3 = make_all(remote, RunFolder(open_store(f"{s3.uri}/run")), config, tmp_path)
    from_folder = make_all(local, RunFolder(open_store(tmp_path / "run")), config, tmp_path)
    assert len(from_s3) == 8 and all(np.array_equal(*pair) for pair in zip(from_s3, from_folder, strict=True))
    for key in ("a/positive/0.jpg", "mug/negative/0.jpg"):
        assert s3.count("GetObject", f"images/{key}") == 1


def test_denied_images_are_an_error_at_the_start(s3: FaultyS3) -> None:
    config = load_config("debug", [*OVERRIDES, f"generate.folder.path={s3.uri}/images"])
    s3.fail("AccessDenied")
    with pytest.raises(OSError, match=f"{s3.uri}/images"):
        Folder(config).digests()
