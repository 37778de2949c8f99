from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.probes import FRONT, GROUND, patches, tiny_probes
from helpers.tiny import COLOURS, shape
from helpers.tiny_sam import save_tiny_sam
from PIL import Image

from persrep_ray.config import MaskConfig, RunConfig, SamConfig
from persrep_ray.data.images import decode_mask
from persrep_ray.data.objects import Photo
from persrep_ray.masks.photos import FILLED, WHOLE_PHOTO, PhotoMasker, PhotoMasks
from persrep_ray.masks.sam import SamSegmenter


def photo(folder: Path, seed: int, *, mask: bool) -> Photo:
    image, truth = shape(COLOURS["red"], seed, size=90)
    paths = folder / f"{seed}.png", folder / f"{seed}_mask.png"
    for path, array in zip(paths, (image[:70], truth[:70]), strict=True):
        Image.fromarray(array).save(path)
    return Photo("mug", paths[0], paths[1] if mask else None, None)


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def arrays(made: PhotoMasks) -> list[np.ndarray | None]:
    return [None if png is None else decode_mask(png, RunConfig().data, "mask") for png in made.masks]


def sam_config(folder: Path) -> RunConfig:
    return RunConfig(masks=MaskConfig(method="sam", sam=SamConfig(name=str(folder), weight_steps=20)))


@pytest.fixture
def sam(tmp_path: Path) -> Path:
    return save_tiny_sam(tmp_path / "sam")


@pytest.mark.parametrize("method", ["embedded", "sam"])
def test_masks_by_the_user_win_and_need_no_network(tmp_path: Path, method: Any) -> None:
    photos = [photo(tmp_path, seed, mask=True) for seed in (0, 1)]
    config = RunConfig(masks=MaskConfig(method=method, sam=SamConfig(name=str(tmp_path / "absent"))))
    made = PhotoMasker(config)(photos)
    assert made.problems == []
    for one, mask in zip(photos, arrays(made), strict=True):
        assert one.mask and mask is not None and np.array_equal(mask, pixels(one.mask))


def test_sam_learns_from_the_first_photo_with_a_mask(tmp_path: Path, sam: Path) -> None:
    photos = [photo(tmp_path, 0, mask=False), photo(tmp_path, 1, mask=True), photo(tmp_path, 2, mask=True)]
    made = PhotoMasker(sam_config(sam))(photos)
    segmenter = SamSegmenter(SamConfig(name=str(sam), weight_steps=20))
    assert photos[1].mask and photos[2].mask
    reference = segmenter.refer(segmenter.embed(pixels(photos[1].path)), pixels(photos[1].mask))
    expected = segmenter.segment_like(segmenter.embed(pixels(photos[0].path)), reference)
    assert made.problems == []
    for mask, wanted in zip(
        arrays(made), (expected, *(pixels(one.mask) for one in photos[1:] if one.mask)), strict=True
    ):
        assert mask is not None and np.array_equal(mask, wanted)


def test_a_broken_mask_is_reported_and_the_next_one_is_learned_from(tmp_path: Path, sam: Path) -> None:
    photos = [photo(tmp_path, 0, mask=True), photo(tmp_path, 1, mask=True), photo(tmp_path, 2, mask=False)]
    assert photos[0].mask
    photos[0].mask.write_bytes(b"no mask")
    made = PhotoMasker(sam_config(sam))(photos)
    without = PhotoMasker(sam_config(sam))(photos[1:])
    assert arrays(made)[0] is None and len(made.problems) == 1 and made.problems[0].startswith(str(photos[0].path))
    assert arrays(made)[2] is not None and arrays(without)[1] is not None
    assert np.array_equal(arrays(made)[2], arrays(without)[1])


def test_without_any_mask_the_saliency_prompts_sam(tmp_path: Path, sam: Path) -> None:
    photos = [photo(tmp_path, 0, mask=False), photo(tmp_path, 1, mask=False)]
    under_test: Any = PhotoMasker(sam_config(sam))
    saliency = np.zeros((20, 20), np.float32)
    saliency[5:15, 5:15] = 1
    under_test._masker.look = lambda image: (saliency if image[0, 0, 0] == corner else saliency * 0, None)
    corner = pixels(photos[1].path)[0, 0, 0]
    made = under_test(photos)
    assert arrays(made)[0] is None and arrays(made)[1] is not None and arrays(made)[1].shape == (70, 90)
    assert made.problems == [f"{photos[0].path}: mask: the similarity map is flat"]


def test_an_object_without_any_foreground_is_taken_to_fill_its_photos(tmp_path: Path) -> None:
    photos = [Photo("mug", tmp_path / f"{name}.png", None, None) for name in "abc"]
    for taken in photos[:2]:
        Image.new("RGB", (40, 30), "grey").save(taken.path)
    assert isinstance(photos[2].path, Path)
    photos[2].path.write_bytes(b"no image")
    under_test: Any = PhotoMasker(RunConfig())
    under_test._masker.look = lambda image: (np.zeros((20, 20), np.float32), patches(GROUND))
    under_test._masker._probes = tiny_probes()
    made = under_test(photos)
    assert arrays(made)[2] is None
    for mask in arrays(made)[:2]:
        assert mask is not None and mask.shape == (30, 40) and mask.all()
    assert len(made.problems) == 4
    assert made.problems[-1].startswith(f"object mug: {WHOLE_PHOTO}")


def test_a_photo_that_a_package_fills_is_its_mask_and_the_user_is_told(tmp_path: Path) -> None:
    taken = photo(tmp_path, 0, mask=False)
    under_test: Any = PhotoMasker(RunConfig())
    under_test._masker.look = lambda image: (np.zeros((20, 20), np.float32), patches(FRONT))
    under_test._masker._probes = tiny_probes()
    made = under_test([taken])
    assert arrays(made)[0] is not None and arrays(made)[0].shape == (70, 90) and arrays(made)[0].all()
    assert made.problems == [f"{taken.path}: {FILLED}; provide a mask if it does not"]
