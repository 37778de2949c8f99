from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from persrep_ray.config import DataConfig, GenerateConfig
from persrep_ray.data.images import encode_jpeg
from persrep_ray.generate.cut_paste.backgrounds import Backgrounds
from persrep_ray.generate.cut_paste.composer import Composer
from persrep_ray.generate.cut_paste.cutouts import Cutout, make_cutout
from persrep_ray.generate.cut_paste.photos import PhotoPool
from persrep_ray.generate.types import Chunk, Role, SyntheticImage

SIZE = 64
COLOURS = {"blue": (30, 40, 220), "green": (30, 200, 40), "red": (220, 30, 30), "teal": (20, 190, 190)}
CATEGORIES = {"blue": "cold", "green": "cold", "red": "warm", "teal": "cold"}


def cutouts(*names: str) -> dict[str, list[Cutout]]:
    """For each object, a disc and a box of its colour."""
    result = {}
    for name in names:
        image = np.full((100, 100, 3), 128, np.uint8)
        round_mask, box_mask = (np.zeros((100, 100), np.uint8) for _ in range(2))
        cv2.circle(round_mask, (50, 50), 35, 1, -1)
        cv2.rectangle(box_mask, (30, 20), (70, 80), 1, -1)
        painted = [np.where(m[..., None] > 0, np.array(COLOURS[name], np.uint8), image) for m in (round_mask, box_mask)]
        result[name] = [
            make_cutout(name, image, m > 0) for image, m in zip(painted, (round_mask, box_mask), strict=True)
        ]
    return result


def composer(*names: str, photos: tuple[Path, ...] = (), **changes: object) -> Composer:
    config, limits = GenerateConfig.model_validate({"image_size": SIZE, **changes}), DataConfig()
    return Composer(config, cutouts(*names), CATEGORIES, Backgrounds([], limits), PhotoPool(photos, limits), limits)


def chunk(object_id: str = "red", role: Role = "positive", start: int = 0, count: int = 8, seed: int = 7) -> Chunk:
    return Chunk(object_id, role, start, count, seed, "cut_paste")


def same(first: SyntheticImage, second: SyntheticImage) -> bool:
    fields = ("object_id", "role", "generator", "prompt", "seed", "score", "source_id")
    return (
        all(getattr(first, name) == getattr(second, name) for name in fields)
        and np.array_equal(first.image, second.image)
        and np.array_equal(first.mask, second.mask)
    )


@pytest.mark.parametrize("role", ["positive", "negative"])
def test_chunking_changes_nothing(role: Role) -> None:
    whole = composer("red", "blue").compose(chunk(role=role, count=4))
    chunked = composer("red", "blue")
    late = chunked.compose(chunk(role=role, start=2, count=2))
    early = chunked.compose(chunk(role=role, count=2))
    assert all(same(one, two) for one, two in zip(whole, early + late, strict=True))


def test_a_composer_that_was_used_and_pickled_makes_the_same_images() -> None:
    first = composer("red", "blue", "green")
    before = first.compose(chunk())
    after = pickle.loads(pickle.dumps(first)).compose(chunk())
    assert all(same(one, two) for one, two in zip(before, after, strict=True))


def test_seed_object_role_and_index_each_change_the_image() -> None:
    make = composer("red", "blue")
    base = make.compose(chunk(count=1))[0]
    others = [
        make.compose(chunk(count=1, seed=8))[0],
        make.compose(chunk("blue", count=1))[0],
        make.compose(chunk(start=2, count=1))[0],
    ]
    assert all(not np.array_equal(base.image, other.image) for other in others)
    assert len({base.seed, *(other.seed for other in others)}) == 4


def test_positives_show_the_object_where_the_mask_says() -> None:
    for one in composer("red", "blue").compose(chunk(count=24)):
        assert (one.image.shape, one.image.dtype) == ((SIZE, SIZE, 3), np.uint8)
        assert (one.mask.shape, one.mask.dtype) == ((SIZE, SIZE), np.bool_)
        assert one.source_id == "red" and one.generator == "cut_paste" and one.prompt is None and one.score is None
        assert 0.01 < one.mask.mean() < 0.65
        red, green, blue = np.median(one.image[one.mask], axis=0)
        assert red > green + 25 and red > blue + 25


def test_occluders_and_neighbours_are_not_in_the_mask() -> None:
    hidden = composer("red", "blue", occlusion=1.0).compose(chunk(count=24))
    whole = composer("red", "blue", occlusion=0.0).compose(chunk(count=24))
    shares = [one.mask.sum() / two.mask.sum() for one, two in zip(hidden, whole, strict=True)]
    assert max(shares) <= 1 and min(shares) > 0.5
    assert sum(share < 0.98 for share in shares) > 12


def test_a_counterpart_is_the_same_scene_with_another_object() -> None:
    make = composer("red", "blue", occlusion=0.0)
    positives = make.compose(chunk(count=12))
    negatives = make.compose(chunk(role="negative", count=12))

    def difference(index: int) -> float:
        positive, negative = positives[index], negatives[index]
        outside = ~cv2.dilate((positive.mask | negative.mask).astype(np.uint8), np.ones((9, 9))).astype(bool)
        return float(np.abs(positive.image[outside].astype(float) - negative.image[outside]).mean())

    assert {one.source_id for one in negatives} == {"blue"}
    counterparts, others = [difference(i) for i in range(0, 12, 2)], [difference(i) for i in range(1, 12, 2)]
    assert np.median(counterparts) < 6 < np.median(others)


def test_negatives_prefer_the_category_by_the_configured_share() -> None:
    only_alike = composer("blue", "green", "red", same_category=1.0).compose(chunk("blue", "negative", count=10))
    assert {one.source_id for one in only_alike} == {"green"}
    never_alike = composer("blue", "green", "red", same_category=0.0).compose(chunk("blue", "negative", count=10))
    assert {one.source_id for one in never_alike} == {"red"}
    alone_in_category = composer("blue", "green", "red").compose(chunk("red", "negative", count=24))
    assert {one.source_id for one in alone_in_category} == {"blue", "green"}


def test_half_of_the_negatives_come_from_the_given_photos(tmp_path: Path) -> None:
    path = tmp_path / "shop.jpg"
    path.write_bytes(encode_jpeg(np.full((90, 120, 3), (90, 60, 30), np.uint8)))
    make = composer("red", "blue", photos=(path,))
    negatives = make.compose(chunk(role="negative", count=8))
    assert [one.source_id for one in negatives] == ["blue", "shop"] * 4
    assert not any(one.mask.any() for one in negatives[1::2])
    assert np.allclose(negatives[1].image, (90, 60, 30), atol=6)


def test_an_object_alone_gets_scenes_without_an_object() -> None:
    negatives = composer("red").compose(chunk(role="negative", count=6))
    assert {one.source_id for one in negatives} == {"background"}
    assert not any(one.mask.any() for one in negatives)


def test_an_object_without_a_cutout_fails_by_name() -> None:
    limits = DataConfig()
    given = {**cutouts("blue"), "red": []}
    make = Composer(GenerateConfig(image_size=SIZE), given, {}, Backgrounds([], limits), PhotoPool([], limits), limits)
    with pytest.raises(ValueError, match="object red: generate: no photo gave a cutout"):
        make.compose(chunk())
    assert make.compose(chunk(role="negative", count=1))[0].source_id == "blue"


@pytest.mark.parametrize("size", [32, 33, 200])
def test_any_size_works(size: int) -> None:
    make = composer("red", "blue", image_size=size, occlusion=1.0, object_area=(0.001, 1.0), rotation=180.0)
    images = make.compose(chunk(count=12)) + make.compose(chunk(role="negative", count=12))
    assert all(one.image.shape == (size, size, 3) for one in images)
