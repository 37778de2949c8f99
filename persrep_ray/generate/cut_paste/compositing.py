"""Layers: warping a cutout into the scene, pasting it, and the shadow it casts."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from persrep_ray.generate.cut_paste.cutouts import Cutout

FloatImage = NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """Something to paste. Its upper left corner is (`top`, `left`), and all of it lies inside the image.

    `colour` is (h, w, 3) float32 in 0..255 and `alpha` (h, w) float32 in 0..1.
    """

    top: int
    left: int
    colour: FloatImage
    alpha: FloatImage

    @property
    def place(self) -> tuple[slice, slice]:
        """The rows and columns of the image that the layer covers."""
        height, width = self.alpha.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def whole_alpha(self, size: int) -> FloatImage:
        """(size, size) float32: alpha over the whole image."""
        alpha = np.zeros((size, size), np.float32)
        alpha[self.place] = self.alpha
        return alpha


@dataclass(frozen=True)
class Sprite:
    """A cutout in several resolutions, each half of the previous: (h, w, 4) uint8 RGBA. Warping alone would alias."""

    cutout: Cutout
    levels: tuple[NDArray[np.uint8], ...]


def make_sprite(cutout: Cutout, largest: int) -> Sprite:
    """The cutout at resolutions from at most `largest` px (longer side) down to 16 px."""
    level = np.dstack([cutout.image, (cutout.alpha * 255 + 0.5).astype(np.uint8)])
    scale = largest / max(level.shape[:2])
    levels = [_shrink(level, scale) if scale < 1 else level]
    while max(levels[-1].shape[:2]) > 32:
        levels.append(_shrink(levels[-1], 0.5))
    return Sprite(cutout, tuple(levels))


def _shrink(level: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    size = max(2, round(level.shape[1] * scale)), max(2, round(level.shape[0] * scale))
    return cv2.resize(level, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def warp(sprite: Sprite, matrix: NDArray[np.float64], size: int) -> Layer:
    """The sprite under a (3, 3) homography from cutout pixels to pixels of a (size, size) image, clipped to it."""
    height, width = sprite.cutout.alpha.shape
    shrink = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
    # The smallest level that still has about the resolution that is needed.
    fitting = [level for level in sprite.levels if max(level.shape[:2]) >= 0.8 * shrink * max(height, width)]
    level = fitting[-1] if fitting else sprite.levels[0]
    corners = np.array([[[0, 0]], [[width, 0]], [[width, height]], [[0, height]]], np.float64)
    outline = cv2.perspectiveTransform(corners, matrix).reshape(4, 2)
    low = np.clip(np.floor(outline.min(axis=0)) - 1, 0, size - 1).astype(int)
    high = np.clip(np.ceil(outline.max(axis=0)) + 1, low + 1, size).astype(int)
    to_level = np.diag([width / level.shape[1], height / level.shape[0], 1.0])
    to_layer = np.array([[1, 0, -low[0]], [0, 1, -low[1]], [0, 0, 1]], np.float64)
    extent = int(high[0] - low[0]), int(high[1] - low[1])
    homography = to_layer @ matrix @ to_level
    rgba = cv2.warpPerspective(level, homography, extent, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpPerspective(np.full(level.shape[:2], 255, np.uint8), homography, extent, flags=cv2.INTER_LINEAR)
    alpha = rgba[..., 3].astype(np.float32) * inside.astype(np.float32) / (255 * 255)
    return Layer(int(low[1]), int(low[0]), rgba[..., :3].astype(np.float32), alpha.astype(np.float32))


def paste(canvas: FloatImage, layer: Layer) -> None:
    """Lays `layer` over `canvas` (S, S, 3) float32, in place."""
    part = canvas[layer.place]
    part += layer.alpha[..., None] * (layer.colour - part)


def blur_layer(layer: Layer, sigma: float) -> Layer:
    """The layer as a lens out of focus sees it."""
    colour, alpha = (cv2.GaussianBlur(part, (0, 0), sigma) for part in (layer.colour, layer.alpha))
    return Layer(layer.top, layer.left, colour.astype(np.float32, copy=False), alpha.astype(np.float32, copy=False))


def shade(canvas: FloatImage, shadow: FloatImage, strength: float) -> None:
    """Darkens `canvas` (S, S, 3) in place by `shadow` (s, s) in 0..1, which may have any resolution."""
    size = canvas.shape[0]
    keep = 1 - cv2.resize(shadow, (size, size), interpolation=cv2.INTER_LINEAR) * np.float32(strength)
    canvas *= keep[..., None]


def ground_shadow(rng: np.random.Generator, layer: Layer, size: int) -> FloatImage:
    """The shadow on the ground that an object stands on: its outline laid down from its lowest point, and contact.

    (size // 2, size // 2) float32 in 0..1: a shadow is soft, so half of the resolution is enough.
    """
    squash, lean = rng.uniform(0.06, 0.4), rng.uniform(-0.8, 0.8)
    soft, contact = rng.uniform(0.015, 0.06), rng.uniform(0.3, 0.9)
    half = _halved(layer, size)
    rows = np.flatnonzero(half.max(axis=1) > 0.25)
    if len(rows) == 0:
        return half
    base, tall = float(rows[-1]), float(rows[-1] - rows[0] + 1)
    extent = max(tall, layer.alpha.shape[1] / 2)
    # (x, y) -> (x - lean * squash * height above ground, base - squash * height above ground)
    matrix = np.array([[1, lean * squash, -lean * squash * base], [0, squash, (1 - squash) * base]], np.float64)
    laid = cv2.warpAffine(half, matrix, (size // 2, size // 2), flags=cv2.INTER_LINEAR)
    laid = cv2.GaussianBlur(laid, (0, 0), max(0.5, soft * extent))
    feet: FloatImage = np.zeros_like(half)
    strip = slice(max(0, int(base - 0.06 * tall)), int(base) + 1)
    feet[strip] = half[strip]
    touching = cv2.GaussianBlur(feet, (0, 0), max(0.5, 0.025 * extent))
    return np.asarray(np.maximum(laid * 0.75, touching * contact), np.float32)


def drop_shadow(rng: np.random.Generator, layer: Layer, size: int) -> FloatImage:
    """The shadow on a surface right behind the object: its outline, moved a little and blurred.

    (size // 2, size // 2) float32 in 0..1.
    """
    distance, angle, soft = rng.uniform(0.0, 0.05), rng.uniform(0, np.pi), rng.uniform(0.01, 0.04)
    extent = max(layer.alpha.shape) / 2
    shift = np.array([[1, 0, distance * extent * np.cos(angle)], [0, 1, distance * extent * np.sin(angle)]], np.float64)
    moved = cv2.warpAffine(_halved(layer, size), shift, (size // 2, size // 2), flags=cv2.INTER_LINEAR)
    return np.asarray(cv2.GaussianBlur(moved, (0, 0), max(0.6, soft * extent)), np.float32)


def _halved(layer: Layer, size: int) -> FloatImage:
    whole = layer.whole_alpha(size)
    return np.asarray(cv2.resize(whole, (size // 2, size // 2), interpolation=cv2.INTER_AREA), np.float32)
