"""Boxes, masks and maps are sent in pixels of the image, whatever size they were found at."""

from __future__ import annotations

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco

from persrep_ray.serving.engine.answers import Localization
from persrep_ray.serving.http.drawing import as_rle, asked_size, enlarged

NO_MAP = np.zeros((1, 1), np.float32)


@pytest.mark.parametrize(
    ("size", "asked"),
    [
        ((20, 30), (20, 30)),
        ((2048, 2048), (2048, 2048)),
        ((2049, 10), (2048, 10)),
        ((5000, 8000), (1280, 2048)),
        ((10_000_000, 4), (2048, 1)),
    ],
)
def test_large_images_are_asked_for_at_a_smaller_size(size: tuple[int, int], asked: tuple[int, int]) -> None:
    assert asked_size(size) == asked


def test_a_mask_grows_by_whole_pixels_and_its_box_with_it() -> None:
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2:5] = True
    found = enlarged(Localization((2, 1, 3, 2), mask, 0.5, NO_MAP), (12, 10))
    np.testing.assert_array_equal(found.mask, np.kron(mask, np.ones((3, 2), bool)))
    assert found.box == (4, 3, 6, 6) and found.score == 0.5


def test_a_pixel_takes_the_value_below_its_centre() -> None:
    found = enlarged(Localization((1, 0, 1, 1), np.array([[False, True]]), 0.5, NO_MAP), (1, 5))
    np.testing.assert_array_equal(found.mask, [[False, False, True, True, True]])
    assert found.box == (2, 0, 3, 1)


@pytest.mark.parametrize("size", [(7, 9), (2049, 3000), (4, 5), (5, 6), (1001, 5)])
def test_the_box_is_that_of_the_mask_at_every_size(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = np.zeros((4, 5), bool)
        (top, bottom), (left, right) = np.sort(rng.choice(5, 2, False)), np.sort(rng.choice(6, 2, False))
        mask[top:bottom, left:right] = True
        box = (int(left), int(top), int(right - left), int(bottom - top))
        found = enlarged(Localization(box, mask, 0.5, NO_MAP), size)
        assert found.mask is not None and found.box is not None and found.mask.shape == size
        rows, columns = np.flatnonzero(found.mask.any(axis=1)), np.flatnonzero(found.mask.any(axis=0))
        assert found.box == (columns[0], rows[0], len(columns), len(rows))
        assert all(type(value) is int for value in found.box)
        assert found.mask.sum() == len(rows) * len(columns)


def test_nothing_found_stays_nothing() -> None:
    nothing = Localization(None, None, -1.0, NO_MAP)
    assert enlarged(nothing, (10, 10)) is nothing


def test_run_lengths_are_cocos() -> None:
    mask = np.random.default_rng(0).random((13, 21)) > 0.5
    encoded = as_rle(mask)
    assert encoded.size == [13, 21]
    np.testing.assert_array_equal(coco.decode({"size": [13, 21], "counts": encoded.counts.encode()}), mask)
