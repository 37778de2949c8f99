"""COCO average precision of one prediction per photo, for boxes or masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as rle

_OBJECT = 1  # the id of the only category
_IOU_50 = 0  # index of the threshold .5 in COCO's .5:.05:.95
_ALL_AREAS = 0


@dataclass(frozen=True)
class Region:
    """A region of a photo of `size` (H, W): a box [xmin, ymin, width, height] or a run-length encoded mask."""

    geometry: Sequence[float] | Mapping[str, Any]
    area: float
    size: tuple[int, int]


def box_region(box: np.ndarray, size: tuple[int, int]) -> Region:
    """`box` (4,) = [xmin, ymin, width, height] in pixels of a photo of `size` (H, W)."""
    values = [float(value) for value in box]
    return Region(values, values[2] * values[3], size)


def mask_region(mask: np.ndarray) -> Region:
    """`mask` (H, W) bool."""
    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return Region(encoded, float(np.count_nonzero(mask)), (mask.shape[0], mask.shape[1]))


def average_precision(
    truths: Sequence[Region | None],
    predictions: Sequence[Region | None],
    scores: Sequence[float],
    kind: Literal["bbox", "segm"],
) -> dict[str, float]:
    """COCO metrics over photos with at most one true and one predicted region each.

    `truths[i]`, `predictions[i]` and `scores[i]` belong to photo i. A prediction on a photo without a truth is a false
    positive, ranked by its score.

    Returns:
        `map` (mean over IoU .5:.05:.95) and `map50`, over 101 recall points and all object areas. `f1` follows the
        reference implementation: for each IoU threshold and recall point, precision and final recall are averaged over
        those of COCO's area ranges that have truths; their F1 is averaged over recall points and thresholds.

    Raises:
        ValueError: there is no truth, so the metrics are undefined, or the lengths differ.
    """
    if not len(truths) == len(predictions) == len(scores):
        raise ValueError(
            f"{len(truths)} ground truths, {len(predictions)} predictions, {len(scores)} scores: one of each per photo"
        )
    if all(truth is None for truth in truths):
        raise ValueError("average precision is undefined: no photo has a ground truth")

    images, true_rows, predicted_rows = [], [], []
    key = "bbox" if kind == "bbox" else "segmentation"
    for image_id, (truth, prediction, score) in enumerate(zip(truths, predictions, scores, strict=True), start=1):
        region = truth or prediction
        height, width = region.size if region else (1, 1)
        images.append({"id": image_id, "height": height, "width": width})
        if truth is not None:
            # ids start at 1 because COCO's matching takes an annotation with id 0 for no match
            row: dict[str, Any] = {"id": image_id, "image_id": image_id, "category_id": _OBJECT, "iscrowd": 0}
            true_rows.append({**row, key: truth.geometry, "area": truth.area})
        if prediction is not None:
            if not np.isfinite(score):
                raise ValueError(f"the score of the prediction on photo {image_id - 1} is not finite")
            row = {"image_id": image_id, "category_id": _OBJECT, "score": float(score)}
            predicted_rows.append({**row, key: prediction.geometry})

    truth_set = COCO(
        {"images": images, "annotations": true_rows, "categories": [{"id": _OBJECT, "name": "object"}]},
        print_function=_silent,
    )
    evaluation = COCOeval_faster(
        truth_set, truth_set.loadRes(predicted_rows), iouType=kind, print_function=_silent, rle_iou_max_workers=1
    )
    evaluation.evaluate()
    evaluation.accumulate()
    # (T thresholds, R recall points, A areas) and (T, A), for the only category and COCO's largest detection count
    precision = evaluation.eval["precision"][:, :, 0, :, -1]
    recall = evaluation.eval["recall"][:, 0, :, -1]
    return {
        "map": float(precision[:, :, _ALL_AREAS].mean()),
        "map50": float(precision[_IOU_50, :, _ALL_AREAS].mean()),
        "f1": _f1(precision, recall),
    }


def _f1(precision: np.ndarray, recall: np.ndarray) -> float:
    """The F1 of `precision` (T, R, A) and `recall` (T, A); an area range without truths holds -1 throughout."""
    with_truths = recall[0] >= 0  # (A,)
    mean_precision = precision[:, :, with_truths].mean(axis=2)  # (T, R)
    mean_recall = np.broadcast_to(recall[:, with_truths].mean(axis=1, keepdims=True), mean_precision.shape)
    total = mean_precision + mean_recall
    f1 = np.divide(2 * mean_precision * mean_recall, total, out=np.zeros_like(total), where=total > 0)
    return float(f1.mean())


def _silent(*_: object) -> None:
    """COCO reports its progress to a function; we do not want it."""
