"""A closed-form discriminant of patches: how much does a patch look like the object rather than like anything else?

It is Fisher's linear discriminant (1936) on unit patch features, fitted on images whose masks are known exactly. The
covariance is shrunk towards a multiple of the identity (Ledoit and Wolf, 2004, with a fixed weight).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from persrep_ray.tasks.dense import unit_patches
from persrep_ray.tasks.features import check_same_width

SHRINKAGE = 0.05
_COVERED = 0.5  # share of a patch that the object must cover to count as the object
_UNCOVERED = 0.1  # share up to which the patch counts as anything else; patches in between are left out
_CUTS = np.linspace(0.05, 0.95, 37)


class DiscriminantError(ValueError):
    """There is nothing to tell apart: no patch on the object, or none off it."""


@dataclass(frozen=True)
class Discriminant:
    """A patch's score is (x - origin) @ direction for its unit feature x.

    `direction` and `origin` (D,) float32 are scaled so that the mean score is 0 off the object and 1 on it. A score of
    at least `cut` says that a patch shows the object.
    """

    direction: np.ndarray
    origin: np.ndarray
    cut: float

    def centred(self, patches: np.ndarray) -> np.ndarray:
        """The unit features of `patches` (h, w, D), less the origin. Raises ValueError if they are not finite."""
        unit = unit_patches(patches, "the image")
        check_same_width(unit, "patches of the image", self.origin, "the discriminant")
        return unit - self.origin

    def map(self, patches: np.ndarray) -> np.ndarray:
        """The scores (h, w) float32 of patch features (h, w, D). Raises ValueError if these are not finite."""
        scores: np.ndarray = self.centred(patches) @ self.direction
        return scores


def fit_discriminant(patches: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> Discriminant:
    """The discriminant of an object.

    Args:
        patches: the patch features (h, w, D) of images with the object and without it.
        masks: the mask (H, W) bool of the object on each image, empty where the image does not show it.

    Each side has its mean, and both covariances weigh the same, because there are far more patches off the object. The
    cut is the one with the best mean IoU of patches over the images that show the object.

    Raises:
        DiscriminantError: no image has a patch on the object, or none has a patch off it.
        ValueError: shapes do not fit, or features are not finite.
    """
    if len(patches) != len(masks):
        raise ValueError(f"{len(patches)} images with {len(masks)} masks")
    if not patches:
        raise DiscriminantError("a discriminant needs images")
    units = [unit_patches(one, f"image {index}") for index, one in enumerate(patches)]
    shares = [_share(mask, unit.shape[:2]) for unit, mask in zip(units, masks, strict=True)]
    pairs = list(zip(units, shares, strict=True))
    on_mean, on_covariance = _moments([unit[share >= _COVERED] for unit, share in pairs])
    off_mean, off_covariance = _moments([unit[share <= _UNCOVERED] for unit, share in pairs])
    covariance = (on_covariance + off_covariance) / 2
    ridge = SHRINKAGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    direction = np.linalg.solve(covariance + ridge, on_mean - off_mean)
    direction /= (on_mean - off_mean) @ direction
    found = Discriminant(direction.astype(np.float32), off_mean.astype(np.float32), 0.5)
    shown = [(found.map(unit), share >= _COVERED) for unit, share in pairs]
    overlaps = [[_overlap(scores >= cut, truth) for scores, truth in shown if truth.any()] for cut in _CUTS]
    return Discriminant(found.direction, found.origin, float(_CUTS[np.mean(overlaps, axis=1).argmax()]))


def _share(mask: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """How much of each patch (h, w) the mask (H, W) covers, 0..1."""
    share: np.ndarray = cv2.resize(mask.astype(np.float32), (grid[1], grid[0]), interpolation=cv2.INTER_AREA)
    return share


def _moments(groups: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D), float64, of the rows of all groups (n, D)."""
    rows = np.concatenate(groups).astype(np.float64)
    if not len(rows):
        raise DiscriminantError("a discriminant needs patches on the object and patches off it")
    mean: np.ndarray = rows.mean(axis=0)
    covariance: np.ndarray = rows.T @ rows / len(rows) - np.outer(mean, mean)
    return mean, covariance


def _overlap(found: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union."""
    return float((found & truth).sum() / (found | truth).sum())
