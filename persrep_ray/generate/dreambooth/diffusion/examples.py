"""What a text-to-image model is fine-tuned on: square crops of photos as latents, and their masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from persrep_ray.generate.dreambooth.diffusion.model import DiffusionModel


@dataclass(frozen=True)
class Examples:
    """N crops: `latents` (N, C, h, w), `masks` (N, 1, h, w) in 0..1, and the indices of their photos, `photo` (N,)."""

    latents: torch.Tensor
    masks: torch.Tensor
    photo: NDArray[np.int64]


def make_examples(
    model: DiffusionModel,
    photos: Sequence[tuple[NDArray[np.uint8], NDArray[np.bool_] | None]],
    *,
    crops: int,
    seed: int,
) -> Examples:
    """`crops` crops of each photo: images (H, W, 3) uint8 with masks (H, W) bool, or None if the whole image counts."""
    rng = np.random.default_rng(seed)
    side = model.config.resolution
    images, masks, whose = [], [], []
    for index, (image, mask) in enumerate(photos):
        for _ in range(crops):
            crop, covered = square_crop(rng, image, mask, side)
            images.append(model.encode_images(to_tensor(crop)))
            masks.append(torch.from_numpy(covered)[None, None])
            whose.append(index)
    latents = torch.cat(images)
    small = torch.nn.functional.adaptive_avg_pool2d(torch.cat(masks), (latents.shape[-2], latents.shape[-1]))
    return Examples(latents, small.to(latents.device), np.array(whose))


def square_crop(
    rng: np.random.Generator, image: NDArray[np.uint8], mask: NDArray[np.bool_] | None, side: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A random square, as large as fits into the photo, that contains the masked object, scaled to `side`.

    An object that is longer than the square is cut off evenly at both ends; every crop shows a part of it.

    Returns:
        The crop (side, side, 3) uint8 and its mask (side, side) float32 in 0..1.
    """
    height, width = image.shape[:2]
    length = min(height, width)
    covered = np.ones((height, width), np.float32) if mask is None else mask.astype(np.float32)
    top, left = (
        _offset(rng, np.asarray(covered.any(axis=1 - axis)), length, size) for axis, size in enumerate((height, width))
    )
    box = slice(top, top + length), slice(left, left + length)
    method = cv2.INTER_AREA if length > side else cv2.INTER_CUBIC
    crop = cv2.resize(np.ascontiguousarray(image[box]), (side, side), interpolation=method)
    part = cv2.resize(covered[box], (side, side), interpolation=cv2.INTER_AREA if length > side else cv2.INTER_LINEAR)
    return crop.astype(np.uint8, copy=False), np.asarray(part, np.float32)


def _offset(rng: np.random.Generator, occupied: NDArray[np.bool_], length: int, size: int) -> int:
    """Where a window of `length` in `size` begins so that it contains everything that is occupied, if it can."""
    inside = np.flatnonzero(occupied)
    first, last = int(inside[0]), int(inside[-1]) + 1
    low, high = max(0, last - length), min(size - length, first)
    if low > high:
        # The occupied place nearest to the middle; a mask of several parts may not cover the middle itself.
        middle = int(inside[np.abs(2 * inside - first - last).argmin()])
        return int(np.clip(middle - length // 2, 0, size - length))
    return int(rng.integers(low, high + 1))


def to_tensor(image: NDArray[np.uint8]) -> torch.Tensor:
    """(S, S, 3) uint8 -> (1, 3, S, S) in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
