"""Light, colour and camera: what happens to the pixel values of an object and of a whole image."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from persrep_ray.config import DataConfig
from persrep_ray.data.images import decode_rgb, encode_jpeg
from persrep_ray.generate.cut_paste.compositing import FloatImage, Layer

_LUMA = np.array([0.299, 0.587, 0.114])

Pixels = TypeVar("Pixels", FloatImage, NDArray[np.uint8])


def to_uint8(image: FloatImage, scale: float = 1.0) -> NDArray[np.uint8]:
    """`image` (H, W, 3) float32 times `scale`, rounded and clipped to (H, W, 3) uint8 in one pass."""
    height, width, channels = image.shape
    flat = np.ascontiguousarray(image, np.float32).reshape(height, width * channels)
    rounded = cv2.addWeighted(flat, scale, flat, 0.0, 0.0, dtype=cv2.CV_8U)
    return np.asarray(rounded, np.uint8).reshape(image.shape)


def blur(image: Pixels, sigma: float) -> Pixels:
    """Gaussian blur of (H, W, 3). A wide one runs at a lower resolution, which looks the same and costs a tenth."""
    if sigma < 0.3:
        return image
    height, width = image.shape[:2]
    shrink = int(np.clip(sigma / 2, 1, 8))
    if shrink == 1:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), image.dtype)
    small = cv2.resize(image, (max(1, width // shrink), max(1, height // shrink)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / shrink)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), image.dtype)


def tone(contrast: float, gamma: float, gain: float = 1.0) -> NDArray[np.uint8]:
    """A look-up table (256,) of gain, gamma, then contrast about mid-grey."""
    ramp = np.clip(np.linspace(0, 1, 256) * gain, 0, None) ** gamma
    return np.clip(((ramp - 0.5) * contrast + 0.5) * 255, 0, 255).astype(np.uint8)


def _colour_matrix(saturation: float, gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 3) matrix: saturation about the luma, then a gain per channel."""
    grey = np.tile(_LUMA, (3, 1)) * (1 - saturation)
    return gains[:, None] * (grey + np.eye(3) * saturation)


def _warmth(rng: np.random.Generator, spread: float) -> NDArray[np.float64]:
    """Gains of R, G, B along the axis from warm to cold, and a little from green to magenta."""
    warm, green = rng.normal(0, spread), rng.normal(0, spread / 3)
    return np.asarray(np.exp([warm, green, -warm]), np.float64)


def relight(rng: np.random.Generator, layer: Layer, canvas: FloatImage) -> Layer:
    """The object in a different light: only mildly, because it must stay recognisable, and closer to the scene's light.

    Gamma, brightness, saturation and white balance are random; mean light and tint move towards those of `canvas`
    (S, S, 3) float32; one side faces the light.
    """
    gamma, gain = np.exp(rng.normal(0, 0.15)), np.exp(rng.normal(0, 0.1))
    saturation, warmth = float(rng.uniform(0.8, 1.2)), _warmth(rng, 0.04)
    light, tint = rng.uniform(0, 0.35), rng.uniform(0, 0.15)
    angle, strength = rng.uniform(0, 2 * np.pi), abs(rng.normal(0, 0.12))
    colour = cv2.LUT(layer.colour.astype(np.uint8), tone(1.0, float(gamma)))
    own = np.array(cv2.mean(colour, (layer.alpha > 0.5).astype(np.uint8))[:3]) + 1
    scene = np.array(cv2.mean(canvas)[:3]) + 1
    # A bright object is not made much brighter, because it would lose its texture.
    brighter = float(np.clip(float(scene @ _LUMA) / float(own @ _LUMA), 0.35, 2.2)) ** light
    most = max(1.0, 215.0 / float(own.max()))
    gains = warmth * min(brighter * float(gain), most) * np.clip(scene / (scene @ _LUMA), 0.5, 2.0) ** tint
    changed = cv2.transform(colour.astype(np.float32), _colour_matrix(saturation, gains))
    height, width = layer.alpha.shape
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :] * np.float32(np.cos(angle) * strength)
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * np.float32(np.sin(angle) * strength)
    shaded = changed * (1 + across + down)[..., None]
    return replace(layer, colour=np.minimum(shaded, 255.0).astype(np.float32, copy=False))


def finish(rng: np.random.Generator, canvas: FloatImage, limits: DataConfig) -> NDArray[np.uint8]:
    """What a camera does: exposure, white balance, contrast, and sometimes blur, low resolution, noise and JPEG.

    `canvas` is (S, S, 3) float32 in 0..255, the result (S, S, 3) uint8.
    """
    size = canvas.shape[0]
    gains = _warmth(rng, 0.06) * np.exp(rng.normal(0, 0.12))
    matrix = _colour_matrix(float(rng.uniform(0.75, 1.15)), gains)
    contrast, gamma = float(np.exp(rng.normal(0, 0.1))), float(np.exp(rng.normal(0, 0.12)))
    soften, low, noisy, coded = rng.random(4)
    exposed = cv2.transform(canvas, matrix)
    if soften < 0.2:
        exposed = cv2.GaussianBlur(exposed, (0, 0), max(0.3, size * rng.uniform(0.0015, 0.005)))
    elif soften < 0.26:
        exposed = cv2.filter2D(exposed, -1, _motion_kernel(rng, size))
    if low < 0.15:
        side = max(1, round(size * rng.uniform(0.4, 0.75)))
        reduced = cv2.resize(exposed, (side, side), interpolation=cv2.INTER_AREA)
        exposed = cv2.resize(reduced, (size, size), interpolation=cv2.INTER_LINEAR)
    if noisy < 0.4:
        exposed = exposed + _sensor_noise(rng, size)
    table = tone(contrast, gamma)
    image = cv2.LUT(to_uint8(exposed.astype(np.float32, copy=False)), table).astype(np.uint8, copy=False)
    if coded < 0.25:
        image = decode_rgb(encode_jpeg(image, quality=int(rng.integers(40, 85))), limits, "a synthetic image")
    return image


def _motion_kernel(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    length = max(3, int(size * rng.uniform(0.01, 0.025)) | 1)
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1.0
    turn = cv2.getRotationMatrix2D((length / 2 - 0.5, length / 2 - 0.5), rng.uniform(0, 180), 1.0)
    kernel = cv2.warpAffine(kernel, turn, (length, length)).astype(np.float32)
    return np.asarray(kernel / kernel.sum(), np.float32)


def _sensor_noise(rng: np.random.Generator, size: int) -> FloatImage:
    """Grain of one to seven grey levels, (size, size, 3): fine in luminance, weaker and coarser in colour."""
    level = np.float32(min(rng.gamma(2.0, 1.4), 7.0))
    grain = rng.standard_normal((size, size, 1), dtype=np.float32)
    blotches = rng.standard_normal((size // 2 + 1, size // 2 + 1, 3), dtype=np.float32)
    return level * (grain + 0.7 * cv2.resize(blotches, (size, size), interpolation=cv2.INTER_LINEAR))
