"""The same photo in two places is found, whatever was done to it on the way."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from persrep_ray.config import DataConfig
from persrep_ray.data.duplicates import find_groups, is_same, perceptual_hashes
from persrep_ray.data.images import decode_rgb, encode_jpeg

Image = NDArray[np.uint8]


def photo(seed: int, height: int = 240, width: int = 320) -> Image:
    """A random scene of discs, which has the low frequencies of a photo."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), rng.integers(40, 200, 3), np.uint8)
    for _ in range(25):
        centre = int(rng.integers(width)), int(rng.integers(height))
        cv2.circle(image, centre, int(rng.integers(10, 70)), tuple(map(int, rng.integers(0, 255, 3))), -1)
    return image


def groups(images: list[Image]) -> list[tuple[int, ...]]:
    return find_groups(
        [perceptual_hashes(cv2.cvtColor(one, cv2.COLOR_RGB2GRAY)) for one in images], lambda i: images[i]
    )


COPIES = {
    "encoded again": lambda image: decode_rgb(encode_jpeg(image, quality=40), DataConfig(), "copy"),
    "smaller": lambda image: cv2.resize(image, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA),
    "larger": lambda image: cv2.resize(image, None, fx=1.7, fy=1.7),
    "cropped": lambda image: image[3:-4, 8:-2],
    "cropped and encoded": lambda image: decode_rgb(encode_jpeg(image[4:-4, 5:-5], quality=60), DataConfig(), "copy"),
}


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_is_found_among_other_photos(copied: str) -> None:
    images = [photo(seed) for seed in range(20)]
    assert groups(images) == []
    for index in (0, 7, 13):
        assert groups([*images, COPIES[copied](images[index])]) == [(index, 20)]


def test_two_colours_of_one_product_are_two_photos() -> None:
    first = photo(1)
    second = first[..., ::-1].copy()  # red and blue change places
    assert not is_same(first, second) and groups([first, second]) == []


def test_a_picture_in_thousands_of_folders_is_one_group_and_is_read_about_as_often() -> None:
    blank, read = np.full((40, 40, 3), 255, np.uint8), 0

    def count(index: int) -> Image:
        nonlocal read
        read += 1
        return blank

    found = find_groups([perceptual_hashes(blank[..., 0])] * 3000, count)
    assert [len(group) for group in found] == [3000]
    assert read < 3 * 3000


def test_thousands_of_photos_that_only_look_the_same_are_compared_a_few_times_each() -> None:
    rng, read = np.random.default_rng(0), 0

    def different(index: int) -> Image:
        nonlocal read
        read += 1
        return rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)

    assert find_groups([(1, 1, 1)] * 500, different) == []
    assert read <= 2 * 8 * 500


def test_a_photo_that_cannot_be_read_any_more_is_in_no_group() -> None:
    assert find_groups([(5, 5, 5), (5, 5, 5)], lambda _: None) == []


def test_thirty_thousand_photos_take_no_quadratic_time() -> None:
    codes = np.random.default_rng(0).integers(0, 2**63, (30_000, 3), dtype=np.uint64)
    codes[-1] = codes[0] ^ np.uint64(0b101)  # a near copy
    same = np.zeros((8, 8, 3), np.uint8)
    assert find_groups([tuple(row) for row in codes.tolist()], lambda _: same) == [(0, 29_999)]
