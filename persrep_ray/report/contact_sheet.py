"""One image of what a run did for an object: its photos, its synthetic images, and where the pretrained and the
personalized features find it on test photos."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from persrep_ray.report.drawing import (
    FAINT,
    INK,
    Colour,
    colour_ramp,
    cover,
    fit,
    heat,
    legend,
    legend_width,
    text,
    text_width,
    with_outline,
)

WIDTH = 1480
_MARGIN = 44
_GAP = 12
_CONTENT = WIDTH - 2 * _MARGIN
_PHOTO_COLUMNS = 4
_SYNTHETIC_COLUMNS = 8
_TALLEST = 1.1  # the largest height of a tile, in widths

_PAPER: Colour = (250, 250, 248)
_RULE: Colour = (222, 222, 218)
_TRUTH: Colour = (60, 220, 110)
_PRETRAINED: Colour = (255, 150, 40)
_PERSONALIZED: Colour = (60, 190, 255)


@dataclass(frozen=True)
class TestRow:
    """A test photo with both similarity maps.

    `image` is (H, W, 3) uint8. The similarities (h, w) float are any grids over the whole photo. The masks are (H, W)
    bool: the truth, None if the photo has none or shows another object, and what each side finds, None for nothing.
    """

    __test__ = False  # pytest would take the name for a test class

    image: np.ndarray
    pretrained_similarity: np.ndarray
    personalized_similarity: np.ndarray
    truth_mask: np.ndarray | None
    title: str
    pretrained_mask: np.ndarray | None = None
    personalized_mask: np.ndarray | None = None


def contact_sheet(
    object_id: str,
    *,
    train: Sequence[tuple[np.ndarray, np.ndarray]],
    photos: int | None = None,
    positives: Sequence[np.ndarray],
    negatives: Sequence[np.ndarray],
    tests: Sequence[TestRow],
    title_metrics: str,
) -> bytes:
    """Draws the sheet of one object as a JPEG.

    Args:
        object_id: the headline.
        train: the object's photos (H, W, 3) uint8 with their masks (H, W) bool. All of them are shown.
        photos: how many photos the object has, if `train` is a choice of them.
        positives: synthetic images (H, W, 3) uint8 of the object. All are shown, so pick a dozen or two.
        negatives: such images of anything else.
        tests: one row each, in this order. Both similarity maps of a row share a colour scale.
        title_metrics: one line below the headline, say "PR-AUC 0.31 → 0.43".

    An empty list leaves out its section. Raises ValueError if a mask differs in size from its photo.
    """
    blocks = [_header(object_id, title_metrics)]
    if train:
        width = _column(_PHOTO_COLUMNS)
        tiles = [fit(with_outline(image, mask, _TRUTH), width, _TALLEST) for image, mask in train]
        shown = f"{len(train)} of {photos}" if photos and photos > len(train) else f"{len(train)}"
        blocks += [_heading(f"Photos of the object ({shown})", ("mask", _TRUTH)), _grid(tiles, _PHOTO_COLUMNS)]
    for name, images in (("Synthetic positives", positives), ("Synthetic negatives", negatives)):
        if images:
            tiles = [cover(image, _column(_SYNTHETIC_COLUMNS)) for image in images]
            blocks += [_heading(f"{name} ({len(images)})"), _grid(tiles, _SYNTHETIC_COLUMNS)]
    if tests:
        blocks += [_heading(f"Test photos ({len(tests)})"), *map(_test_row, tests)]

    sheet = Image.new("RGB", (WIDTH, sum(block.height for block in blocks) + _MARGIN), _PAPER)
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def heat_pair(row: TestRow) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """The row's photo under its pretrained and its personalized map, (H, W, 3) uint8 each, and their common scale.

    The scale is the smallest and the largest cosine of both maps, so that a colour means the same cosine in both.
    """
    maps = (row.pretrained_similarity, row.personalized_similarity)
    low = min(float(similarity.min()) for similarity in maps)
    high = max(float(similarity.max()) for similarity in maps)
    left, right = (heat(row.image, similarity, low, high) for similarity in maps)
    return left, right, (low, high)


def _test_row(row: TestRow) -> Image.Image:
    """Title and colour scale, then the photo with the truth, both heat maps and the predictions, with captions."""
    pretrained, personalized, scale = heat_pair(row)
    photo, found = row.image, row.image
    captions: list[list[tuple[str, Colour | None]]] = [
        [("photo", None)],
        [("pretrained similarity", None)],
        [("personalized similarity", None)],
        [],
    ]
    if row.truth_mask is not None:
        photo = with_outline(photo, row.truth_mask, _TRUTH)
        captions[0].append(("truth", _TRUTH))
    for name, mask, colour in (
        ("pretrained", row.pretrained_mask, _PRETRAINED),
        ("personalized", row.personalized_mask, _PERSONALIZED),
    ):
        if mask is not None:
            found = with_outline(found, mask, colour)
            captions[3].append((name, colour))

    column, title_height, caption_height = _column(_PHOTO_COLUMNS), 34, 40
    tiles = [fit(image, column, _TALLEST) for image in (photo, pretrained, personalized, found)]
    block = Image.new("RGB", (WIDTH, title_height + tiles[0].height + caption_height), _PAPER)
    draw = ImageDraw.Draw(block)
    text(draw, (_MARGIN, 4), row.title, 19, INK, _CONTENT - 320)
    _colour_scale(block, draw, scale)
    for index, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        left = _MARGIN + index * (column + _GAP)
        block.paste(tile, (left, title_height))
        legend(draw, (left, title_height + tile.height + 5), caption or [("nothing predicted", None)], 15)
    return block


def _colour_scale(block: Image.Image, draw: ImageDraw.ImageDraw, scale: tuple[float, float]) -> None:
    """Draws, at the right edge, the colours from the smallest to the largest cosine of the row."""
    ramp = colour_ramp(150, 12)
    low, high = f"cosine {scale[0]:.2f}", f"{scale[1]:.2f}"
    left = WIDTH - _MARGIN - text_width(high, 14)
    text(draw, (left, 7), high, 14)
    left -= 8 + ramp.width
    block.paste(ramp, (left, 9))
    text(draw, (left - 8 - text_width(low, 14), 7), low, 14)


def _header(object_id: str, metrics: str) -> Image.Image:
    block = Image.new("RGB", (WIDTH, 130), _PAPER)
    draw = ImageDraw.Draw(block)
    text(draw, (_MARGIN, 30), object_id, 44, INK, _CONTENT)
    text(draw, (_MARGIN, 90), metrics, 21, FAINT, _CONTENT)
    return block


def _heading(title: str, *entries: tuple[str, Colour | None]) -> Image.Image:
    """A rule, the section's name, and on the right the meaning of the outlines' colours."""
    block = Image.new("RGB", (WIDTH, 68), _PAPER)
    draw = ImageDraw.Draw(block)
    draw.line((_MARGIN, 12, WIDTH - _MARGIN, 12), fill=_RULE, width=2)
    text(draw, (_MARGIN, 26), title, 25, INK)
    legend(draw, (WIDTH - _MARGIN - legend_width(entries, 15), 34), entries, 15)
    return block


def _grid(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Tiles of equal width in rows; each row is as tall as its tallest tile."""
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) for row in rows]
    block = Image.new("RGB", (WIDTH, sum(heights) + _GAP * len(rows) + 12), _PAPER)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for index, tile in enumerate(row):
            block.paste(tile, (_MARGIN + index * (_column(columns) + _GAP), top))
        top += height + _GAP
    return block


def _column(columns: int) -> int:
    return (_CONTENT - _GAP * (columns - 1)) // columns
