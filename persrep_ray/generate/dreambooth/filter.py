"""Does a sampled picture show the object? Its masked crop is compared with the masked crops of the photos.

The paper's filter (arXiv 2412.16156): a positive is kept if the similarity is at least a threshold. What a cosine means
differs from backbone to backbone, and from object to object; so it is put on a scale that other objects and the photos
themselves set: 0 is the likeness of others to the photos, 1 that of the photos to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from persrep_ray.backbones.backbone import load_backbone
from persrep_ray.config import ConfigError, RunConfig
from persrep_ray.data.images import capped_size
from persrep_ray.masks.grabcut import MaskError
from persrep_ray.masks.images import ImageMasker

if TYPE_CHECKING:
    from persrep_ray.masks.sam import SamReference

_GREY = (124, 116, 104)  # the mean of natural images: what is not the object should say nothing
_MARGIN = 0.05  # of the box's longer side
_CROP = 224  # side of the crops, pixels
_LEAST_SCALE = 0.02  # of cosines between likenesses 0 and 1: where others are as like, all that is left is noise

MaskedImage = tuple[NDArray[np.uint8], NDArray[np.bool_]]
Embed = Callable[[Sequence[NDArray[np.uint8]]], NDArray[np.float32]]  # crops (S, S, 3) -> (B, D) of unit length


@dataclass(frozen=True)
class Verdict:
    """`score`: likeness to the most similar photo; `mask` (H, W) bool of what was compared. None: no foreground."""

    score: float | None
    mask: NDArray[np.bool_] | None


class LikenessFilter:
    """Judges pictures of one object after another; the networks are loaded once."""

    def __init__(self, config: RunConfig, device: torch.device | str = "cpu") -> None:
        self._threshold = config.generate.filter.threshold
        self._masker = ImageMasker(config, device)
        self._embed = _embedder(config, device)
        self._photos: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self._scale = 0.0, 1.0  # the cosines that likenesses of 0 and 1 stand for
        self._reference: SamReference | None = None

    def set_object(self, photos: Sequence[MaskedImage], others: Sequence[MaskedImage]) -> None:
        """What to compare with: images (H, W, 3) uint8 with masks (H, W) bool.

        Args:
            photos: of the object, at least one. A single one says nothing of how alike photos are: then 1 is equality.
            others: any other objects; without any, 0 is a cosine of 0, which rejects next to nothing.
        """
        self._reference = self._masker.refer(*photos[0])
        own = self._embed([masked_crop(*one) for one in photos])
        among = own @ own.T
        np.fill_diagonal(among, -1.0)
        one = float(among.max(axis=1).mean()) if len(own) > 1 else 1.0
        zero = 0.0
        if others:
            zero = float((self._embed([masked_crop(*other) for other in others]) @ own.T).max(axis=1).mean())
        self._photos, self._scale = own, (zero, max(one, zero + _LEAST_SCALE))

    def judge(self, images: Sequence[NDArray[np.uint8]]) -> list[Verdict]:
        """A verdict for each of the pictures (H, W, 3) uint8."""
        masks = [self._mask(image, self._reference) for image in images]
        likeness = iter(self.likeness([(i, mask) for i, mask in zip(images, masks, strict=True) if mask is not None]))
        return [Verdict(None, None) if mask is None else Verdict(next(likeness), mask) for mask in masks]

    def likeness(self, images: Sequence[MaskedImage]) -> list[float]:
        """Of each of the images to the most similar photo."""
        if not images:
            return []
        zero, one = self._scale
        cosines = (self._embed([masked_crop(*image) for image in images]) @ self._photos.T).max(axis=1)
        return [float(value) for value in (cosines - zero) / (one - zero)]

    def accepts(self, verdict: Verdict) -> bool:
        """Without a threshold everything passes, pictures without any foreground too."""
        return self._threshold is None or (verdict.score is not None and verdict.score >= self._threshold)

    def masked(self, images: Sequence[NDArray[np.uint8]]) -> list[MaskedImage]:
        """The images that have a foreground, with it."""
        masks = ((image, self._mask(image, None)) for image in images)
        return [(image, mask) for image, mask in masks if mask is not None]

    def _mask(self, image: NDArray[np.uint8], reference: SamReference | None) -> NDArray[np.bool_] | None:
        try:
            return self._masker.mask(image, reference)
        except MaskError:
            return None  # a picture without a foreground does not show the object


def cut_out(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> MaskedImage:
    """The part of `image` (H, W, 3) that `mask` (H, W) spans, at most as large as a crop: cheap to keep."""
    box = _span(mask)
    height, width = mask[box].shape
    size = capped_size((height, width), _CROP)[::-1]
    small = cv2.resize(mask[box].astype(np.float32), size, interpolation=cv2.INTER_AREA)
    part = cv2.resize(image[box], size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return part, np.asarray(small >= min(0.5, float(small.max())), np.bool_)


def masked_crop(image: NDArray[np.uint8], mask: NDArray[np.bool_], side: int = _CROP) -> NDArray[np.uint8]:
    """(side, side, 3) uint8: what `mask` covers of `image`, on grey, in the middle of a square that it fills."""
    box = _span(mask)
    height, width = mask[box].shape
    scale = side * (1 - 2 * _MARGIN) / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    covered = mask[box].astype(np.float32)[..., None]
    alone = image[box] * covered + np.array(_GREY, np.float32) * (1 - covered)
    scaled = cv2.resize(alone, size, interpolation=method)
    crop = np.full((side, side, 3), _GREY, np.uint8)
    y, x = (side - size[1]) // 2, (side - size[0]) // 2
    crop[y : y + size[1], x : x + size[0]] = scaled.round().astype(np.uint8)
    return crop


def _span(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns that the mask, which is not empty, reaches over."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _embedder(config: RunConfig, device: torch.device | str) -> Embed:
    settings = config.generate.filter
    if settings.metric == "dreamsim":
        return _dream_sim(device)
    backbone_config = config.backbone
    if settings.backbone is not None:
        backbone_config = backbone_config.model_copy(
            update={"name": settings.backbone, "revision": None, "adapted_blocks": "all"}
        )
    backbone = load_backbone(backbone_config).to(device)

    @torch.no_grad()
    def embed(crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        pixels = backbone.pixels(crops, backbone_config.image_size)
        return _unit(backbone.suffix(backbone.prefix(pixels)).cls)

    return embed


def _dream_sim(device: torch.device | str) -> Embed:
    """DreamSim (Fu et al., arXiv 2306.09344), the paper's metric: its similarity is the cosine of its embeddings."""
    try:
        from dreamsim import dreamsim
    except ImportError as error:
        raise ConfigError(
            "generate.filter.metric: dreamsim is not installed (pip install dreamsim); backbone is the other metric"
        ) from error
    model, preprocess = dreamsim(pretrained=True, device=str(device))

    @torch.no_grad()
    def embed(crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        batch = torch.cat([preprocess(Image.fromarray(crop)) for crop in crops]).to(device)
        return _unit(model.embed(batch))

    return embed


def _unit(features: torch.Tensor) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = torch.nn.functional.normalize(features.float(), dim=1).cpu().numpy()
    return rows
