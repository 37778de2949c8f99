"""Which matches of points show the same flat thing, seen from somewhere else? No chance is involved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEAST_INLIERS = 7

_COMPLEX = np.array([1, 1j])  # turns points (N, 2) into complex numbers (N,)
_MOST_INSTANCES = 20
_CENTRE, _LOG_SCALE, _ANGLE = 0.15, 0.4, 0.4  # votes that agree: share of the thing's size, logarithm, radians
_AFFINE, _PERSPECTIVE = 1e6, 1e-2  # ridges on the perspective terms, which few inliers hardly determine
_STEPS = (
    (_AFFINE, 0.15),
    (_AFFINE, 0.08),
    (_AFFINE, 0.05),
    (_PERSPECTIVE, 0.03),
    (_PERSPECTIVE, 0.02),
    (_PERSPECTIVE, 0.02),
)
"""Ridges of a fit, and the error that it allows an inlier, as a share of the thing's size."""


@dataclass(frozen=True)
class Instance:
    """The `homography` (3, 3) from the photo of a thing to an image that shows it, and the rows (K,) of the matches
    that fit it, of which no two share a point."""

    homography: np.ndarray
    rows: np.ndarray


def instances(
    source: np.ndarray, target: np.ndarray, zoom: np.ndarray, turn: np.ndarray, outline: np.ndarray
) -> list[Instance]:
    """All instances of the thing inside `outline` (V, 2), the clearest first.

    Match i says that the point `source[i]` of the thing's photo is seen at `target[i]` in the image, `zoom[i]` times as
    large and turned by `turn[i]` radians. So it predicts where the thing's centre is, how large it is and how it is
    turned. Matches that agree with as many others as possible (Lowe's Hough transform, 2004) begin an instance; the
    matches that fit its map decide the next map, an affine one first and a homography at last.
    """
    if len(source) < LEAST_INLIERS:
        return []
    thing = _Thing.inside(outline)
    # as complex numbers: a match turns and zooms the way from its point to the centre
    way = (thing.centre - source) @ _COMPLEX
    centre = target @ _COMPLEX + zoom * np.exp(1j * turn) * way
    size, log_zoom = zoom * thing.size, np.log(zoom)
    agree = np.abs(centre[:, None] - centre) < _CENTRE * size[:, None]
    agree &= np.abs(log_zoom[:, None] - log_zoom) < _LOG_SCALE
    agree &= np.cos(turn[:, None] - turn) > np.cos(_ANGLE)
    agreement = agree.astype(np.float32)

    found: list[Instance] = []
    free = np.ones(len(source), dtype=bool)
    while len(found) < _MOST_INSTANCES:
        votes = np.where(free, agreement @ free.astype(np.float32), 0)
        if votes.max() < LEAST_INLIERS - 2:  # the fit may find a few more
            break
        members = agree[votes.argmax()] & free
        fitted = _fit(thing, source, target, log_zoom, members, free)
        free &= ~members
        if fitted is None:
            continue
        homography, inliers = fitted
        rows = np.flatnonzero(inliers)
        for points in (source, target):  # SIFT gives a point with several directions several keypoints
            rows = rows[np.unique(points[rows].round(), axis=0, return_index=True)[1]]
        if len(rows) >= LEAST_INLIERS and _plausible(homography, thing.corners):
            middle, _ = project(homography, thing.centre[None])
            free &= ~inliers & (np.abs(centre - middle @ _COMPLEX) > 2 * _CENTRE * size)
            found.append(Instance(homography, np.sort(rows)))
    return found


def project(homography: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points (N, 2) in the image, and their depths (N,). Only a point whose depth is positive can be seen."""
    mapped = np.column_stack([points, np.ones(len(points))]) @ homography.T
    depth = mapped[:, 2]
    return mapped[:, :2] / np.where(np.abs(depth) < 1e-9, 1e-9, depth)[:, None], depth


@dataclass(frozen=True)
class _Thing:
    """The box of a thing on its photo: its `corners` (4, 2) and its `size`, the side of a square of the same area."""

    corners: np.ndarray
    size: float

    @classmethod
    def inside(cls, outline: np.ndarray) -> _Thing:
        (left, top), (right, bottom) = outline.min(axis=0), outline.max(axis=0)
        corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        return cls(corners, float(np.sqrt((right - left) * (bottom - top))))

    @property
    def centre(self) -> np.ndarray:
        middle: np.ndarray = self.corners.mean(axis=0)
        return middle


def _fit(
    thing: _Thing, source: np.ndarray, target: np.ndarray, log_zoom: np.ndarray, members: np.ndarray, free: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """The homography that begins with the `members`, and its inliers (N,) bool among the `free` matches."""
    inliers = members
    for ridge, tolerance in _STEPS:
        if np.count_nonzero(inliers) < 4:
            return None
        homography = _homography(source[inliers], target[inliers], ridge)
        projected, depth = project(homography, source)
        step = thing.size / 10
        near, _ = project(homography, thing.centre + np.array([[0, 0], [step, 0], [0, step]]))
        size = 10 * np.sqrt(np.abs(np.linalg.det(near[1:] - near[0])))  # of the thing in the image
        if not 0 < size < np.inf:
            return None
        inliers = free & (depth > 0) & (np.linalg.norm(projected - target, axis=1) < tolerance * size)
        inliers &= np.abs(log_zoom - np.log(size / thing.size)) < 2 * _LOG_SCALE
    return homography, inliers


def _homography(source: np.ndarray, target: np.ndarray, ridge: float) -> np.ndarray:
    """The homography (3, 3) from `source` to `target` (N, 2) by the least squares of its linear equations (Hartley's
    normalised DLT); `ridge` weighs the squares of the perspective terms."""
    to_source, to_target = _normalisation(source), _normalisation(target)
    (x, y), (u, v) = project(to_source, source)[0].T, project(to_target, target)[0].T
    one, zero = np.ones_like(x), np.zeros_like(x)
    rows_of_u = np.stack([x, y, one, zero, zero, zero, -u * x, -u * y], axis=1)
    rows_of_v = np.stack([zero, zero, zero, x, y, one, -v * x, -v * y], axis=1)
    equations = np.concatenate([rows_of_u, rows_of_v])  # (2N, 8)
    normal = equations.T @ equations + len(x) * np.diag([1e-6] * 6 + [ridge] * 2)
    terms = np.linalg.solve(normal, equations.T @ np.concatenate([u, v]))
    homography: np.ndarray = np.linalg.inv(to_target) @ np.append(terms, 1).reshape(3, 3) @ to_source
    return homography


def _normalisation(points: np.ndarray) -> np.ndarray:
    """The map (3, 3) that moves the mean of `points` to 0 and scales their mean distance along an axis to 1."""
    mean = points.mean(axis=0, dtype=np.float64)
    scale = 1 / max(float(np.abs(points - mean).mean()), 1e-6)
    return np.array([[scale, 0, -scale * mean[0]], [0, scale, -scale * mean[1]], [0, 0, 1]])


def _plausible(homography: np.ndarray, corners: np.ndarray) -> bool:
    """Whether a flat thing can look like that: its box stays convex, is not mirrored and not torn out of shape."""
    seen, depth = project(homography, corners)
    if depth.min() <= 0 or depth.max() > 3 * depth.min():
        return False
    sides = np.roll(seen, -1, axis=0) - seen
    after = np.roll(sides, -1, axis=0)
    if (sides[:, 0] * after[:, 1] - sides[:, 1] * after[:, 0]).min() <= 0:
        return False
    stretch = np.linalg.norm(sides, axis=1) / np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
    return bool(stretch.max() < 5 * stretch.min())
