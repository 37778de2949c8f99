"""Things in front of the object."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from persrep_ray.config import GenerateConfig
from persrep_ray.generate.cut_paste.backgrounds import Backgrounds
from persrep_ray.generate.cut_paste.compositing import FloatImage, Layer, Sprite, warp
from persrep_ray.generate.cut_paste.placement import draw_pose, pose_matrix

_MOST_HIDDEN = 0.4
_LEAST_HIDDEN = 0.03
_TRIES = 4


def occluder(
    rng: np.random.Generator, target: Layer, another: Sprite | None, backgrounds: Backgrounds, config: GenerateConfig
) -> Layer | None:
    """A layer that hides 3 to 40 % of what is visible of `target`; None if no try gave one.

    It is the cutout of `another` object, a rounded patch of a background, or a bar across the image.
    """
    size = config.image_size
    ys, xs = np.nonzero(target.alpha > 0.5)
    if len(xs) == 0:
        return None
    whole = target.whole_alpha(size)
    seen = float(target.alpha.sum())
    middle = np.array([xs.mean(), ys.mean()])
    extent = max(float(np.ptp(xs)), float(np.ptp(ys)), 2.0)
    for _ in range(_TRIES):
        pick, kind = int(rng.integers(len(xs))), rng.random()
        # Outwards from a random pixel of the object: an occluder sits at its edge rather than in its middle.
        away = (np.array([xs[pick], ys[pick]]) - middle) * rng.uniform(1.0, 1.9)
        centre = middle + away + (target.left, target.top)
        if another is not None and kind < 0.45:
            share = (extent * rng.uniform(0.4, 0.9) / size) ** 2
            pose = replace(draw_pose(rng, config), area=min(share, 0.5))
            layer: Layer | None = warp(another, pose_matrix(pose, another.cutout, size, centre), size)
        else:
            outline = _blob(rng, centre, extent) if kind < 0.85 else _bar(rng, centre, extent, size)
            layer = _filled(rng, outline, backgrounds, size)
        if layer is None:
            continue
        hidden = float((whole[layer.place] * layer.alpha).sum()) / seen
        if _LEAST_HIDDEN < hidden < _MOST_HIDDEN:
            return layer
    return None


def _blob(rng: np.random.Generator, centre: NDArray[np.float64], extent: float) -> NDArray[np.float64]:
    """A smooth outline, (48, 2) px, whose radius is a short Fourier series."""
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = np.ones_like(angles)
    for wave in range(2, 5):
        radius += rng.normal(0, 0.22 / wave) * np.cos(wave * angles + rng.uniform(0, 2 * np.pi))
    reach = extent * rng.uniform(0.15, 0.4) * radius
    stretch, turn = rng.uniform(0.4, 1.0), rng.uniform(0, np.pi)
    points = np.stack([reach * np.cos(angles), reach * stretch * np.sin(angles)], axis=1)
    turned: NDArray[np.float64] = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return turned + centre


def _bar(rng: np.random.Generator, centre: NDArray[np.float64], extent: float, size: int) -> NDArray[np.float64]:
    """The outline of a bar across the frame, (4, 2) px: a post, the edge of a shelf, an arm."""
    turn = rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.25)
    along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    half, taper = extent * rng.uniform(0.05, 0.15), rng.uniform(0.7, 1.3)
    start, end = centre - 2 * size * along, centre + 2 * size * along
    first, last = half * across, half * taper * across
    return np.array([start - first, end - last, end + last, start + first])


def _filled(
    rng: np.random.Generator, outline: NDArray[np.float64], backgrounds: Backgrounds, size: int
) -> Layer | None:
    """The outline filled with pixels of a background, a little darker at the rim; None if it lies outside the image."""
    low = np.clip(np.floor(outline.min(axis=0)) - 4, 0, size).astype(int)
    high = np.clip(np.ceil(outline.max(axis=0)) + 4, 0, size).astype(int)
    width, height = int(high[0] - low[0]), int(high[1] - low[1])
    if min(width, height) < 4:
        return None
    mask = np.zeros((height, width), np.uint8)
    # Four fractional bits make the edge smooth.
    cv2.fillPoly(mask, [np.round((outline - low) * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    alpha = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), max(0.5, size * rng.uniform(0.002, 0.01)))
    body = 0.7 + 0.3 * cv2.GaussianBlur(alpha, (0, 0), max(1.0, 0.08 * min(width, height)))
    side = max(width, height)
    texture: FloatImage = backgrounds.sample(rng, max(32, side))[:height, :width].astype(np.float32)
    colour = texture * (body * np.float32(rng.uniform(0.7, 1.05)))[..., None]
    return Layer(int(low[1]), int(low[0]), colour.astype(np.float32), alpha.astype(np.float32))
