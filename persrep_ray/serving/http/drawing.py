"""Localizations as they are sent: in pixels of the image, with masks as run lengths or PNG."""

from __future__ import annotations

import base64
from dataclasses import replace

import numpy as np
from faster_coco_eval.core import mask as coco

from persrep_ray.data.images import capped_size, encode_png, encode_png_mask
from persrep_ray.serving.engine.answers import Localization
from persrep_ray.serving.http.schemas import PngMask, RleMask, SimilarityMap

_LONGEST_SIDE = 2048  # of a requested mask; a larger one would not be more exact


def asked_size(size: tuple[int, int]) -> tuple[int, int]:
    """The (H, W) at which to locate the object in an image of `size`."""
    return capped_size(size, _LONGEST_SIDE)


def enlarged(located: Localization, size: tuple[int, int]) -> Localization:
    """`located` in pixels of `size`. A pixel gets the value of the mask at its centre, and the box fits the mask."""
    if located.box is None or located.mask is None or located.mask.shape == size:
        return located
    rows, columns = (
        ((np.arange(many) + 0.5) * few / many).astype(np.intp)
        for few, many in zip(located.mask.shape, size, strict=True)
    )
    x, y, width, height = located.box
    left, right = (int(edge) for edge in np.searchsorted(columns, (x, x + width)))
    top, bottom = (int(edge) for edge in np.searchsorted(rows, (y, y + height)))
    mask = located.mask[rows[:, None], columns]
    return replace(located, box=(left, top, right - left, bottom - top), mask=mask)


def as_rle(mask: np.ndarray) -> RleMask:
    """`mask` (H, W) bool as COCO's run lengths."""
    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return RleMask(size=list(mask.shape), counts=encoded["counts"].decode("ascii"))


def as_png(mask: np.ndarray) -> PngMask:
    """`mask` (H, W) bool as a PNG."""
    return PngMask(png=base64.b64encode(encode_png_mask(mask)).decode("ascii"))


def as_map(similarity: np.ndarray) -> SimilarityMap:
    """`similarity` (h, w), -1 to 1, as a grey PNG."""
    grey = np.rint((similarity + 1) / 2 * 255).clip(0, 255).astype(np.uint8)
    return SimilarityMap(png=base64.b64encode(encode_png(grey)).decode("ascii"), size=list(grey.shape))
