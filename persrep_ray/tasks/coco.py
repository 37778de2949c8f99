"""COCO average precision of boxes or masks. A photo may show the object several times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

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


class Scored(NamedTuple):
    """A predicted region; predictions of all photos are ranked by their scores."""

    region: Region
    score: float


def box_region(box: np.ndarray, size: tuple[int, int]) -> Region:
    """`box` (4,) = [xmin, ymin, width, height] in pixels of a photo of `size` (H, W)."""
    values = [float(value) for value in box]
    return Region(values, values[2] * values[3], size)


def mask_region(mask: np.ndarray) -> Region:
    """`mask` (H, W) bool."""
    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return Region(encoded, float(np.count_nonzero(mask)), (mask.shape[0], mask.shape[1]))


def average_precision(
    truths: Sequence[Sequence[Region]], predictions: Sequence[Sequence[Scored]], kind: Literal["bbox", "segm"]
) -> dict[str, float]:
    """COCO metrics over photos; `truths[i]` and `predictions[i]` are the regions of photo i.

    A prediction that meets no truth is a false positive. At most the 100 best predictions of a photo count.

    Returns:
        `map` (mean over IoU .5:.05:.95) and `map50`, over 101 recall points and all object areas. `f1` follows the
        reference implementation: for each IoU threshold and recall point, precision and final recall are averaged over
        those of COCO's area ranges that have truths; their F1 is averaged over recall points and thresholds.

    Raises:
        ValueError: there is no truth, so the metrics are undefined, or the lengths differ.
    """
    if len(truths) != len(predictions):
        raise ValueError(f"ground truths of {len(truths)} photos, predictions of {len(predictions)}")
    if not any(truths):
        raise ValueError("average precision is undefined: no photo has a ground truth")

    images: list[dict[str, Any]] = []
    true_rows: list[dict[str, Any]] = []
    predicted_rows: list[dict[str, Any]] = []
    key = "bbox" if kind == "bbox" else "segmentation"
    for image_id, (true, found) in enumerate(zip(truths, predictions, strict=True), start=1):
        regions = [*true, *(one.region for one in found)]
        height, width = regions[0].size if regions else (1, 1)
        images.append({"id": image_id, "height": height, "width": width})
        row: dict[str, Any] = {"image_id": image_id, "category_id": _OBJECT}
        for region in true:
            # ids start at 1 because COCO's matching takes an annotation with id 0 for no match
            number = len(true_rows) + 1
            true_rows.append({**row, "id": number, "iscrowd": 0, key: region.geometry, "area": region.area})
        for region, score in found:
            if not np.isfinite(score):
                raise ValueError(f"the score of a prediction on photo {image_id - 1} is not finite")
            predicted_rows.append({**row, "score": float(score), key: region.geometry})

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
