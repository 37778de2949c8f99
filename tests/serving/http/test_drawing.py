"""Boxes, masks and maps are sent in pixels of the image, whatever size they were found at."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco

from persrep_ray.config import DataConfig
from persrep_ray.data.images import decode_mask
from persrep_ray.serving.http.drawing import as_png, as_rle, enlarged
from persrep_ray.tasks.dense import Instance, bounding_box, crop


def instance_of(mask: np.ndarray) -> Instance:
    """The instance whose mask on the whole image is `mask`."""
    box = bounding_box(mask)
    assert box is not None
    return Instance(box, crop(mask, box), 0.5, 0.75)


def test_a_mask_grows_by_whole_pixels_and_its_box_with_it() -> None:
    mask = np.zeros((4, 5), bool)
    mask[1, 2:5] = mask[2, 2] = True
    found = enlarged(instance_of(mask), (4, 5), (12, 10))
    np.testing.assert_array_equal(found.mask_in((12, 10)), np.kron(mask, np.ones((3, 2), bool)))
    assert found.box.tolist() == [4, 3, 6, 6] and (found.score, found.probability) == (0.5, 0.75)


def test_a_pixel_takes_the_value_below_its_centre() -> None:
    found = enlarged(instance_of(np.array([[False, True]])), (1, 2), (1, 5))
    np.testing.assert_array_equal(found.mask_in((1, 5)), [[False, False, True, True, True]])
    assert found.box.tolist() == [2, 0, 3, 1]


@pytest.mark.parametrize("size", [(7, 9), (2049, 3000), (4, 5), (5, 6), (1001, 5)])
def test_the_box_is_that_of_the_mask_at_every_size(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = np.zeros((4, 5), bool)
        (top, bottom), (left, right) = np.sort(rng.choice(5, 2, False)), np.sort(rng.choice(6, 2, False))
        mask[top:bottom, left:right] = True
        found = enlarged(instance_of(mask), (4, 5), size)
        assert found.mask.all() and found.mask.shape == (found.box[3], found.box[2])
        np.testing.assert_array_equal(found.box, bounding_box(found.mask_in(size)))


@pytest.mark.parametrize("part", [np.s_[3:9, 4:17], np.s_[:, :], np.s_[0:4, 0:2], np.s_[9:, 19:], np.s_[:, 5:9]])
def test_run_lengths_are_cocos_for_the_whole_image(part: tuple[slice, slice]) -> None:
    for density in (0.5, 2.0):
        mask = np.zeros((13, 21), bool)
        mask[part] = np.random.default_rng(0).random(mask[part].shape) < density
        encoded = as_rle(instance_of(mask), (13, 21))
        assert encoded.size == [13, 21]
        assert encoded.counts.encode() == coco.encode(np.asfortranarray(mask, np.uint8))["counts"]


def test_a_png_shows_the_box_alone() -> None:
    mask = np.zeros((9, 9), bool)
    mask[2:5, 3:8] = np.random.default_rng(0).random((3, 5)) < 0.5
    one = instance_of(mask)
    np.testing.assert_array_equal(decode_mask(base64.b64decode(as_png(one).png), DataConfig(), "mask"), one.mask)
