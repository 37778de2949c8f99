from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from persrep_ray.report.drawing import cover, fit, legend, legend_width, text, text_width, with_outline


def drawn_width(image: Image.Image) -> int:
    """Columns from the left edge to the last one with ink on it."""
    return int(np.flatnonzero((np.asarray(image) < 200).any(axis=(0, 2)))[-1]) + 1


def canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (600, 40), "white")
    return image, ImageDraw.Draw(image)


def test_text_takes_the_width_that_it_returns() -> None:
    image, draw = canvas()
    taken = text(draw, (0, 0), "0.31 → 0.43", 20)
    assert taken == text_width("0.31 → 0.43", 20)
    assert taken - 4 <= drawn_width(image) <= taken


def test_an_arrow_is_drawn_although_the_font_has_none() -> None:
    image, draw = canvas()
    text(draw, (0, 0), "→", 20)
    ink = np.argwhere((np.asarray(image) < 200).any(axis=2))
    tip = ink[ink[:, 1] == ink[:, 1].max()]
    shaft = ink[ink[:, 1] == ink[:, 1].min()]
    assert abs(tip[:, 0].mean() - shaft[:, 0].mean()) <= 1  # it is level, and its ends are a stroke high, unlike a box
    assert len(shaft) <= 3


@pytest.mark.parametrize("width", [0, 9, 50, 200])
def test_text_that_is_too_long_is_cut(width: int) -> None:
    _, draw = canvas()
    assert text(draw, (0, 0), "a long line of words → with an arrow", 20, width=width) <= width


def test_a_legend_takes_the_width_that_it_returns() -> None:
    entries = [("photo", None), ("truth", (0, 0, 0))]
    image, draw = canvas()
    legend(draw, (0, 0), entries, 16)
    assert legend_width(entries, 16) - 3 <= drawn_width(image) <= legend_width(entries, 16)


def test_fit_keeps_the_aspect_and_limits_the_height() -> None:
    assert fit(np.zeros((50, 100, 3), dtype=np.uint8), 200, 1.1).size == (200, 100)
    tall = np.asarray(fit(np.zeros((300, 100, 3), dtype=np.uint8), 120, 1.5))
    assert tall.shape == (180, 120, 3)
    assert (tall[:, 30:90] == 0).all()  # 60 x 180, centred
    assert (tall[:, :30] > 200).all() and (tall[:, 90:] > 200).all()


def test_cover_takes_the_middle() -> None:
    image = np.zeros((40, 120, 3), dtype=np.uint8)
    image[:, 40:80] = 255
    tile = np.asarray(cover(image, 40))
    assert tile.shape == (40, 40, 3)
    assert (tile == 255).all()


def test_an_outline_changes_neither_the_photo_nor_its_inside() -> None:
    photo, mask = np.full((100, 100, 3), 90, dtype=np.uint8), np.zeros((100, 100), dtype=bool)
    mask[20:80, 20:80] = True
    drawn = with_outline(photo, mask, (255, 0, 0))
    assert (photo == 90).all()
    assert tuple(drawn[20, 50]) == (255, 0, 0)
    assert (drawn[30:70, 30:70] == 90).all() and (drawn[:10] == 90).all()
