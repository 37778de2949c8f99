"""Objects cut out of their photos, ready to be pasted without a halo."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_MIN_PIXELS = 64
_MARGIN = 2


@dataclass(frozen=True)
class Cutout:
    """An object's pixels, cropped to its mask's box plus a small margin.

    `image` is (h, w, 3) uint8 RGB and holds colours of the object everywhere, also outside the object, so that
    interpolation never mixes in the old background. `alpha` is (h, w) float32 in 0..1 and feathered. `cut_left` … tell
    which sides of the object the frame of the photo cut off: such a side must lie on the frame of a new image, too.
    `photo` is the index of the object's train photo that the cutout comes from.
    """

    object_id: str
    image: NDArray[np.uint8]
    alpha: NDArray[np.float32]
    photo: int = 0
    cut_left: bool = False
    cut_top: bool = False
    cut_right: bool = False
    cut_bottom: bool = False


def make_cutout(
    object_id: str, image: NDArray[np.uint8], mask: NDArray[np.bool_], *, photo: int = 0, max_side: int = 512
) -> Cutout:
    """Cuts the object under `mask` (H, W) bool out of `image` (H, W, 3) uint8, at most `max_side` px long.

    Pixels at the border of the mask carry background colour (they are mixed, or the mask is a pixel too wide), so alpha
    is drawn in by about a pixel and colours near the edge are taken from the nearest pixel well inside.

    Raises ValueError if image and mask differ in size or the mask has hardly any pixels.
    """
    if image.ndim != 3 or image.shape[2] != 3 or mask.shape != image.shape[:2]:
        raise ValueError(f"object {object_id}: image {image.shape} and mask {mask.shape} do not fit")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if np.count_nonzero(mask) < _MIN_PIXELS or len(rows) < 4 or len(columns) < 4:
        raise ValueError(f"object {object_id}: the mask has {np.count_nonzero(mask)} pixels, too few for a cutout")
    height, width = mask.shape
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    fills_photo = (top, bottom, left, right) == (0, height, 0, width)  # a catalogue shot: its frame cuts nothing off
    scale = min(1.0, max_side / max(bottom - top, right - left))
    margin = round(_MARGIN / scale)
    box = slice(max(0, top - margin), bottom + margin), slice(max(0, left - margin), right + margin)
    crop, soft = image[box], mask[box].astype(np.float32)
    if scale < 1.0:
        size = max(1, round(crop.shape[1] * scale)), max(1, round(crop.shape[0] * scale))
        crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        soft = cv2.resize(soft, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    return Cutout(
        object_id,
        _spread_inner_colours(crop, soft),
        _draw_in(soft),
        photo=photo,
        cut_left=left == 0 and not fills_photo,
        cut_top=top == 0 and not fills_photo,
        cut_right=right == width and not fills_photo,
        cut_bottom=bottom == height and not fills_photo,
    )


def _depth_and_edge(soft: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The distance of each pixel from the border of the mask, and the width of the unreliable border, both (h, w) px.

    The border is wider in larger cutouts, because their masks are no finer, and narrower where the object is thin (a
    handle, an ear), so that thin parts keep a core.
    """
    depth = cv2.distanceTransform((soft > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    edge = float(np.clip(0.006 * max(soft.shape), 1.0, 3.0))
    reach = 2 * int(np.ceil(2 * edge)) + 1
    thickness = cv2.dilate(depth, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    return depth.astype(np.float32), np.minimum(edge, 0.4 * thickness + 1e-3).astype(np.float32)


def _draw_in(soft: NDArray[np.float32]) -> NDArray[np.float32]:
    """Feathered alpha, (h, w) in 0..1, whose contour at 0.5 lies about a pixel inside that of the mask."""
    depth, edge = _depth_and_edge(soft)
    return np.asarray(np.clip(cv2.GaussianBlur(depth, (0, 0), 0.7) / edge - 0.5, 0.0, 1.0), np.float32)


def _spread_inner_colours(image: NDArray[np.uint8], soft: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Replaces colours at the edge of the mask and beyond by those of the nearest pixel well inside."""
    depth, edge = _depth_and_edge(soft)
    core = depth > 1.5 * edge
    _, labels = cv2.distanceTransformWithLabels(
        (~core).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colour_of = np.zeros((int(labels.max()) + 1, 3), np.uint8)
    colour_of[labels[core]] = image[core]
    # The nearest-pixel fill is streaky, so its blur is what shows through the feathered edge.
    blurred = cv2.GaussianBlur(colour_of[labels], (0, 0), 1.0)
    return np.where(core[..., None], image, blurred).astype(np.uint8)
