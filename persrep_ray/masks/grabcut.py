"""From a coarse saliency map to a clean foreground mask: GrabCut (Rother et al., SIGGRAPH 2004) seeded by the map."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from persrep_ray.config import MaskConfig

_OBJECT = 0.5
_SURE_OBJECT = 0.58
_LEAST_CONTRAST = 0.15  # between the peak of the map and its floor
_BAND = 0.02  # of the longer side
_SURROUNDINGS = 0.3  # of the object's extent
_SMALLEST_SHARE = 0.001  # of the image
_SMALL_HOLE = 0.01  # of the object


class MaskError(ValueError):
    """An image shows no usable foreground."""


def mask_from_saliency(
    image: NDArray[np.uint8], saliency: NDArray[np.float32], config: MaskConfig
) -> NDArray[np.bool_]:
    """The foreground of `image` (H, W, 3) uint8 as (H, W) bool, given `saliency` (h, w) float32 in 0..1.

    GrabCut runs at `config.working_size`. The main component of its result is kept and its holes are filled, except
    large holes in which the map sees background (the handle of a mug). If GrabCut finds nothing, or something that the
    map contradicts, the thresholded map is the mask. Deterministic. Raises `MaskError` if that is empty, too.
    """
    if image.ndim != 3 or saliency.ndim != 2 or not np.isfinite(saliency).all():
        raise MaskError(f"mask: image {image.shape} and saliency {saliency.shape} must be (H, W, 3) and finite (h, w)")
    height, width = image.shape[:2]
    scale = min(1.0, config.working_size / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    salient = np.clip(cv2.resize(saliency, size, interpolation=cv2.INTER_LINEAR), 0, 1).astype(np.float32)
    floor, peak = (float(value) for value in np.percentile(salient, (5, 99.9)))
    # A map that is weak everywhere still shows the object by its contrast.
    threshold = _OBJECT if peak > 1.2 * _OBJECT else (floor + peak) / 2
    coarse = _clean(salient > threshold, salient, threshold)
    if peak - floor < _LEAST_CONTRAST or coarse.mean() < _SMALLEST_SHARE:
        raise MaskError(f"mask: no foreground found (saliency is {floor:.2f} to {peak:.2f})")
    sure = salient > threshold * _SURE_OBJECT / _OBJECT
    mask = _clean(_grab_cut(small, coarse, sure, config.grabcut_iterations), salient, threshold)
    if _overlap(mask, coarse) < 0.5:
        mask = coarse
    smooth = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(smooth > 0.5, np.bool_)


def _grab_cut(
    image: NDArray[np.uint8], coarse: NDArray[np.bool_], sure: NDArray[np.bool_], iterations: int
) -> NDArray[np.bool_]:
    """The refined mask (h, w) bool. GrabCut decides in a band along the border of the coarse mask.

    Pixels far outside are background, and pixels that are `sure` and well inside are object, because colour alone would
    split the white chest of a dog from its back.
    """
    reach = max(2, round(_BAND * max(image.shape[:2])))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    near = cv2.dilate(coarse.astype(np.uint8), kernel) > 0
    core = cv2.erode(coarse.astype(np.uint8), kernel, borderValue=1) > 0
    seeds: NDArray[np.uint8] = np.full(coarse.shape, cv2.GC_BGD, np.uint8)
    seeds[near] = cv2.GC_PR_BGD
    seeds[coarse] = cv2.GC_PR_FGD
    seeds[core & sure] = cv2.GC_FGD
    # Only the surroundings count as background: that is cheaper, and their colours are those that matter.
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    margin = round(_SURROUNDINGS * max(len(rows), len(columns)))
    window = tuple(slice(max(0, int(i[0]) - margin), int(i[-1]) + 1 + margin) for i in (rows, columns))
    if near[window].all():
        return coarse
    seen = np.ascontiguousarray(seeds[window])
    # The k-means of GrabCut starts from the global generator of OpenCV.
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    try:
        cv2.grabCut(
            np.ascontiguousarray(image[window]),
            seen,
            (0, 0, 0, 0),
            *models,
            iterCount=iterations,
            mode=cv2.GC_INIT_WITH_MASK,
        )
    except cv2.error:
        # The colours are degenerate (a single one, say), so that no mixture can be fitted.
        return coarse
    result: NDArray[np.bool_] = np.zeros(coarse.shape, np.bool_)
    result[window] = np.isin(seen, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return result


def _clean(mask: NDArray[np.bool_], salient: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """The main component, opened a little, with its holes filled unless they are large and not salient.

    The main component has the largest sum of saliency, weighted towards the middle, because the subject of a photo is
    seldom in a corner.
    """
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    if count < 2:
        return np.zeros(mask.shape, np.bool_)
    height, width = mask.shape
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    weight = np.exp(-(x**2 + y**2)) * salient
    main = 1 + int(np.argmax(np.bincount(labels.ravel(), weight.ravel())[1:]))
    result: NDArray[np.bool_] = np.asarray(labels == main, np.bool_)
    area = int(stats[main, cv2.CC_STAT_AREA])
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~result).astype(np.uint8), connectivity=8)
    for hole in range(1, count):
        left, top, wide, tall, pixels = (int(value) for value in stats[hole])
        if left == 0 or top == 0 or left + wide == width or top + tall == height:
            continue
        inside = labels == hole
        if pixels < _SMALL_HOLE * area or salient[inside].mean() > threshold:
            result |= inside
    return result


def _overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Intersection over union."""
    union = np.count_nonzero(first | second)
    return float(np.count_nonzero(first & second) / union) if union else 0.0
