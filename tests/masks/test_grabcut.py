from __future__ import annotations

import cv2
import numpy as np
import pytest

from persrep_ray.config import MaskConfig
from persrep_ray.masks.grabcut import MaskError, mask_from_saliency

CONFIG = MaskConfig(working_size=96)


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A red disc on noisy grass, (120, 160, 3), and its true mask."""
    rng = np.random.default_rng(seed)
    image = np.empty((120, 160, 3), np.uint8)
    image[:] = (60, 130, 50)
    truth = np.zeros((120, 160), np.uint8)
    cv2.circle(truth, (80, 60), 30, 1, -1)
    image[truth > 0] = (200, 40, 40)
    noisy = np.clip(image + rng.normal(0, 12, image.shape), 0, 255)
    return noisy.astype(np.uint8), truth > 0


def coarse_map(truth: np.ndarray, low: float = 0.05, high: float = 0.95) -> np.ndarray:
    """A map as a network gives it: blurred, 20 x 20 cells, and a little off to the side."""
    shifted = np.roll(truth, 5, axis=1).astype(np.float32)
    small = cv2.resize(cv2.GaussianBlur(shifted, (0, 0), 4), (20, 20), interpolation=cv2.INTER_AREA)
    return (low + (high - low) * small).astype(np.float32)


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def test_a_mask_follows_the_edges_of_the_image_not_of_the_map() -> None:
    image, truth = scene()
    saliency = coarse_map(truth)
    thresholded = cv2.resize(saliency, (160, 120)) > 0.5
    mask = mask_from_saliency(image, saliency, CONFIG)
    assert mask.shape == truth.shape and mask.dtype == np.bool_
    assert iou(mask, truth) > 0.95 > iou(thresholded, truth)


def test_same_input_gives_the_same_mask() -> None:
    image, truth = scene()
    first = mask_from_saliency(image, coarse_map(truth), CONFIG)
    cv2.setRNGSeed(99)
    assert np.array_equal(first, mask_from_saliency(image, coarse_map(truth), CONFIG))


def test_if_there_are_two_things_that_in_the_middle_is_kept() -> None:
    image, truth = scene()
    both = truth.copy()
    both[2:30, 2:30] = True
    image[2:30, 2:30] = (200, 40, 40)
    mask = mask_from_saliency(image, both.astype(np.float32), CONFIG)
    assert not mask[:30, :30].any()
    assert iou(mask, truth) > 0.9


def test_small_holes_are_filled_and_a_large_hole_without_saliency_is_kept() -> None:
    image, truth = scene()
    image[59:62, 79:82] = (60, 130, 50)
    assert mask_from_saliency(image, truth.astype(np.float32), CONFIG)[60, 80]
    ring = truth.astype(np.uint8)
    cv2.circle(ring, (80, 60), 17, 0, -1)
    image[(ring == 0) & truth] = (60, 130, 50)
    mask = mask_from_saliency(image, ring.astype(np.float32), CONFIG)
    assert not mask[60, 80]
    assert mask[60, 80 + 24]


def test_a_weak_map_still_gives_the_object() -> None:
    image, truth = scene()
    assert iou(mask_from_saliency(image, coarse_map(truth, 0.03, 0.36), CONFIG), truth) > 0.9


def test_an_image_of_a_single_colour_still_gives_about_the_map() -> None:
    _, truth = scene()
    mask = mask_from_saliency(np.full((120, 160, 3), 90, np.uint8), truth.astype(np.float32), CONFIG)
    assert iou(mask, truth) > 0.7


def test_an_object_that_fills_the_image_is_masked_as_a_whole() -> None:
    image, _ = scene()
    saliency = np.full((20, 20), 0.95, np.float32)
    saliency[0] = 0.0
    assert mask_from_saliency(image, saliency, CONFIG).mean() > 0.85


@pytest.mark.parametrize("level", [0.0, 0.33, 0.9])
def test_a_flat_map_shows_no_foreground(level: float) -> None:
    image, _ = scene()
    with pytest.raises(MaskError, match="no foreground found"):
        mask_from_saliency(image, np.full((20, 20), level, np.float32), CONFIG)


def test_a_map_that_is_not_finite_is_refused() -> None:
    image, _ = scene()
    with pytest.raises(MaskError, match="finite"):
        mask_from_saliency(image, np.full((20, 20), np.nan, np.float32), CONFIG)
