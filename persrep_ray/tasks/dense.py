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

from persrep_ray.tasks.coco import Region, Scored, average_precision, box_region, mask_region
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
class Instance:
    """The object at one place of a photo.

    `box` (4,) int32 = [xmin, ymin, width, height] in pixels, and `mask` (height, width) bool is the part of the box
    that is the object. Instances are ranked by `score`. `probability` says how sure it is that this is the object; it
    is None in the modes `threshold` and `persam`, which do not know.
    """

    box: np.ndarray
    mask: np.ndarray
    score: float
    probability: float | None = None

    def mask_in(self, size: tuple[int, int]) -> np.ndarray:
        """The mask (H, W) bool on the whole photo of `size` (H, W)."""
        left, top, width, height = (int(value) for value in self.box)
        whole = np.zeros(size, dtype=bool)
        whole[top : top + height, left : left + width] = self.mask
        return whole


@dataclass(frozen=True)
class DensePrediction:
    """What was found on one photo.

    `instances` are the places that may show the object, best first, in pixels of a photo of `size` (H, W). `similarity`
    (h, w) float32 says how much each patch looks like the object, -1..1.
    """

    instances: tuple[Instance, ...]
    similarity: np.ndarray
    size: tuple[int, int]

    def mask(self, least: float = 0.5) -> np.ndarray | None:
        """The union (H, W) bool of the instances; None if there is none. Instances less probable than `least` go."""
        likely = [one for one in self.instances if one.probability is None or one.probability >= least]
        masks = [one.mask_in(self.size) for one in likely]
        return np.logical_or.reduce(masks) if masks else None


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
        unit = unit_patches(patches, name)
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
    """Finds the object on one photo, at most once.

    As in the reference, the box surrounds ALL components, and the mask is the largest component with its holes filled.
    The score is the largest cosine between the mean patch in the box and those in the boxes of the train photos.

    Args:
        reference: the object's, from the same backbone and adapter as `patches`.
        patches: the patch features (h, w, D) of the photo.
        photo_size: (H, W) in pixels; mask and box are in these pixels.
        find: the inference mode.

    Raises:
        ValueError: shapes do not fit, or features are not finite.
    """
    unit = unit_patches(patches, "the photo")
    check_same_width(unit, "patches of the photo", reference.target, "the reference")
    similarity = unit @ reference.target
    components = find(similarity, photo_size)
    box = bounding_box(components)
    if box is None:
        return DensePrediction((), similarity, photo_size)
    inside = normalize(_mean_inside(unit, box, photo_size))
    score = float((normalize(reference.box_means) @ inside).max())
    return DensePrediction((Instance(box, crop(largest_component(components), box), score),), similarity, photo_size)


@dataclass(frozen=True)
class DenseOutcome:
    """Predictions and truths of a photo as COCO compares them, small enough to hold thousands."""

    true_boxes: tuple[Region, ...]
    true_masks: tuple[Region, ...]
    boxes: tuple[Scored, ...]
    masks: tuple[Scored, ...]


def outcome(prediction: DensePrediction, truths: Sequence[np.ndarray]) -> DenseOutcome:
    """`truths` are the masks (H, W) bool of the object on the photo, one for each time that the photo shows it.

    A true box surrounds the whole mask, and the true segmentation is its largest component with holes filled, as in
    the reference implementation. Raises ValueError if a truth is empty or differs in size from the prediction.
    """
    true_boxes = []
    for truth in truths:
        if prediction.size != truth.shape:
            raise ValueError(f"prediction of size {prediction.size}, ground truth {truth.shape}: sizes differ")
        box = bounding_box(truth)
        if box is None:
            raise ValueError("the ground truth mask is empty")
        true_boxes.append(box_region(box, prediction.size))
    found = prediction.instances
    return DenseOutcome(
        true_boxes=tuple(true_boxes),
        true_masks=tuple(mask_region(largest_component(truth)) for truth in truths),
        boxes=tuple(Scored(box_region(one.box, prediction.size), one.score) for one in found),
        masks=tuple(Scored(mask_region(one.mask_in(prediction.size)), one.score) for one in found),
    )


def coco_of_outcomes(outcomes: Sequence[DenseOutcome]) -> dict[str, dict[str, float]]:
    """COCO `map`, `map50` and `f1` (see `coco.average_precision`) of the tasks `detection` and `segmentation`.

    A prediction on a photo without the object is a false positive, so the caller must leave out photos that show the
    object but have no mask. Raises ValueError if no outcome has a truth.
    """
    return {
        "detection": average_precision([one.true_boxes for one in outcomes], [one.boxes for one in outcomes], "bbox"),
        "segmentation": average_precision(
            [one.true_masks for one in outcomes], [one.masks for one in outcomes], "segm"
        ),
    }


def coco_metrics(
    predictions: Sequence[DensePrediction], ground_truths: Sequence[Sequence[np.ndarray]]
) -> dict[str, dict[str, float]]:
    """`coco_of_outcomes` of the predictions and the ground truths of the same photos.

    Raises:
        ValueError: there is no ground truth, one is empty, or lengths or sizes differ.
    """
    if len(predictions) != len(ground_truths):
        raise ValueError(f"{len(predictions)} predictions for {len(ground_truths)} ground truths")
    outcomes = []
    for index, (prediction, truths) in enumerate(zip(predictions, ground_truths, strict=True)):
        try:
            outcomes.append(outcome(prediction, truths))
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


def crop(mask: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The part of `mask` (H, W) inside `box` [xmin, ymin, width, height], a copy."""
    left, top, width, height = (int(value) for value in box)
    return mask[top : top + height, left : left + width].copy()


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


def unit_patches(patches: np.ndarray, name: str) -> np.ndarray:
    """Checks patch features and scales each to unit length, (h, w, D) float32; `name` says whose they are."""
    patches = np.asarray(patches, dtype=np.float32)
    if patches.ndim != 3 or 0 in patches.shape:
        raise ValueError(f"patch features of {name} must be (rows, columns, dimensions), got shape {patches.shape}")
    if not np.isfinite(patches).all():
        raise ValueError(f"patch features of {name} have a value that is not finite")
    return normalize(patches)
