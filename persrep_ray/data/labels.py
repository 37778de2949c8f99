"""Which pixels of a mask image are the object. Labelling tools write palettes, labels, grey levels, colours or alpha.

A mask that can be read in two ways, or that shows several things, is refused with what was seen: an object that is
silently the wrong one would spoil everything that follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from persrep_ray.data.decoding import sixteen_bit

_VOID = 255  # the label of pixels that nobody decided on: a ring around each object in PASCAL VOC
_VOID_COLOUR = (224, 224, 192)
_DARK, _BRIGHT = 1 / 8, 7 / 8  # of the grey levels; between them lie soft edges
_MOST_COLOURS = 256
_SHOWN = 4
_OFF = 12  # how far colours may lie from the line between black and the object's colour
_OFF_LOSSY = 64
_BLEEDING = 0.05  # the share of pixels of a lossy mask that may lie farther off: colours are stored coarsely
_GREY_LOSSY = 40


def foreground(image: Image.Image, *, lossy: bool) -> NDArray[np.bool_]:
    """The object's pixels (H, W) bool of a decoded mask; none if the mask is empty.

    - Black, or label 0, is background. A single other label, grey level or colour is the object.
    - Label 255 beside a darker label is void in the sense of PASCAL VOC, and does not belong to the object.
    - Of soft edges, what is brighter than mid-grey is the object.
    - Transparent pixels are not the object. If the opaque pixels are no mask themselves, they are the object.

    Args:
        lossy: the file's format changes values, so that labels cannot be told apart.

    Raises:
        ValueError: the mask is ambiguous. It says what was seen.
    """
    if image.mode == "1":
        return np.array(image)
    if image.mode.startswith("I"):
        return _of_levels(sixteen_bit(image), lossy)
    if image.has_transparency_data:
        return _of_transparency(image.convert("RGBA"), lossy)
    if image.mode == "P":
        palette = image.getpalette() or [0, 0, 0]
        used = [palette[3 * value : 3 * value + 3] for _, value in _counted(image, 256)]
        if palette[:3] == [0, 0, 0] and any(len(set(colour)) > 1 for colour in used):
            return _of_levels(np.asarray(image), lossy)
        image = image.convert("RGB")
    return _of_levels(np.asarray(image), lossy) if image.mode == "L" else _of_colours(image.convert("RGB"), lossy)


def _of_transparency(image: Image.Image, lossy: bool) -> NDArray[np.bool_]:
    alpha = image.getchannel("A")
    black = Image.new("RGBA", image.size, "black")
    try:
        mask = _of_colours(Image.alpha_composite(black, image).convert("RGB"), lossy)
    except ValueError:  # a cut-out photo
        if alpha.getextrema() == (255, 255):
            raise
        mask = np.zeros(image.size[::-1], np.bool_)
    if mask.any() or alpha.getextrema() == (255, 255):
        return mask
    return _of_levels(np.asarray(alpha), lossy)


def _of_levels(values: NDArray[np.uint8] | NDArray[np.uint16], lossy: bool) -> NDArray[np.bool_]:
    """The object in grey levels or labels (H, W)."""
    blocks = np.array_split(values, max(1, min(len(values), values.size >> 22)))  # counting takes 8 bytes a pixel
    counts = np.sum([np.bincount(block.ravel(), minlength=65536) for block in blocks], axis=0)
    seen = np.flatnonzero(counts)
    top = 65535 if seen[-1] > 255 else 255
    if lossy or len(seen) == 1:
        return values > top // 2
    if len(seen) == 2 and (seen[0] == 0 or seen[0] <= top // 2 < seen[1]):
        return values == seen[1]
    dark, bright = round(top * _DARK), round(top * _BRIGHT)
    middle, light = counts[dark:bright].sum(), counts[bright : top + 1].sum()
    if light > middle and (middle or set(seen[seen >= bright]) != {_VOID}):
        return values > top // 2
    labels = [int(label) for label in seen if label not in (0, _VOID)]
    if len(labels) == 1 and labels[0] < dark and counts[_VOID] <= counts[labels[0]]:
        return values == labels[0]
    raise ValueError(f"the mask must show one object, but it has the values {_listed([int(value) for value in seen])}")


def _of_colours(image: Image.Image, lossy: bool) -> NDArray[np.bool_]:
    """The object in an RGB mask."""
    red, green, blue = image.split()
    differences = (ImageChops.difference(red, green), ImageChops.difference(green, blue))
    if max(int(np.asarray(one).max()) for one in differences) <= (_GREY_LOSSY if lossy else 0):
        return _of_levels(np.asarray(green), lossy)
    colours = _counted(image, _MOST_COLOURS)
    others = [colour for _, colour in colours if colour not in ((0, 0, 0), _VOID_COLOUR)]
    if len(others) == 1 and len(colours) > 1:
        channels = zip((red, green, blue), others[0], strict=True)
        return np.logical_and.reduce([np.asarray(channel) == value for channel, value in channels])
    levels = _along_one_colour(image, lossy)
    if levels is None:
        found = _listed([str(colour) for _, colour in colours]) if colours else f"more than {_MOST_COLOURS}"
        raise ValueError(f"the mask must show one object in one colour on black, but it has the colours {found}")
    return _of_levels(levels, lossy)


def _along_one_colour(image: Image.Image, lossy: bool) -> NDArray[np.uint8] | None:
    """How much each pixel has of the most frequent colour besides black, 0 to 255; None if there are other colours."""
    sample = image.resize((min(image.width, 256), min(image.height, 256)), Image.Resampling.NEAREST)
    bright = [colour for _, colour in _counted(sample, 1 << 16) if max(colour) >= 64]
    if not bright:
        return None
    colour = np.array(bright[0], np.float32)
    channels = [np.asarray(channel) for channel in image.split()]
    share = sum(channel * value for channel, value in zip(channels, colour / (colour @ colour), strict=True))
    tolerance, most = (_OFF_LOSSY, _BLEEDING) if lossy else (_OFF, 0.0)
    off = (np.abs(channel - share * value) > tolerance for channel, value in zip(channels, colour, strict=True))
    others = np.logical_or.reduce(list(off)).mean() > most
    return None if others else np.rint(share.clip(0, 1) * 255).astype(np.uint8)


def _counted(image: Image.Image, most: int) -> list[tuple[int, Any]]:
    """(count, colour) of an image, the most frequent first; empty if there are more than `most` colours."""
    return sorted(image.getcolors(most) or (), reverse=True)


def _listed(seen: Sequence[object]) -> str:
    shown = ", ".join(map(str, seen[:_SHOWN]))
    return shown if len(seen) <= _SHOWN else f"{shown}, … ({len(seen)} in all)"
