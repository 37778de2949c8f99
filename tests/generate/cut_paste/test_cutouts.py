from __future__ import annotations

import cv2
import numpy as np
import pytest

from persrep_ray.generate.cut_paste.cutouts import make_cutout


def disc(size: int = 200, radius: int = 60, centre: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A red disc on blue whose mask is two pixels too wide: the rim is blue."""
    middle = centre or (size // 2, size // 2)
    image = np.empty((size, size, 3), np.uint8)
    image[:] = (0, 0, 255)
    cv2.circle(image, middle, radius, (255, 0, 0), -1)
    mask = np.zeros((size, size), np.uint8)
    cv2.circle(mask, middle, radius + 1, 1, -1)
    return image, mask > 0


def test_no_background_colour_is_left_where_the_object_shows() -> None:
    image, mask = disc()
    cutout = make_cutout("mug", image, mask)
    pasted = cutout.alpha[..., None] * cutout.image
    assert pasted[..., 2].max() < 8
    assert cutout.image[cutout.alpha > 0.9][:, 0].min() > 240


def test_crop_is_the_box_with_a_small_margin_and_a_feathered_alpha() -> None:
    image, mask = disc()
    cutout = make_cutout("mug", image, mask)
    assert cutout.image.shape == (123 + 4, 123 + 4, 3)
    assert cutout.alpha.dtype == np.float32 and cutout.alpha.min() == 0 and cutout.alpha.max() == 1
    assert ((cutout.alpha > 0.05) & (cutout.alpha < 0.95)).any()
    # Drawn in by about a pixel.
    assert 0.93 < (cutout.alpha > 0.5).sum() / mask.sum() < 0.99


def test_max_side_bounds_the_longer_side() -> None:
    image, mask = disc()
    assert max(make_cutout("mug", image, mask, max_side=50).alpha.shape) <= 50 + 5


def test_a_thin_part_survives_with_its_own_colour() -> None:
    image, mask = disc(400, 120)
    image[195:205, 320:395] = (0, 255, 0)
    mask[195:205, 320:395] = True
    cutout = make_cutout("mug", image, mask)
    height, width = cutout.alpha.shape
    handle = cutout.alpha[height // 2 - 5 : height // 2 + 5, width - 30 : width - 20]
    assert handle.max() == 1.0
    assert tuple(cutout.image[height // 2, width - 25]) == (0, 255, 0)


def test_sides_cut_off_by_the_frame_are_told() -> None:
    image, mask = disc(centre=(100, 180))
    cutout = make_cutout("mug", image, mask)
    assert (cutout.cut_left, cutout.cut_top, cutout.cut_right, cutout.cut_bottom) == (False, False, False, True)


def test_the_frame_of_a_photo_that_the_object_fills_cuts_nothing_off() -> None:
    image = np.full((30, 40, 3), 90, np.uint8)
    cutout = make_cutout("box", image, np.ones((30, 40), np.bool_))
    assert not (cutout.cut_left or cutout.cut_top or cutout.cut_right or cutout.cut_bottom)


def test_a_mask_that_is_empty_or_of_another_size_is_refused_by_name() -> None:
    image, mask = disc()
    with pytest.raises(ValueError, match=r"object mug: the mask has 0 pixels"):
        make_cutout("mug", image, np.zeros_like(mask))
    with pytest.raises(ValueError, match=r"object mug: .*do not fit"):
        make_cutout("mug", image, mask[:-1])
