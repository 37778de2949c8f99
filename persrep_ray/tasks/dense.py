"""Detection and segmentation without a head: where do a photo's patches look like the object's?

This is the inference of the reference implementation (arXiv 2412.16156, `downstream/dense_tasks.py`). The backbone sees
the whole photo squashed to a square, so positions in the patch grid and in the photo differ only by a scaling. The mode
`threshold` is here, the mode `persam` in `evaluate/persam.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from persrep_ray.tasks.coco import Region, average_precision, box_region, mask_region
from persrep_ray.tasks.features import check_same_width, normalize

LONGEST_SIDE = 640
"""The longest side, in pixels, of dense predictions and truths: it is far finer than the patch grid behind them."""

SMALLEST_COMPONENT = 100
"""Components of fewer pixels are noise and not an object; the number is that of the reference implementation."""


@dataclass(frozen=True)
class DenseReference:
    """What is known about an object's patches from its train photos.

    `target` (D,) float32, of unit length, is the feature that a photo's patches are compared with. `box_means` (T, D)
    float32 holds, for each train photo, the mean unit patch feature inside the object's box.
    """

    target: np.ndarray
    box_means: np.ndarray


@dataclass(frozen=True)
class DensePrediction:
    """What was found on one photo.

    `mask` (H, W) bool is the largest component with its holes filled. `box` (4,) int32 = [xmin, ymin, width, height],
    in pixels, surrounds ALL components, as in the reference. Both are None if nothing was found. `score` is a cosine,
    and -1 if nothing was found. `similarity` (h, w) float32 holds the cosine of each patch to the target.
    """

    mask: np.ndarray | None
    box: np.ndarray | None
    score: float
    similarity: np.ndarray


def make_reference(train_patches: Sequence[np.ndarray], train_masks: Sequence[np.ndarray]) -> DenseReference:
    """The reference of one object.

    Args:
        train_patches: the patch features (h, w, D) of each train photo.
        train_masks: the mask (H, W) bool of the object on each train photo; H and W may differ between photos.

    The target is, per dimension, half the maximum plus half the mean of the FIRST photo's unit patch features under its
    mask.

    Raises:
        ValueError: there are no photos, lengths or shapes do not fit, a mask is empty, or features are not finite.
    """
    if not train_patches or len(train_patches) != len(train_masks):
        raise ValueError(
            f"a dense reference needs train photos with one mask each, got {len(train_patches)} and {len(train_masks)}"
        )
    target = np.empty(0, dtype=np.float32)
    box_means = []
    for index, (patches, mask) in enumerate(zip(train_patches, train_masks, strict=True)):
        name = f"train photo {index}"
        unit = _unit_patches(patches, name)
        check_same_width(unit, f"patches of {name}", np.asarray(train_patches[0]), "patches of train photo 0")
        box = bounding_box(mask)
        if box is None:
            raise ValueError(f"the mask of {name} is empty")
        if index == 0:
            under_mask = unit[_patches_under(mask, unit.shape[:2])]  # (P, D)
            target = normalize(under_mask.max(axis=0) / 2 + under_mask.mean(axis=0) / 2)
        box_means.append(_mean_inside(unit, box, mask.shape[:2]))
    return DenseReference(target=target, box_means=np.stack(box_means))


Find = Callable[[np.ndarray, tuple[int, int]], np.ndarray]
"""An inference mode, which turns a similarity map (h, w) and the photo's size (H, W) into a mask (H, W) bool."""


def threshold(similarity: np.ndarray, photo_size: tuple[int, int]) -> np.ndarray:
    """The inference mode `threshold`: Otsu's threshold on the upsampled map; small components go, gaps are closed."""
    height, width = photo_size
    upsampled: np.ndarray = cv2.resize(similarity, (width, height), interpolation=cv2.INTER_LINEAR)
    smallest, largest = float(upsampled.min()), float(upsampled.max())
    if largest - smallest <= 1e-6:  # the map is flat, so Otsu would only split rounding errors
        return np.zeros(photo_size, dtype=bool)
    upsampled = (upsampled - smallest) * np.float32(256 / (largest - smallest))
    # Like scikit-image, which the reference uses: 256 bins, cut at the middle of the bin that Otsu picks.
    picked, _ = cv2.threshold(np.minimum(upsampled, 255).astype(np.uint8), 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    binary = (upsampled > picked + 0.5).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=4)
    keep = (stats[:, cv2.CC_STAT_AREA] >= SMALLEST_COMPONENT).astype(np.uint8)
    keep[0] = 0  # label 0 is the background
    closed = cv2.morphologyEx(keep[labels], cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    return closed.astype(bool)


def predict(
    reference: DenseReference, patches: np.ndarray, photo_size: tuple[int, int], find: Find = threshold
) -> DensePrediction:
    """Finds the object on one photo.

    Args:
        reference: the object's, from the same backbone and adapter as `patches`.
        patches: the patch features (h, w, D) of the photo.
        photo_size: (H, W) in pixels; mask and box are in these pixels.
        find: the inference mode.

    Raises:
        ValueError: shapes do not fit, or features are not finite.
    """
    unit = _unit_patches(patches, "the photo")
    check_same_width(unit, "patches of the photo", reference.target, "the reference")
    similarity = unit @ reference.target
    components = find(similarity, photo_size)
    box = bounding_box(components)
    if box is None:
        return DensePrediction(mask=None, box=None, score=-1.0, similarity=similarity)
    inside = normalize(_mean_inside(unit, box, photo_size))
    score = float((normalize(reference.box_means) @ inside).max())
    return DensePrediction(mask=largest_component(components), box=box, score=score, similarity=similarity)


@dataclass(frozen=True)
class DenseOutcome:
    """A prediction and the truth of its photo as COCO compares them, small enough to hold thousands."""

    true_box: Region | None
    true_mask: Region | None
    box: Region | None
    mask: Region | None
    score: float


def outcome(prediction: DensePrediction, truth: np.ndarray | None) -> DenseOutcome:
    """`truth` is the mask (H, W) bool of the object on the photo, or None if the photo does not show it.

    The true box surrounds the whole mask, and the true segmentation is its largest component with holes filled, as in
    the reference implementation. Raises ValueError if the truth is empty or differs in size from the prediction.
    """
    found = prediction.mask
    if found is not None and truth is not None and found.shape != truth.shape:
        raise ValueError(f"predicted mask {found.shape}, ground truth {truth.shape}: sizes differ")
    true_box = None if truth is None else bounding_box(truth)
    if truth is not None and true_box is None:
        raise ValueError("the ground truth mask is empty")
    return DenseOutcome(
        true_box=None if truth is None or true_box is None else box_region(true_box, truth.shape),
        true_mask=None if truth is None else mask_region(largest_component(truth)),
        box=None if found is None or prediction.box is None else box_region(prediction.box, found.shape),
        mask=None if found is None else mask_region(found),
        score=prediction.score,
    )


def coco_of_outcomes(outcomes: Sequence[DenseOutcome]) -> dict[str, dict[str, float]]:
    """COCO `map`, `map50` and `f1` (see `coco.average_precision`) of the tasks `detection` and `segmentation`.

    A prediction on a photo without the object is a false positive, so the caller must leave out photos that show the
    object but have no mask. Raises ValueError if no outcome has a truth.
    """
    scores = [one.score for one in outcomes]
    return {
        "detection": average_precision(
            [one.true_box for one in outcomes], [one.box for one in outcomes], scores, "bbox"
        ),
        "segmentation": average_precision(
            [one.true_mask for one in outcomes], [one.mask for one in outcomes], scores, "segm"
        ),
    }


def coco_metrics(
    predictions: Sequence[DensePrediction], ground_truths: Sequence[np.ndarray | None]
) -> dict[str, dict[str, float]]:
    """`coco_of_outcomes` of the predictions and the ground truths of the same photos.

    Raises:
        ValueError: there is no ground truth, one is empty, or lengths or sizes differ.
    """
    if len(predictions) != len(ground_truths):
        raise ValueError(f"{len(predictions)} predictions for {len(ground_truths)} ground truths")
    outcomes = []
    for index, (prediction, truth) in enumerate(zip(predictions, ground_truths, strict=True)):
        try:
            outcomes.append(outcome(prediction, truth))
        except ValueError as error:
            raise ValueError(f"photo {index}: {error}") from error
    return coco_of_outcomes(outcomes)


def bounding_box(mask: np.ndarray) -> np.ndarray | None:
    """[xmin, ymin, width, height] int32 of the pixels set in `mask` (H, W) bool; None if no pixel is set."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(mask.any(axis=0))
    top, left = rows[0], columns[0]
    return np.array([left, top, columns[-1] - left + 1, rows[-1] - top + 1], dtype=np.int32)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The part of `mask` (H, W) bool inside its largest outer contour, with holes filled."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    filled = np.zeros(mask.shape, dtype=np.uint8)
    if contours:
        cv2.drawContours(filled, [max(contours, key=cv2.contourArea)], 0, 1, cv2.FILLED)
    return filled.astype(bool)


def _patches_under(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The patches (h, w) bool whose centres the mask (H, W) touches; if there are none, those that it covers most."""
    height, width = grid
    covered = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0
    if covered.any():
        return covered
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    most: np.ndarray = share == share.max()
    return most


def _mean_inside(unit: np.ndarray, box: np.ndarray, photo_size: tuple[int, int]) -> np.ndarray:
    """The mean (D,) of the unit patch features (h, w, D) whose centres lie inside `box`, which is in photo pixels."""
    left, top, width, height = (int(value) for value in box)
    rows = _cells_inside(top, height, unit.shape[0], photo_size[0])
    columns = _cells_inside(left, width, unit.shape[1], photo_size[1])
    mean: np.ndarray = unit[rows, columns].mean(axis=(0, 1))
    return mean


def _cells_inside(start: int, length: int, cells: int, pixels: int) -> slice:
    """The grid cells along an axis whose centres lie in `length` pixels from `start`; the nearest cell if none does."""
    centres = (np.arange(cells) + 0.5) * (pixels / cells) - 0.5  # as pixel indices
    inside = np.flatnonzero((centres >= start) & (centres <= start + length - 1))
    if not inside.size:
        inside = np.array([np.abs(centres - (start + (length - 1) / 2)).argmin()])
    return slice(int(inside[0]), int(inside[-1]) + 1)


def _unit_patches(patches: np.ndarray, name: str) -> np.ndarray:
    """Checks patch features and scales each to unit length, (h, w, D) float32; `name` says whose they are."""
    patches = np.asarray(patches, dtype=np.float32)
    if patches.ndim != 3 or 0 in patches.shape:
        raise ValueError(f"patch features of {name} must be (rows, columns, dimensions), got shape {patches.shape}")
    if not np.isfinite(patches).all():
        raise ValueError(f"patch features of {name} have a value that is not finite")
    return normalize(patches)
