"""Drawing for reports: text, legends, tiles, outlines of masks, heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

INK: Colour = (28, 30, 34)
FAINT: Colour = (112, 116, 122)
EMPTY: Colour = (238, 238, 234)

_HEAT_OPACITY = 0.62
_COLORMAP = cv2.COLORMAP_TURBO
_ARROW = "→"


def text(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], line: str, size: int, colour: Colour = FAINT, width: int = 10_000
) -> int:
    """Draws one line with its top left corner at `place`, cut with an ellipsis if it is wider than `width` pixels.

    Returns the width that it took. Arrows are drawn as shapes because Pillow's font has none.
    """
    shown, kept = line, len(line)
    while text_width(shown, size) > width:
        kept -= 1
        shown = line[:kept] + "…" if kept > 0 else ""
    left, top = place
    for index, part in enumerate(shown.split(_ARROW)):
        if index:
            _arrow(draw, left, top, size, colour)
            left += size
        draw.text((left, top), part, font=_font(size), fill=colour)
        left += round(_font(size).getlength(part))
    return left - place[0]


def text_width(line: str, size: int) -> int:
    """The width in pixels that `text` needs for the whole line."""
    return sum(round(_font(size).getlength(part)) for part in line.split(_ARROW)) + size * line.count(_ARROW)


def legend(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], entries: Sequence[tuple[str, Colour | None]], size: int
) -> None:
    """Draws names side by side, each after a dash of its colour if it has a colour."""
    left, top = place
    for name, colour in entries:
        if colour is not None:
            middle = top + round(size * 0.62)
            draw.rectangle((left, middle - 3, left + 17, middle + 3), fill=colour)
            left += 24
        left += text(draw, (left, top), name, size) + 18


def legend_width(entries: Sequence[tuple[str, Colour | None]], size: int) -> int:
    """The width in pixels that `legend` needs."""
    return sum(text_width(name, size) + (24 if colour else 0) for name, colour in entries) + 18 * (len(entries) - 1)


def fit(image: np.ndarray, width: int, tallest: float) -> Image.Image:
    """The whole image (H, W, 3) in a tile of `width`. A tile is at most `tallest` widths high; the image is centred."""
    height = max(1, min(round(width * image.shape[0] / image.shape[1]), round(width * tallest)))
    scale = min(width / image.shape[1], height / image.shape[0])
    inner = (min(width, max(1, round(image.shape[1] * scale))), min(height, max(1, round(image.shape[0] * scale))))
    tile = Image.new("RGB", (width, height), EMPTY)
    tile.paste(Image.fromarray(image).resize(inner, Image.Resampling.LANCZOS), ((width - inner[0]) // 2, 0))
    return tile


def cover(image: np.ndarray, side: int) -> Image.Image:
    """The central square of the image (H, W, 3) as a tile."""
    height, width = image.shape[:2]
    crop = min(height, width)
    left, top = (width - crop) // 2, (height - crop) // 2
    square = Image.fromarray(image).crop((left, top, left + crop, top + crop))
    return square.resize((side, side), Image.Resampling.LANCZOS)


def heat(image: np.ndarray, similarity: np.ndarray, low: float, high: float) -> np.ndarray:
    """The photo (H, W, 3) in grey under the colours of `similarity` (h, w) from `low` to `high`: (H, W, 3) uint8.

    The photo is grey so that colours mean only cosines.
    """
    height, width = image.shape[:2]
    levels = (similarity.astype(np.float32) - low) * (255 / max(high - low, 1e-6))
    upsampled = cv2.resize(levels, (width, height), interpolation=cv2.INTER_LINEAR)
    coloured = _colours(np.clip(np.rint(upsampled), 0, 255).astype(np.uint8))
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(coloured, _HEAT_OPACITY, grey, 1 - _HEAT_OPACITY, 0)


def colour_ramp(width: int, height: int) -> Image.Image:
    """The colours of `heat`, from low to high."""
    return Image.fromarray(_colours(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))))


def with_outline(image: np.ndarray, mask: np.ndarray, colour: Colour) -> np.ndarray:
    """The photo (H, W, 3) with the outline of `mask` (H, W) bool in `colour`, on a dark edge that shows everywhere.

    Raises ValueError if the mask differs in size from the photo.
    """
    if mask.shape != image.shape[:2]:
        raise ValueError(f"a mask of shape {mask.shape} does not belong to a photo of shape {image.shape}")
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    drawn = image.copy()
    thickness = max(2, round(max(mask.shape) / 130))
    cv2.drawContours(drawn, contours, -1, (20, 20, 20), thickness + 2, cv2.LINE_AA)
    cv2.drawContours(drawn, contours, -1, colour, thickness, cv2.LINE_AA)
    return drawn


def _arrow(draw: ImageDraw.ImageDraw, left: int, top: int, size: int, colour: Colour) -> None:
    tail, tip, middle = left + round(size * 0.1), left + round(size * 0.9), top + round(size * 0.62)
    barb, stroke = round(size * 0.24), max(1, round(size / 13))
    draw.line((tail, middle, tip, middle), fill=colour, width=stroke)
    draw.line((tip - barb, middle - barb, tip, middle, tip - barb, middle + barb), fill=colour, width=stroke)


def _colours(levels: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.applyColorMap(levels, _COLORMAP), cv2.COLOR_BGR2RGB)


@cache  # cutting a long line measures it many times, and loading the font would take most of that time
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font
