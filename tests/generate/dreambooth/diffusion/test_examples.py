from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.text_to_image import model
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from persrep_ray.generate.dreambooth.diffusion.examples import make_examples, square_crop, to_tensor

GREEN, GREY = (0, 200, 0), (100, 100, 100)


def photo(height: int, width: int, *boxes: tuple[int, int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Green boxes (top, left, bottom, right) on grey, and their mask."""
    mask = np.zeros((height, width), np.bool_)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return np.where(mask[..., None], np.array(GREEN, np.uint8), np.array(GREY, np.uint8)), mask


def crop(image: NDArray[np.uint8], mask: NDArray[np.bool_] | None, side: int, seed: int = 0):  # type: ignore[no-untyped-def]
    return square_crop(np.random.default_rng(seed), image, mask, side)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_crop_contains_the_object_if_it_fits(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(8, 40)), data.draw(st.integers(8, 40))
    length = min(height, width)
    tall, wide = data.draw(st.integers(1, length)), data.draw(st.integers(1, length))
    top, left = data.draw(st.integers(0, height - tall)), data.draw(st.integers(0, width - wide))
    image, mask = photo(height, width, (top, left, top + tall, left + wide))
    square, covered = crop(
        image, mask, length, data.draw(st.integers(0, 99))
    )  # at its own size, so pixels are not changed
    assert covered.sum() == tall * wide
    assert (square[covered == 1] == GREEN).all() and (square[covered == 0] == GREY).all()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("left", [0, 90])
def test_an_object_at_an_end_of_a_long_photo_is_not_cut(turned: bool, left: int) -> None:
    image, mask = photo(20, 100, (5, left, 15, left + 10))
    if turned:
        image, mask = image.swapaxes(0, 1), mask.T
    for seed in range(10):
        assert crop(image, mask, 20, seed)[1].sum() == 100


def test_the_crop_may_lie_wherever_it_contains_the_object() -> None:
    image, mask = photo(20, 60, (5, 25, 15, 35))
    lefts = {int(np.flatnonzero(crop(image, mask, 20, seed)[1].any(axis=0))[0]) for seed in range(200)}
    assert lefts == set(range(11))  # ten pixels in a window of twenty
    numbered = np.broadcast_to(np.arange(60, dtype=np.uint8)[None, :, None], (20, 60, 3))
    assert crop(numbered, None, 20)[0][0, 0, 0] in (
        19,
        20,
    )  # without a mask the whole photo counts, so the crop is its middle


def test_an_object_longer_than_the_square_is_cut_evenly_at_both_ends() -> None:
    image, mask = photo(20, 100, (0, 30, 20, 80))
    image[:, 55] = 255  # the object's middle
    square, covered = crop(image, mask, 20)
    assert covered.all() and (square[:, 10] == 255).all()


def test_every_crop_shows_a_part_of_the_object() -> None:
    image, mask = photo(20, 100, (0, 0, 20, 5), (0, 92, 20, 100))  # the middle between the two shows neither
    assert crop(image, mask, 20)[1].any()


@pytest.mark.parametrize(("height", "width", "side"), [(50, 80, 32), (80, 50, 32), (20, 31, 32), (32, 32, 32)])
def test_image_and_mask_are_scaled_alike(height: int, width: int, side: int) -> None:
    image, mask = photo(height, width, (5, 8, 15, 17))
    square, covered = crop(image, mask, side)
    assert (square.shape, square.dtype) == ((side, side, 3), np.uint8)
    assert (covered.shape, covered.dtype) == ((side, side), np.float32)
    assert covered.min() >= 0 and covered.max() <= 1
    grow = np.ones((3, 3), np.uint8)
    surely, surely_not = (
        cv2.erode((covered == 1).astype(np.uint8), grow),
        cv2.erode((covered == 0).astype(np.uint8), grow),
    )
    assert surely.any() and surely_not.any()
    # INTER_CUBIC overshoots a little beside an edge.
    assert np.abs(square[surely == 1].astype(int) - GREEN).max() < 30
    assert np.abs(square[surely_not == 1].astype(int) - GREY).max() < 30


def test_to_tensor_gives_what_a_vae_takes() -> None:
    tensor = to_tensor(np.array([[[0, 51, 255]]], np.uint8))
    assert tensor.shape == (1, 3, 1, 1)
    assert tensor.flatten().tolist() == pytest.approx([-1, 51 / 127.5 - 1, 1])


def test_examples_are_latents_and_masks_of_each_photo_in_turn(base: Callable[[str], Path]) -> None:
    one = model(base("sd"))
    square, mask = photo(32, 32, (0, 0, 16, 8))
    rng = np.random.default_rng(0)
    noisy = rng.integers(0, 255, (32, 96, 3)).astype(np.uint8)
    examples = make_examples(one, [(square, mask), (noisy, None)], crops=2, seed=3)
    assert examples.photo.tolist() == [0, 0, 1, 1]
    assert examples.latents.shape == (4, 4, 4, 4) and examples.masks.shape == (4, 1, 4, 4)
    torch.testing.assert_close(examples.latents[:1], one.encode_images(to_tensor(square)))
    wanted = torch.zeros(4, 4)
    wanted[:2, 0] = 1  # eight pixels to a latent
    assert torch.equal(examples.masks[0, 0], wanted) and (examples.masks[2:] == 1).all()


def test_crops_are_drawn_from_the_seed(base: Callable[[str], Path]) -> None:
    one = model(base("sd"))
    image, _ = photo(32, 96)
    image[:] = np.random.default_rng(0).integers(0, 255, image.shape)
    mask = np.zeros((32, 96), np.bool_)
    mask[10:20, 40:50] = True
    first, again, other = (make_examples(one, [(image, mask)], crops=3, seed=seed).latents for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len({float(latents.sum()) for latents in first}) == 3
