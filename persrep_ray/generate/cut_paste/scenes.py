"""Procedural scenes, for runs without background photos.

Each function takes (rng, size) and returns (size, size, 3) float32 RGB in 0..1, in about nine milliseconds at 256 px.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from persrep_ray.generate.cut_paste.photometric import blur, to_uint8
from persrep_ray.generate.cut_paste.textures import (
    FloatImage,
    blend,
    earthy,
    foliage,
    hsv,
    material,
    muted,
    noise,
    stone,
    vivid,
)


def procedural(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """A procedural scene, (size, size, 3) uint8: a studio, a room, a floor from above, outdoors, blur, a shelf."""
    scenes, weights = zip(*SCENES, strict=True)
    scene = scenes[int(rng.choice(len(scenes), p=np.array(weights) / sum(weights)))]
    image = scene(rng, size)
    return to_uint8(image * _light(rng, size)[..., None], 255)


def _light(rng: np.random.Generator, size: int) -> FloatImage:
    """Uneven light over a scene, (size, size): a gradient and a vignette."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.25)
    ramp = axis[None, :] * np.cos(angle) + axis[:, None] * np.sin(angle)
    radius = axis[None, :] ** 2 + axis[:, None] ** 2
    return np.asarray((1 + strength * ramp) * (1 - rng.uniform(0, 0.18) * radius), np.float32)


def _in_perspective(rng: np.random.Generator, flat: FloatImage) -> FloatImage:
    """A flat material, turned and then tilted away from the viewer: its far edge is on top."""
    size = flat.shape[0]
    turn = rng.choice([0.0, 90.0]) + rng.normal(0, 8)
    spread = rng.uniform(0.1, 0.9)
    turned = cv2.getRotationMatrix2D((size / 2, size / 2), turn, 1.0)
    corners = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float32)
    far = np.array([[0, 0], [size, 0], [size * (1 + spread), size], [-size * spread, size]], np.float32)
    matrix = cv2.getPerspectiveTransform(corners, far) @ np.vstack([turned, [0, 0, 1]])
    tilted = cv2.warpPerspective(flat, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return tilted.astype(np.float32, copy=False)


def _join(rng: np.random.Generator, far: FloatImage, near: FloatImage, horizon: float) -> FloatImage:
    """`near` below the horizon (share of the height) and `far` above it, with a soft, slightly tilted edge."""
    size = far.shape[0]
    tilt = np.tan(np.radians(rng.normal(0, 2)))
    line = horizon * size + tilt * (np.arange(size, dtype=np.float32) - size / 2)
    below = np.arange(size, dtype=np.float32)[:, None] - line[None, :]
    edge = 0.5 + size * rng.uniform(0, 0.012)
    weight = np.clip(below / edge + 0.5, 0, 1)[..., None].astype(np.float32)
    occlusion = 1 - rng.uniform(0, 0.35) * np.exp(-np.abs(below) / (0.05 * size))[..., None].astype(np.float32)
    return np.asarray((far * (1 - weight) + near * weight) * occlusion, np.float32)


def _studio(rng: np.random.Generator, size: int) -> FloatImage:
    """A seamless backdrop with a light on it."""
    base = muted(rng) if rng.random() < 0.7 else vivid(rng)
    centre, width = rng.uniform(0.2, 0.8, 2), rng.uniform(0.4, 1.2)
    axis = np.linspace(0, 1, size, dtype=np.float32)
    spot = np.exp(-((axis[None, :] - centre[0]) ** 2 + (axis[:, None] - centre[1]) ** 2) / width**2)
    floor = np.clip((axis[:, None] - rng.uniform(0.4, 0.9)) / rng.uniform(0.05, 0.5), 0, 1) * rng.uniform(-0.2, 0.2)
    light = rng.uniform(0.55, 0.9) + rng.uniform(0.1, 0.5) * spot + floor
    return np.asarray(base * light[..., None], np.float32)


def _top_down(rng: np.random.Generator, size: int) -> FloatImage:
    """A material seen from above, or a surface that fills the frame."""
    flat = material(rng, size)
    flat = (
        _in_perspective(rng, flat) if rng.random() < 0.4 else np.ascontiguousarray(np.rot90(flat, int(rng.integers(4))))
    )
    return blur(flat, size * rng.choice([0.0, rng.uniform(0, 0.012)]))


def _clutter(rng: np.random.Generator, image: FloatImage, count: int, lowest: float) -> FloatImage:
    """Adds boxes, discs and frames, whose lower edges lie above `lowest` (share of the height)."""
    size = image.shape[0]
    canvas = image.copy()
    for _ in range(count):
        colour = tuple(float(c) for c in (vivid(rng) if rng.random() < 0.5 else muted(rng)))
        width, height = rng.uniform(0.06, 0.5, 2) * size
        x = rng.uniform(-0.1, 1.0) * size
        bottom = lowest * size * (1.0 if rng.random() < 0.6 else rng.uniform(0.3, 1.0))
        if rng.random() < 0.75:
            cv2.rectangle(canvas, (int(x), int(bottom - height)), (int(x + width), int(bottom)), colour, -1)
            if rng.random() < 0.5:
                inner = tuple(float(c) for c in muted(rng))
                inset = int(rng.uniform(0.1, 0.3) * min(width, height))
                start = int(x) + inset, int(bottom - height) + inset
                end = int(x + width) - inset, int(bottom) - inset
                cv2.rectangle(canvas, start, end, inner, -1)
        else:
            cv2.ellipse(canvas, (int(x), int(bottom - width / 2)), (int(width / 2),) * 2, 0, 0, 360, colour, -1)
    return canvas


def _room(rng: np.random.Generator, size: int) -> FloatImage:
    """A table or floor in front of a wall, which is often out of focus and has things in front of it."""
    horizon = rng.uniform(0.2, 0.75)
    wall = material(rng, size)
    count = int(rng.integers(0, 7))
    if count:
        wall = _clutter(rng, wall, count, horizon + 0.02)
    wall = blur(wall, size * rng.uniform(0, 0.03))
    near = _in_perspective(rng, material(rng, size))
    return _join(rng, wall, near, horizon)


def _outdoors(rng: np.random.Generator, size: int) -> FloatImage:
    """Sky, a blurred line of trees or houses, and the ground."""
    horizon = rng.uniform(0.25, 0.7)
    axis = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    top, low = hsv(rng.uniform(0.53, 0.63), rng.uniform(0.05, 0.6), rng.uniform(0.5, 0.95)), hsv(0.1, 0.08, 0.92)
    sky = blend(np.repeat(axis / horizon, size, axis=1) + 0.4 * noise(rng, size, (3, 6), 4), top, low)
    if rng.random() < 0.5:
        trees = foliage(rng, size)
        skyline = (horizon - 0.1) * size + noise(rng, size, (5, 2), 3)[0] * 0.25 * size
        behind = np.clip((np.arange(size)[:, None] - skyline[None, :]) / 4, 0, 1)[..., None].astype(np.float32)
        sky = sky * (1 - behind) + trees * behind
    else:
        sky = _clutter(rng, sky, int(rng.integers(1, 8)), horizon + 0.02)
    ground = _in_perspective(rng, foliage(rng, size) if rng.random() < 0.45 else stone(rng, size))
    return _join(rng, blur(sky, size * rng.uniform(0.005, 0.04)), ground, horizon)


def _bokeh(rng: np.random.Generator, size: int) -> FloatImage:
    """A scene far out of focus, sometimes with discs of light."""
    image = blend(0.5 + noise(rng, size, (2, 2), 2), muted(rng), muted(rng))
    image = _clutter(rng, image, int(rng.integers(4, 20)), rng.uniform(0.6, 1.2))
    image = blur(image, size * rng.uniform(0.02, 0.07))
    if rng.random() < 0.4:
        lights = np.zeros_like(image)
        for _ in range(int(rng.integers(3, 16))):
            centre = tuple(int(c) for c in rng.integers(0, size, 2))
            colour = tuple(float(c) for c in hsv(rng.uniform(0, 0.2), rng.uniform(0, 0.6), rng.uniform(0.2, 0.6)))
            cv2.circle(lights, centre, int(size * rng.uniform(0.015, 0.07)), colour, -1, cv2.LINE_AA)
        image = image + blur(lights, size * 0.006)
    return image


def _leaves(rng: np.random.Generator, size: int) -> FloatImage:
    """Overlapping shapes of all sizes: the dead-leaves model, which has the statistics of natural images."""
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = (muted(rng) * 255).astype(np.uint8)
    kinds = rng.choice(3, 6, p=[0.4, 0.3, 0.3])
    family = [(vivid, earthy, muted)[kind](rng) for kind in kinds]
    for radius in np.sort(size * 0.03 / rng.power(1.5, 110).clip(0.08, 1))[::-1]:
        colour = np.clip(family[rng.integers(len(family))] * rng.uniform(0.6, 1.3), 0, 1) * 255
        centre = rng.uniform(0, size, 2)
        corners = int(rng.integers(3, 9))
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        cv2.fillPoly(canvas, [points.astype(np.int32)], tuple(float(c) for c in colour), cv2.LINE_AA)
    shade = 1 + noise(rng, size, (6, 6), 4, 0.7) * rng.uniform(0.1, 0.5)
    return blur(canvas.astype(np.float32) / 255 * shade[..., None], size * rng.uniform(0.002, 0.03))


def _shelf(rng: np.random.Generator, size: int) -> FloatImage:
    """Rows of upright boxes: books, packets, drawers."""
    image = np.empty((size, size, 3), np.float32)
    image[:] = muted(rng) * np.float32(0.5)
    rows = int(rng.integers(1, 4))
    for row in range(rows):
        x, bottom = float(rng.uniform(-0.2, 0.0) * size), int((row + rng.uniform(0.85, 0.97)) * size / rows)
        while x < size:
            width, height = size * rng.uniform(0.03, 0.2), size / rows * rng.uniform(0.5, 0.9)
            colour = tuple(float(c) for c in (vivid(rng) if rng.random() < 0.55 else muted(rng)))
            cv2.rectangle(image, (int(x), int(bottom - height)), (int(x + width), bottom), colour, -1)
            label = tuple(float(c) for c in muted(rng))
            top = bottom - height * rng.uniform(0.4, 0.9)
            cv2.rectangle(
                image, (int(x + width * 0.15), int(top)), (int(x + width * 0.85), int(top + height * 0.2)), label, -1
            )
            x += width * rng.uniform(1.02, 1.2)
    shade = 1 + noise(rng, size, (20, 3), 2) * 0.3
    return blur(image * shade[..., None], size * rng.uniform(0.003, 0.03))


SCENES: Sequence[tuple[Callable[[np.random.Generator, int], FloatImage], float]] = (
    (_room, 0.32),
    (_top_down, 0.24),
    (_outdoors, 0.12),
    (_bokeh, 0.1),
    (_studio, 0.1),
    (_leaves, 0.06),
    (_shelf, 0.06),
)
