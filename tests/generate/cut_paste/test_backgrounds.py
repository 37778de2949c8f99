from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from persrep_ray.config import DataConfig
from persrep_ray.data.images import encode_jpeg
from persrep_ray.generate.cut_paste.backgrounds import Backgrounds
from persrep_ray.generate.cut_paste.photos import PhotoPool
from persrep_ray.generate.cut_paste.scenes import SCENES, procedural
from persrep_ray.generate.cut_paste.textures import MATERIALS

GREEN = np.full((40, 60, 3), (20, 200, 40), np.uint8)


def test_procedural_scenes_are_decided_by_the_generator_alone_and_differ() -> None:
    images = [procedural(np.random.default_rng(i), 48) for i in range(12)]
    again = [procedural(np.random.default_rng(i), 48) for i in range(12)]
    assert all(np.array_equal(one, two) for one, two in zip(images, again, strict=True))
    assert all(image.shape == (48, 48, 3) and image.dtype == np.uint8 for image in images)
    means = np.array([image.mean(axis=(0, 1)) for image in images])
    assert means.std(axis=0).min() > 15


@pytest.mark.parametrize("make", [one for one, _ in (*SCENES, *MATERIALS)], ids=lambda one: one.__name__)
@pytest.mark.parametrize("size", [32, 65])
def test_every_scene_and_material_is_finite_at_any_size(make, size: int) -> None:  # type: ignore[no-untyped-def]
    for seed in range(6):
        image = make(np.random.default_rng(seed), size)
        assert image.shape == (size, size, 3)
        assert np.isfinite(image).all()
        assert 0.02 < np.clip(image, 0, 1).mean() < 0.99


def test_photos_are_used_and_a_small_share_stays_procedural(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encode_jpeg(GREEN))
    backgrounds = Backgrounds([tmp_path / "a.jpg"], DataConfig())
    images = [backgrounds.sample(np.random.default_rng(i), 32) for i in range(60)]
    photos = sum(bool(one[..., 1].min() > 120 and one[..., 0].max() < 60) for one in images)
    assert 42 <= photos < 60


def test_unreadable_photos_are_listed_and_skipped(tmp_path: Path) -> None:
    (tmp_path / "good.jpg").write_bytes(encode_jpeg(GREEN))
    (tmp_path / "bad.jpg").write_bytes(encode_jpeg(GREEN)[:200])
    paths = [tmp_path / name for name in ("good.jpg", "bad.jpg", "missing.jpg")]
    backgrounds = Backgrounds(paths, DataConfig())
    assert {problem.path.name for problem in backgrounds.problems} == {"bad.jpg", "missing.jpg"}
    assert backgrounds.sample(np.random.default_rng(0), 32).shape == (32, 32, 3)


def test_pool_reads_an_even_choice_and_crops_squares(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.jpg" for i in range(6)]
    for path in paths:
        path.write_bytes(encode_jpeg(GREEN))
    pool = PhotoPool(paths, DataConfig(), side=20, most=4)
    assert len(pool) == 4
    stem, crop = pool.crop(np.random.default_rng(0), 16)
    assert stem in "012345" and crop.shape == (16, 16, 3)


def test_an_empty_pool_says_so() -> None:
    with pytest.raises(ValueError, match="no readable photo"):
        PhotoPool([], DataConfig()).crop(np.random.default_rng(0), 16)
