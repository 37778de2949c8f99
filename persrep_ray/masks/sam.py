"""Masks by Segment Anything (Kirillov et al., arXiv 2304.02643), prompted as in PerSAM (Zhang et al., 2305.03048).

As in PerSAM, the largest value of a map is a point on the object and the smallest value a point off it; the masks of
SAM at three scales are mixed by weights that are learned on a photo (PerSAM-F); and two more rounds refine the mask,
prompted first by itself and then also by its box. As in PerSAM-F, there is no target-guided attention and no
target-semantic prompting. The latter needs the target in the features of SAM, but our maps may come from any backbone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from persrep_ray.config import SamConfig
from persrep_ray.masks.grabcut import MaskError
from persrep_ray.masks.sam_checkpoint import load_sam

_LEARNING_RATE = 1e-3
_FLAT = 1e-6  # a smaller spread of similarities is rounding
_FOCAL_ALPHA, _FOCAL_GAMMA = 0.25, 2.0  # Lin et al., arXiv 1708.02002


@dataclass(frozen=True)
class SamImage:
    """An image after the encoder of SAM.

    Attributes:
        embedding: (C, g, g) of the padded square, float16 on the CPU, so that caches have room for twice as many.
        extent: (h, w), the pixels of the square that the image covers, from the top left.
        size: (H, W), the size of its masks.
    """

    embedding: torch.Tensor
    extent: tuple[int, int]
    size: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return self.embedding.nbytes


@dataclass(frozen=True)
class SamReference:
    """What a photo with a mask tells about an object.

    `target` (C,) of unit length is its feature by SAM; `weights` (3,) mix the scales, see `learn_weights`.
    """

    target: torch.Tensor
    weights: NDArray[np.float32] | None


class SamSegmenter:
    """Segments images with a `SamModel` of `transformers`. Raises `SamError` if `load_sam` does."""

    def __init__(self, config: SamConfig, device: torch.device | str = "cpu") -> None:
        model, self._normalize = load_sam(config)
        self._model: Any = model.to(device)
        self._device = torch.device(device)
        self._steps = config.weight_steps
        # The encoder accepts no other side (its positions are a table), so the preprocessor must use the same.
        self._side: int = self._model.config.vision_config.image_size

    @torch.no_grad()
    def embed(self, image: NDArray[np.uint8]) -> SamImage:
        """Encodes `image` (H, W, 3) uint8. This is the expensive half, so keep the result for other prompts."""
        height, width = image.shape[:2]
        scale = self._side / max(height, width)
        extent = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        resized = Image.fromarray(image).resize(extent[::-1], Image.Resampling.BILINEAR)
        pixels = self._normalize(torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float())  # (1, 3, h, w)
        padded = functional.pad(pixels, _padding(extent, self._side))
        embedding = self._model.get_image_embeddings(padded.to(self._device))[0]
        return SamImage(embedding.half().cpu(), extent, (height, width))

    def segment(
        self, image: SamImage, similarity: NDArray[np.float32], weights: NDArray[np.float32] | None = None
    ) -> NDArray[np.bool_]:
        """The mask (H, W) bool of what `similarity` points at.

        Args:
            image: the mask has its `size`.
            similarity: (h, w), a map over the image at any resolution.
            weights: (3,), mix the scales, see `learn_weights`; None takes the scale that SAM rates best.

        Raises:
            MaskError: a map that is flat or not finite, or an empty mask.
        """
        points = self._points(image, similarity)
        logits, ratings = self._decode(image, points)
        coarse = _best(logits, ratings) if weights is None else _mixed(logits, torch.tensor(weights))
        refined = _best(*self._decode(image, points, mask=coarse))
        box = _box(self._over_image(refined[None], image)[0] > 0)
        if box is None:
            raise MaskError("mask: SAM finds nothing at the point that is most like the object")
        final = _best(*self._decode(image, points, mask=refined, box=box))
        over_image = self._over_image(final[None], image)
        (scaled,) = functional.interpolate(over_image[None], image.size, mode="bilinear", align_corners=False)[0]
        mask: NDArray[np.bool_] = scaled.numpy() > 0
        if not mask.any():
            raise MaskError("mask: SAM finds nothing in the box that is most like the object")
        return mask

    def learn_weights(
        self, image: SamImage, similarity: NDArray[np.float32], mask: NDArray[np.bool_]
    ) -> NDArray[np.float32] | None:
        """Weights (3,) float32 of sum 1 that mix the three scales of SAM into `mask` (H, W) bool (PerSAM-F).

        Two weights are free and start at a third. The best of `weight_steps` steps is taken, so that the loss is never
        above that of the start. Deterministic. None if `weight_steps` is 0. Raises MaskError like `segment`.

        The loss is computed on the grid of the decoder, not on the pixels of the photo, so that a thousand steps take
        seconds on a CPU.
        """
        if self._steps == 0:
            return None
        logits, _ = self._decode(image, self._points(image, similarity))
        height, width = (max(1, round(side * logits.shape[-1] / self._side)) for side in image.extent)
        logits = logits[:, :height, :width].flatten(1)  # (3, P)
        truth = torch.from_numpy(_shrunk(mask, (height, width))).float().flatten()  # (P,)
        free = torch.full((2,), 1 / 3, requires_grad=True)
        optimizer = torch.optim.Adam([free], lr=_LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self._steps)
        least, best = torch.inf, free.detach().clone()
        for step in range(self._steps + 1):
            loss = mask_loss(_mixed(logits, _three(free)), truth)
            if loss.item() < least:
                least, best = loss.item(), free.detach().clone()
            if step < self._steps:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return _three(best).numpy()

    def refer(self, image: SamImage, mask: NDArray[np.bool_]) -> SamReference:
        """What to look for in other photos, given the object's `mask` (H, W) bool in this one (one-shot, as in PerSAM).

        The target is half the maximum plus half the mean of SAM's features under the mask. Raises MaskError like
        `segment`.
        """
        covered = torch.from_numpy(_shrunk(mask, image.extent)).float()
        on_square = functional.pad(covered, _padding(image.extent, self._side))
        share = functional.adaptive_avg_pool2d(on_square[None], image.embedding.shape[-1])[0]  # (g, g)
        features = image.embedding.float()[:, share >= min(0.5, float(share.max()))]  # (C, P)
        target = functional.normalize(features.amax(dim=1) / 2 + features.mean(dim=1) / 2, dim=0)
        return SamReference(target, self.learn_weights(image, self._likeness(image, target), mask))

    def segment_like(self, image: SamImage, reference: SamReference) -> NDArray[np.bool_]:
        """The mask (H, W) bool of what is most like `reference` in the features of SAM. Raises MaskError."""
        return self.segment(image, self._likeness(image, reference.target), reference.weights)

    def _likeness(self, image: SamImage, target: torch.Tensor) -> NDArray[np.float32]:
        """The cosine (h, w) float32 over the image between the features of SAM and `target` (C,)."""
        cosine = torch.einsum("chw,c->hw", functional.normalize(image.embedding.float(), dim=0), target)
        over_image: NDArray[np.float32] = self._over_image(cosine[None], image)[0].numpy()
        return over_image

    @torch.no_grad()
    def _decode(
        self,
        image: SamImage,
        points: torch.Tensor,
        mask: torch.Tensor | None = None,
        box: Sequence[float] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (3, m, m) over the square and SAM's ratings (3,), given points on and off the object (2, 2).

        `mask` (m, m) are logits of an earlier round; `box` is [left, top, right, bottom] in pixels of the square.
        """
        prompts = {} if box is None else {"input_boxes": torch.tensor([[box]], device=self._device)}
        answer = self._model(
            image_embeddings=image.embedding[None].float().to(self._device),
            input_points=points[None, None].to(self._device),
            input_labels=torch.tensor([[[1, 0]]], device=self._device),
            input_masks=None if mask is None else mask[None, None].to(self._device),
            multimask_output=True,
            **prompts,
        )
        return answer.pred_masks[0, 0].float().cpu(), answer.iou_scores[0, 0].float().cpu()

    def _points(self, image: SamImage, similarity: NDArray[np.float32]) -> torch.Tensor:
        """The middles (2, 2) of the cells most and least like the object: x and y in pixels of the square."""
        if similarity.ndim != 2 or not np.isfinite(similarity).all():
            raise MaskError(f"mask: the similarity map {similarity.shape} must be (h, w) and finite")
        if np.ptp(similarity) <= _FLAT:
            raise MaskError("mask: the similarity map is flat")
        rows, columns = np.unravel_index([similarity.argmax(), similarity.argmin()], similarity.shape)
        cells = np.stack([columns, rows], axis=1) + 0.5
        scale = np.array([image.extent[1] / similarity.shape[1], image.extent[0] / similarity.shape[0]])
        # The model measures from the middles of pixels.
        return torch.from_numpy(cells * scale - 0.5).float()

    def _over_image(self, maps: torch.Tensor, image: SamImage) -> torch.Tensor:
        """Maps (K, m, m) over the square -> (K, h, w) over the image only, in pixels of the square."""
        size = (self._side, self._side)
        on_square = functional.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
        return on_square[:, : image.extent[0], : image.extent[1]]


def mask_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Dice plus focal loss of the logits (P,) of a mask against `truth` (P,) of zeros and ones, as in PerSAM-F."""
    probability = logits.sigmoid()
    dice = 1 - (2 * (probability * truth).sum() + 1) / (probability.sum() + truth.sum() + 1)
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    wrong = probability * (1 - truth) + (1 - probability) * truth
    alpha = _FOCAL_ALPHA * truth + (1 - _FOCAL_ALPHA) * (1 - truth)
    return dice + (alpha * wrong**_FOCAL_GAMMA * entropy).mean()


def _mixed(logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(3, ...) logits -> (...), by `weights` (3,)."""
    return torch.tensordot(weights, logits, dims=1)


def _three(free: torch.Tensor) -> torch.Tensor:
    """(2,) free weights -> (3,) of sum 1."""
    return torch.cat([1 - free.sum(dim=0, keepdim=True), free])


def _best(logits: torch.Tensor, ratings: torch.Tensor) -> torch.Tensor:
    return logits[int(ratings.argmax())]


def _box(mask: torch.Tensor) -> list[float] | None:
    """The box [left, top, right, bottom] that contains all pixels of `mask` (h, w) bool; None if there are none."""
    rows, columns = torch.nonzero(mask, as_tuple=True)
    if not len(rows):
        return None
    return [float(value) for value in (columns.min(), rows.min(), columns.max(), rows.max())]


def _shrunk(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """`mask` (H, W) bool at `size` (h, w): the cells that it covers by half, or else those that it covers most."""
    share = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(share >= min(0.5, float(share.max())), np.bool_)


def _padding(extent: tuple[int, int], side: int) -> tuple[int, int, int, int]:
    return 0, side - extent[1], 0, side - extent[0]
