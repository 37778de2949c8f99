"""Masks of all kinds of labelling tools are read right, or refused with what was seen."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from persrep_ray.config import DataConfig
from persrep_ray.data.images import ImageError, decode_mask

LIMITS = DataConfig()


def encoded(image: Image.Image | np.ndarray, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, image_format, **options)
    return buffer.getvalue()


MASK = np.array([[False, True, True], [False, False, True]])


def palette_mask(colour: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(MASK.astype(np.uint8))
    image.putpalette([0, 0, 0, *colour])
    return image


@pytest.mark.parametrize(
    "image",
    [
        MASK,
        np.where(MASK, 255, 0).astype(np.uint8),
        np.where(MASK, 128, 127).astype(np.uint8),
        MASK.astype(np.uint8),
        MASK.astype(np.uint16),
        np.where(MASK, 65535, 300).astype(np.uint16),
        np.where(MASK[:, :, None], 255, 0).repeat(3, axis=2).astype(np.uint8),
        palette_mask((128, 0, 0)),  # the first label colour of PASCAL VOC and DAVIS: darker than mid-grey
        palette_mask((255, 255, 255)),
        Image.merge("LA", [Image.new("L", (3, 2), 255), Image.fromarray(np.where(MASK, 255, 0).astype(np.uint8))]),
    ],
)
def test_every_kind_of_mask_is_read(image: Image.Image | np.ndarray) -> None:
    mask = decode_mask(encoded(image), LIMITS, "here")
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, MASK)


def test_compression_noise_is_not_an_object() -> None:
    assert not decode_mask(encoded(np.full((8, 8), 3, np.uint8)), LIMITS, "here").any()
    assert not decode_mask(encoded(np.zeros((8, 8), np.uint8)), LIMITS, "here").any()


DISC = np.hypot(*np.mgrid[-30:30, -40:40]) < 18
RING = (np.hypot(*np.mgrid[-30:30, -40:40]) < 21) & ~DISC
VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [0] * 3 * 251 + [224, 224, 192]


def values(inside: int, ring: int = 0, outside: int = 0) -> np.ndarray:
    return np.where(DISC, inside, np.where(RING, ring, outside)).astype(np.uint8)


def palette(image: np.ndarray, colours: list[int]) -> Image.Image:
    found = Image.fromarray(image)
    found.putpalette(colours)
    return found


def colours(inside: tuple[int, ...], ring: tuple[int, ...], outside: tuple[int, ...]) -> np.ndarray:
    return np.array([outside, ring, inside], np.uint8)[DISC * 2 + RING * 1]


def soft(image: np.ndarray, sigma: float = 1.5) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma)


PHOTO = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
BLACK, RED, CREAM = (0, 0, 0), (200, 30, 40), (224, 224, 192)


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(palette(values(1, 255), VOC), id="a VOC class with its void"),
        pytest.param(palette(values(3, 255), VOC), id="another VOC class"),
        pytest.param(palette(values(1, 0), VOC), id="a DAVIS palette"),
        pytest.param(palette(values(0, 1, 1), [255, 255, 255, 0, 0, 0]), id="a palette that begins with white"),
        pytest.param(palette(values(1, 0), [0, 0, 0, 1, 1, 1]), id="a palette of greys"),
        pytest.param(values(1, 255), id="labels with void, saved as grey"),
        pytest.param(values(7), id="a grey label"),
        pytest.param(values(38), id="a VOC colour that was made grey"),
        pytest.param(soft(values(255)), id="soft edges"),
        pytest.param(soft(values(250, 0, 3)), id="soft edges between nearly white and nearly black"),
        pytest.param(values(254, 0, 2), id="nearly white and nearly black"),
        pytest.param(values(1).astype(np.uint16) * 1001, id="a 16-bit instance"),
        pytest.param(soft(values(255)).astype(np.uint16) * 257, id="16-bit soft edges"),
        pytest.param(colours(RED, BLACK, BLACK), id="a colour"),
        pytest.param(colours((128, 0, 0), CREAM, BLACK), id="VOC colours as RGB"),
        pytest.param(soft(colours((128, 0, 0), BLACK, BLACK)), id="a dark colour with soft edges"),
        pytest.param(np.dstack([PHOTO, values(255)]), id="a cut-out photo"),
        pytest.param(np.dstack([PHOTO, soft(values(255))]), id="a cut-out photo with soft edges"),
        pytest.param(np.dstack([np.zeros_like(PHOTO), values(255)]), id="a black object on transparency"),
        pytest.param(np.dstack([colours(RED, BLACK, BLACK), values(120)]), id="a colour that shines through"),
        pytest.param(np.dstack([colours(RED, BLACK, BLACK), values(255, 255, 255)]), id="a colour, opaque"),
        pytest.param(np.dstack([values(255)] * 3 + [values(255, 255, 0)]), id="black and white, transparent around"),
    ],
)
def test_what_labelling_tools_write_is_read(image: Image.Image | np.ndarray) -> None:
    np.testing.assert_array_equal(decode_mask(encoded(image), LIMITS, "here"), DISC)


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP"])
@pytest.mark.parametrize("image", [values(255), colours(RED, BLACK, BLACK), colours((0, 255, 0), BLACK, BLACK)])
def test_lossy_masks_are_read_up_to_their_noise(image: np.ndarray, image_format: str) -> None:
    mask = decode_mask(encoded(image, image_format, quality=90), LIMITS, "here")
    assert (mask != DISC).mean() < 0.01


def test_the_noise_of_a_lossy_mask_that_was_saved_again_is_no_label() -> None:
    noisy = np.array(Image.open(io.BytesIO(encoded(values(255), "JPEG", quality=70))))
    assert len(np.unique(noisy)) > 20
    assert (decode_mask(encoded(noisy), LIMITS, "here") != DISC).mean() < 0.01


@pytest.mark.parametrize(
    ("image", "seen"),
    [
        (values(1, 2), "the values 0, 1, 2"),
        (values(2, 255, 1), "the values 1, 2, 255"),
        (palette(values(1, 2), VOC), "the values 0, 1, 2"),
        (values(2, 3, 1), "the values 1, 2, 3"),
        (np.where(DISC, 1, np.where(np.arange(80) < 20, 255, 0)).astype(np.uint8), "the values 0, 1, 255"),
        (np.tile(np.arange(80, dtype=np.uint8), (60, 1)), r"the values 0, 1, 2, 3, … \(80 in all\)"),
        (colours(RED, (30, 40, 200), BLACK), r"the colours \(0, 0, 0\), \(200, 30, 40\), \(30, 40, 200\)"),
        (colours(RED, (255, 255, 255), (255, 255, 255)), r"the colours \(255, 255, 255\), \(200, 30, 40\)"),
        (PHOTO, "the colours more than 256"),
        (np.dstack([PHOTO, values(255, 128, 128)]), "the values 128, 255"),
    ],
)
def test_what_shows_several_things_is_refused_with_what_was_seen(image: Image.Image | np.ndarray, seen: str) -> None:
    with pytest.raises(ImageError, match=f"here: the mask must show one object.*{seen}"):
        decode_mask(encoded(image), LIMITS, "here")
