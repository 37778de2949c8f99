"""The sheet of an object, however many and however large its photos are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import persrep_ray.report.object_sheet as object_sheet_module
from persrep_ray.config import DataConfig, RunConfig
from persrep_ray.data.images import encode_jpeg, encode_png_mask
from persrep_ray.data.objects import ObjectPhotos, Photo
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.evaluate.examples import pack
from persrep_ray.report.object_sheet import object_sheet
from persrep_ray.storage.files import File
from persrep_ray.storage.store import open_store

SIDE = 1600


def test_of_900_large_photos_a_few_thumbnails_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_sheet_module, "read_shards", lambda *_: [])
    read: list[tuple[int, ...]] = []
    read_bounded = object_sheet_module.read_bounded

    def recorded(file: File, limits: DataConfig, longest: int) -> np.ndarray:
        image = read_bounded(file, limits, longest)
        read.append(image.shape)
        return image

    monkeypatch.setattr(object_sheet_module, "read_bounded", recorded)
    image, mask = np.full((SIDE, SIDE, 3), 90, np.uint8), np.zeros((SIDE, SIDE), np.bool_)
    mask[SIDE // 4 : SIDE // 2, SIDE // 4 : SIDE // 2] = True
    (tmp_path / "0.jpg").write_bytes(encode_jpeg(image))
    folder = RunFolder(open_store(str(tmp_path / "run")))
    folder.write_masks("mug", [encode_png_mask(mask)] * 900, {})
    entries, arrays = pack(())
    metrics: dict[str, dict[str, float]] = {"pretrained": {}, "personalized": {}}
    folder.write_evaluated("mug", {"examples.safetensors": arrays}, {"examples": entries, "metrics": metrics})
    photos = ObjectPhotos("mug", None, (Photo("mug", tmp_path / "0.jpg", None, None),) * 900, ())
    with Image.open(io.BytesIO(object_sheet(folder, RunConfig(), photos))) as sheet:
        assert sheet.height < 5_000
        drawn = np.asarray(sheet.convert("RGB")).astype(int)
    assert (np.abs(drawn - (60, 220, 110)).max(axis=2) < 24).any()  # the outlines of the masks
    assert len(read) == 32 and max(max(shape) for shape in read) <= 720
