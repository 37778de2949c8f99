"""From a map of scores to regions of an image: components, parts of components that merge neighbours, true edges."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

_STEP = 0.1  # between the levels at which a component may fall into parts
_HIGHEST = 4.0  # above the cut; real scores are near 0 and 1, and hostile ones must not make this endless
_LEAST_PART = 0.15  # of the component's area
_BAND = 0.03  # of the longer side of a region's box: how far its true edge may lie from the coarse one
_ITERATIONS = 2


def regions(scores: np.ndarray, cut: float, least: int) -> Iterator[np.ndarray]:
    """Yields masks (H, W) bool: components of `scores` (H, W) at `cut`, and the parts that these fall into above it.

    Look-alikes that touch are one component at the cut, and two at a higher level. The parts of a component share its
    pixels among them: each pixel belongs to the part that reaches it first as the level falls. Regions of fewer than
    `least` pixels are left out.
    """
    for mask in _components(scores >= cut, least):
        yield mask
        yield from _parts(scores, mask, cut, least)


def _parts(scores: np.ndarray, whole: np.ndarray, cut: float, least: int) -> Iterator[np.ndarray]:
    top = float(scores[whole].max())
    for level in np.arange(cut + _STEP, min(top, cut + _HIGHEST), _STEP):
        seeds = _components(whole & (scores >= level), max(least, round(_LEAST_PART * np.count_nonzero(whole))))
        if len(seeds) > 1:
            for part in _share_out(scores, whole, seeds):
                yield part
                yield from _parts(scores, part, float(level), least)
            return


def _share_out(scores: np.ndarray, whole: np.ndarray, seeds: list[np.ndarray]) -> list[np.ndarray]:
    """The pixels of `whole` divided among the seeds by a watershed of the scores."""
    markers = np.zeros(scores.shape, np.int32)
    for number, seed in enumerate(seeds, start=1):
        markers[seed] = number
    markers[~whole] = len(seeds) + 1
    low, high = float(scores[whole].min()), float(scores[whole].max())
    height = (255 * (high - np.clip(scores, low, high)) / max(high - low, 1e-6)).astype(np.uint8)
    labels = cv2.watershed(np.repeat(height[:, :, None], 3, axis=2), markers)
    return [labels == number for number in range(1, len(seeds) + 1)]


def _components(mask: np.ndarray, least: int) -> list[np.ndarray]:
    """The connected parts of `mask` (H, W) bool with at least `least` pixels, largest first."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    areas = stats[1:, cv2.CC_STAT_AREA]
    return [labels == 1 + index for index in np.argsort(-areas, kind="stable") if areas[index] >= least]


def true_edges(image: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """`coarse` (H, W) bool with its border moved to the edges of `image` (H, W, 3) uint8.

    GrabCut (Rother et al., SIGGRAPH 2004) finds the edges. Only a band along the
    border is decided anew. Where colours are degenerate, the coarse mask is returned.
    """
    rows, columns = np.flatnonzero(coarse.any(axis=1)), np.flatnonzero(coarse.any(axis=0))
    extent = max(len(rows), len(columns))
    reach = max(2, round(_BAND * extent))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    margin = 4 * reach
    window = tuple(slice(max(0, int(i[0]) - margin), int(i[-1]) + 1 + margin) for i in (rows, columns))
    inside = np.ascontiguousarray(coarse[window].astype(np.uint8))
    seeds = np.full(inside.shape, cv2.GC_BGD, np.uint8)
    seeds[cv2.dilate(inside, kernel) > 0] = cv2.GC_PR_BGD
    seeds[inside > 0] = cv2.GC_PR_FGD
    seeds[cv2.erode(inside, kernel, borderValue=1) > 0] = cv2.GC_FGD
    if not (seeds == cv2.GC_BGD).any() or not (seeds == cv2.GC_FGD).any():
        return coarse
    cv2.setRNGSeed(0)  # the k-means of GrabCut starts from the global generator of OpenCV
    models = np.zeros((1, 65)), np.zeros((1, 65))
    pixels = np.ascontiguousarray(image[window])
    try:
        cv2.grabCut(pixels, seeds, (0, 0, 0, 0), *models, iterCount=_ITERATIONS, mode=cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # the colours are degenerate, so that no mixture can be fitted
        return coarse
    found = np.zeros_like(coarse)
    found[window] = np.isin(seeds, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return found
