"""Procedural materials: what walls, tables and floors are made of.

Each function takes (rng, size) and returns (size, size, 3) float32 RGB in 0..1, in one to four milliseconds at 256 px.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

FloatImage = NDArray[np.float32]
Colour = NDArray[np.float32]


def noise(
    rng: np.random.Generator, size: int, cells: tuple[float, float], octaves: int = 1, persistence: float = 0.55
) -> FloatImage:
    """Smooth noise, (size, size) float32 with mean near 0, in about -1..1. The first octave has `cells` along x, y."""
    total = np.zeros((size, size), np.float32)
    amplitude, norm = 1.0, 0.0
    for octave in range(octaves):
        columns, rows = (int(np.clip(round(c * 2**octave), 2, size)) for c in cells)
        grid = rng.random((rows, columns), dtype=np.float32) * 2 - 1
        total += amplitude * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
        norm += amplitude
        amplitude *= persistence
    return total / np.float32(norm)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """(3,) float32 RGB in 0..1."""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, np.clip(saturation, 0, 1), np.clip(value, 0, 1)), np.float32)


def muted(rng: np.random.Generator) -> Colour:
    """A colour as it is common in rooms: mostly weak, seldom strong."""
    hue = rng.normal(0.09, 0.05) if rng.random() < 0.5 else rng.random()
    return hsv(hue, 0.8 * rng.beta(1.1, 3.2), 0.15 + 0.8 * rng.beta(2.0, 1.5))


def vivid(rng: np.random.Generator) -> Colour:
    """A colour as it is common in print and paint."""
    # Warm hues and blues are more common than greens and purples, and bright colours are seldom pure.
    hue = rng.choice([rng.normal(0.05, 0.06), rng.normal(0.58, 0.06), rng.random()], p=[0.4, 0.3, 0.3])
    value = rng.uniform(0.25, 0.95)
    return hsv(hue, rng.uniform(0.3, 0.95) * (1.1 - 0.35 * value), value)


def earthy(rng: np.random.Generator) -> Colour:
    """A brown, a beige or a warm grey."""
    return hsv(rng.uniform(0.04, 0.12), rng.uniform(0.1, 0.65), rng.uniform(0.2, 0.9))


def blend(weight: FloatImage, low: Colour, high: Colour) -> FloatImage:
    """A colour ramp over a weight map (h, w) in 0..1."""
    return low + np.clip(weight, 0, 1)[..., None] * (high - low)


def plain(rng: np.random.Generator, size: int) -> FloatImage:
    """Paint, paper or plastic: a colour that is barely uneven."""
    base = muted(rng) if rng.random() < 0.75 else vivid(rng)
    uneven = noise(rng, size, (3, 3), 2) * rng.uniform(0.01, 0.06)
    return base + uneven[..., None]


def wood(rng: np.random.Generator, size: int) -> FloatImage:
    """Boards with grain along x and seams between them."""
    base = hsv(rng.uniform(0.04, 0.11), rng.uniform(0.2, 0.7), rng.uniform(0.25, 0.9))
    along, across = rng.uniform(1.5, 4), rng.uniform(24, 60)
    grain = noise(rng, size, (along, across), 3, 0.7)
    rings = np.sin(noise(rng, size, (along, rng.uniform(4, 9)), 2) * rng.uniform(8, 20))
    tone = 1 + rng.uniform(0.08, 0.3) * grain + rng.uniform(0.02, 0.1) * rings
    boards = int(rng.integers(1, 9))
    edges = np.linspace(0, size, boards + 1)
    which = np.clip(np.searchsorted(edges, np.arange(size), side="right") - 1, 0, boards - 1)
    tint = (1 + rng.uniform(0, 0.12) * rng.standard_normal(boards)).astype(np.float32)[which]
    if boards > 1:
        gap = np.abs(np.arange(size)[:, None] - edges[None, 1:-1]).min(axis=1)
        tint = tint * np.where(gap < max(0.7, size * rng.uniform(0.002, 0.008)), rng.uniform(0.25, 0.7), 1.0)
    image = base * tone[..., None] * tint.astype(np.float32)[:, None, None]
    return np.asarray(image, np.float32)


def stone(rng: np.random.Generator, size: int) -> FloatImage:
    """Concrete, granite or sand: noise over several octaves, with speckles."""
    first = earthy(rng) if rng.random() < 0.5 else hsv(rng.random(), rng.uniform(0, 0.15), rng.uniform(0.3, 0.9))
    second = first * np.float32(rng.uniform(0.55, 0.9))
    cloud = noise(rng, size, (rng.uniform(2, 6),) * 2, 6, rng.uniform(0.55, 0.8))
    image = blend(0.5 + 1.2 * cloud, second, first)
    speckle = noise(rng, size, (size / 2,) * 2) * rng.uniform(0.02, 0.2)
    return image * (1 + speckle[..., None])


def marble(rng: np.random.Generator, size: int) -> FloatImage:
    """Veins made of folded noise."""
    light, dark = hsv(rng.random(), rng.uniform(0, 0.12), rng.uniform(0.75, 0.97)), muted(rng) * np.float32(0.7)
    veins = 1 - np.abs(noise(rng, size, (rng.uniform(2, 5),) * 2, 5, 0.6))
    return blend(np.clip(veins, 0, 1) ** rng.uniform(8, 25) * rng.uniform(0.4, 0.9), light, dark)


def fabric(rng: np.random.Generator, size: int) -> FloatImage:
    """Cloth: a weave, folds, and sometimes stripes or checks."""
    base, other = (vivid(rng) if rng.random() < 0.4 else muted(rng) for _ in range(2))
    x, y = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32))
    pattern = rng.random()
    weight = np.zeros((size, size))
    if pattern < 0.55:
        period = size / rng.uniform(3, 22)
        duty = rng.uniform(-0.5, 0.5)
        bend = noise(rng, size, (3, 3)) * size * 0.02
        stripes = np.clip((np.sin((x + bend) * (2 * np.pi / period)) - duty) * 4 + 0.5, 0, 1)
        weight = stripes
        if pattern < 0.3:
            weight = (stripes + np.clip((np.sin((y + bend) * (2 * np.pi / period)) - duty) * 4 + 0.5, 0, 1)) / 2
    thread = 2 * np.pi / rng.uniform(2.5, 5)
    weave = np.sin(x * thread) * np.sin(y * thread) * rng.uniform(0.02, 0.1)
    folds = noise(rng, size, (rng.uniform(1.5, 5), rng.uniform(1.5, 5)), 2) * rng.uniform(0.03, 0.3)
    cloth = blend(np.asarray(weight * rng.uniform(0.4, 1), np.float32), base, other) * (1 + weave + folds)[..., None]
    return np.asarray(cloth, np.float32)


def tiles(rng: np.random.Generator, size: int) -> FloatImage:
    """Tiles or bricks with joints, each a little different."""
    brick = rng.random() < 0.4
    if brick:
        base = hsv(rng.uniform(0, 0.08), rng.uniform(0.1, 0.7), rng.uniform(0.3, 0.85))
        height = max(4, int(size / rng.uniform(6, 16)))
        width = int(height * rng.uniform(2, 3.5))
    else:
        base = muted(rng)
        height = max(6, int(size / rng.uniform(2.5, 10)))
        width = int(height * (1 if rng.random() < 0.6 else rng.uniform(1, 2.5)))
    joint = max(1.0, height * rng.uniform(0.02, 0.08))
    y, x = np.arange(size) + rng.integers(height), np.arange(size) + rng.integers(width)
    row = y // height
    shifted = x[None, :] + (row[:, None] % 2) * (width // 2 if brick else 0)
    column = shifted // width
    tints = 1 + rng.uniform(0.01, 0.2 if brick else 0.1) * rng.standard_normal((row.max() + 1, column.max() + 1))
    image = base * tints[row[:, None], column][..., None].astype(np.float32)
    in_joint = ((y % height) < joint)[:, None] | ((shifted % width) < joint)
    mortar = hsv(rng.random(), rng.uniform(0, 0.1), rng.uniform(0.3, 0.95))
    image = np.where(cv2.blur(in_joint.astype(np.float32), (2, 2))[..., None] > 0.5, mortar, image)
    rough = noise(rng, size, (20, 20), 3, 0.8) * rng.uniform(0.01, 0.2 if brick else 0.06)
    return np.asarray(image * (1 + rough)[..., None], np.float32)


def foliage(rng: np.random.Generator, size: int) -> FloatImage:
    """Grass, leaves or moss: many small strokes in a family of colours, the dark ones first."""
    hue = rng.uniform(0.15, 0.31) if rng.random() < 0.75 else rng.uniform(0.02, 0.14)
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = (hsv(hue, 0.6, 0.15) * 255).astype(np.uint8)
    count = 220
    length, thin = size * rng.uniform(0.02, 0.09), rng.uniform(0.15, 0.6)
    centres = rng.integers(0, size, (count, 2))
    angles = rng.normal(90, rng.choice([15.0, 90.0]), count)
    values = np.sort(rng.uniform(0.15, 0.85, count))
    hues, sats = hue + rng.normal(0, 0.025, count), rng.uniform(0.25, 0.7, count)
    sizes = length * rng.uniform(0.5, 1.6, count)
    for i in range(count):
        axes = (max(1, int(sizes[i])), max(1, int(sizes[i] * thin)))
        colour = tuple(float(c) for c in hsv(hues[i], sats[i], values[i]) * 255)
        cv2.ellipse(canvas, (int(centres[i, 0]), int(centres[i, 1])), axes, float(angles[i]), 0, 360, colour, -1)
    shade = 1 + noise(rng, size, (4, 4), 4, 0.7) * 0.5
    return canvas.astype(np.float32) / 255 * shade[..., None]


MATERIALS: Sequence[tuple[Callable[[np.random.Generator, int], FloatImage], float]] = (
    (plain, 0.22),
    (wood, 0.22),
    (stone, 0.16),
    (marble, 0.07),
    (fabric, 0.15),
    (tiles, 0.12),
    (foliage, 0.06),
)


def material(rng: np.random.Generator, size: int) -> FloatImage:
    """A random material; their frequencies are like those in rooms."""
    weights = np.array([weight for _, weight in MATERIALS])
    function = MATERIALS[int(rng.choice(len(MATERIALS), p=weights / weights.sum()))][0]
    return function(rng, size).astype(np.float32, copy=False)
