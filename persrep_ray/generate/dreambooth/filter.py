"""Does a sampled image show the object? Its masked crop is compared with the masked crops of the photos.

This is the paper's filter (arXiv 2412.16156): a positive is kept if the similarity reaches a threshold. What a cosine
means differs between backbones and between objects, so it is put on a scale: a likeness of 0 is how alike other objects
are to the photos, 1 is how alike the photos are to each other.
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
from persrep_ray.config import RunConfig
from persrep_ray.data.images import capped_size
from persrep_ray.generate.dreambooth.run import MaskedImage
from persrep_ray.masks.grabcut import MaskError
from persrep_ray.masks.images import ImageMasker

if TYPE_CHECKING:
    from persrep_ray.masks.sam import SamReference

_GREY = (124, 116, 104)  # the mean of natural images: what is not the object should not count
_MARGIN = 0.05  # of the box's longer side
_CROP = 224  # side of the crops, pixels
_LEAST_SCALE = 0.02  # between the cosines of likeness 0 and 1; less would scale noise

Embed = Callable[[Sequence[NDArray[np.uint8]]], NDArray[np.float32]]  # crops (S, S, 3) -> (B, D) of unit length


@dataclass(frozen=True)
class Match:
    """`score`: the likeness to the most similar photo. `mask` (H, W) bool: what was compared. None: no foreground."""

    score: float | None
    mask: NDArray[np.bool_] | None


class LikenessFilter:
    """Compares images with the photos of one object after another; the networks are loaded once."""

    def __init__(self, config: RunConfig, device: torch.device | str = "cpu") -> None:
        self._threshold = config.generate.filter.threshold
        self._masker = ImageMasker(config, device)
        self._embed = _embedder(config, device)
        self._photos: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self._scale = 0.0, 1.0  # the cosines of likeness 0 and 1
        self._reference: SamReference | None = None

    def set_object(self, photos: Sequence[MaskedImage], distractors: Sequence[MaskedImage]) -> None:
        """Sets what images are compared with.

        Args:
            photos: at least one photo of the object. With a single photo, a likeness of 1 is equality.
            distractors: any other objects; without any, 0 is a cosine of 0, which rejects almost nothing.
        """
        self._reference = self._masker.refer(*photos[0])
        embedded = self._embed([masked_crop(*photo) for photo in photos])
        among = embedded @ embedded.T
        np.fill_diagonal(among, -1.0)
        one = float(among.max(axis=1).mean()) if len(embedded) > 1 else 1.0
        zero = 0.0
        if distractors:
            crops = [masked_crop(*distractor) for distractor in distractors]
            zero = float((self._embed(crops) @ embedded.T).max(axis=1).mean())
        self._photos, self._scale = embedded, (zero, max(one, zero + _LEAST_SCALE))

    def match(self, images: Sequence[NDArray[np.uint8]]) -> list[Match]:
        """Compares each of the images (H, W, 3) uint8 with the photos."""
        masks = [self._mask(image, self._reference) for image in images]
        likeness = iter(self.likeness([(i, mask) for i, mask in zip(images, masks, strict=True) if mask is not None]))
        return [Match(None, None) if mask is None else Match(next(likeness), mask) for mask in masks]

    def likeness(self, images: Sequence[MaskedImage]) -> list[float]:
        """The likeness of each image to the most similar photo."""
        if not images:
            return []
        zero, one = self._scale
        cosines = (self._embed([masked_crop(*image) for image in images]) @ self._photos.T).max(axis=1)
        return [float(value) for value in (cosines - zero) / (one - zero)]

    def accepts(self, match: Match) -> bool:
        """Whether the likeness reaches the threshold. Without a threshold, everything passes."""
        return self._threshold is None or (match.score is not None and match.score >= self._threshold)

    def masked(self, images: Sequence[NDArray[np.uint8]]) -> list[MaskedImage]:
        """The images that have a foreground, with their masks."""
        masks = ((image, self._mask(image, None)) for image in images)
        return [(image, mask) for image, mask in masks if mask is not None]

    def _mask(self, image: NDArray[np.uint8], reference: SamReference | None) -> NDArray[np.bool_] | None:
        try:
            return self._masker.mask(image, reference)
        except MaskError:
            return None  # an image without a foreground does not show the object


def cut_out(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> MaskedImage:
    """The part of `image` (H, W, 3) that `mask` (H, W) spans, at most as large as a crop, so it is cheap to keep."""
    box = _span(mask)
    height, width = mask[box].shape
    size = capped_size((height, width), _CROP)[::-1]
    small = cv2.resize(mask[box].astype(np.float32), size, interpolation=cv2.INTER_AREA)
    part = cv2.resize(image[box], size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return part, np.asarray(small >= min(0.5, float(small.max())), np.bool_)


def masked_crop(image: NDArray[np.uint8], mask: NDArray[np.bool_], side: int = _CROP) -> NDArray[np.uint8]:
    """(side, side, 3) uint8: what `mask` covers of `image`, on grey, centred in a square that it fills."""
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
    """The rows and columns that the mask, which must not be empty, extends over."""
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
    from dreamsim import dreamsim  # an optional package, which the generator declares

    model, preprocess = dreamsim(pretrained=True, device=str(device))

    @torch.no_grad()
    def embed(crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        batch = torch.cat([preprocess(Image.fromarray(crop)) for crop in crops]).to(device)
        return _unit(model.embed(batch))

    return embed


def _unit(features: torch.Tensor) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = torch.nn.functional.normalize(features.float(), dim=1).cpu().numpy()
    return rows
