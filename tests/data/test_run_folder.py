"""Files in the folder of a run are whole, and what is complete stays as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from persrep_ray.config import RunConfig
from persrep_ray.data.images import encode_png_mask, read_mask
from persrep_ray.data.objects import ObjectPhotos, Photo
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.storage.store import open_store


def run_folder(root: Path) -> RunFolder:
    return RunFolder(open_store(root))


def keys(folder: RunFolder) -> list[str]:
    return [entry.key for entry in folder.store.list()]


def test_masks_come_back_with_their_photos(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    photos = tuple(Photo("mug", Path(f"/photos/{name}.jpg"), None, None) for name in "ab")
    first = np.zeros((4, 6), np.bool_)
    first[1:3, 2:5] = True
    folder.write_masks("mug", [encode_png_mask(first), None], {"seconds": 1.5, "problems": ["b.jpg: no foreground"]})
    masked = folder.masked_photos(ObjectPhotos("mug", None, photos, ()))
    assert masked[1].mask is None
    assert masked[0].mask is not None
    np.testing.assert_array_equal(read_mask(masked[0].mask, RunConfig().data), first)
    assert keys(folder) == ["masks/mug/00.png", "masks/mug/masks.json"]
    assert folder.masked() == {"mug"}


def test_masks_whose_report_is_missing_are_not_complete(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    folder.store.write("masks/mug/00.png", b"killed after this")
    assert folder.masked() == set()


def test_an_existing_adapter_is_kept(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    folder.write_trained("mug", {"adapter_model.safetensors": b"first"}, {"seconds": 1})
    folder.write_trained("mug", {"adapter_model.safetensors": b"second"}, {"seconds": 2})
    assert folder.read_trained("mug", "adapter_model.safetensors") == b"first"
    assert folder.read_json(folder.train_report("mug")) == {"seconds": 1}
    assert folder.trained() == {"mug"}


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    folder.write_json(folder.summary, {"mean": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_json(folder.summary, {"mean": float("nan")})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"mean": 1}


def test_a_report_that_is_not_json_completes_nothing(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_trained("mug", {"adapter_model.safetensors": b"x"}, {"loss": float("inf")})
    assert keys(folder) == []


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("{")
    with pytest.raises(ValueError, match=r"train\.json: .*delete it and run again"):
        run_folder(tmp_path).read_json("train.json")


def test_the_class_images_of_each_prompt_have_a_different_prefix(tmp_path: Path) -> None:
    prompts = ["a photo of a mug", "a photo of a Mug", "../../etc", "a photo of " + "x" * 300, "é", "日本", ""]
    prefixes = [run_folder(tmp_path).class_images(prompt) for prompt in prompts]
    assert len(set(prefixes)) == len(prompts)
    for prefix in prefixes:
        start, name, end = prefix.split("/")
        assert (start, end) == ("class_images", "")
        assert len(name) < 60 and name.isascii()


def test_dropped_weights_are_gone_but_their_report_stays(tmp_path: Path) -> None:
    folder, made = run_folder(tmp_path / "run"), tmp_path / "made"
    (made / "unet").mkdir(parents=True)
    (made / "unet" / "weights").write_bytes(b"weights")
    folder.write_weights("mug", made, {"seed": 1})
    assert folder.has_weights("mug")
    assert (folder.store.local_copy(folder.weights("mug")) / "unet" / "weights").read_bytes() == b"weights"
    for _ in range(2):
        folder.drop_weights("mug")
    assert not folder.has_weights("mug")
    assert keys(folder) == ["fine_tuned/mug.json"]
