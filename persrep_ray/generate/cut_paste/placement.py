"""Where and how an object is placed in an image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from persrep_ray.config import GenerateConfig
from persrep_ray.generate.cut_paste.cutouts import Cutout

_OUT_OF_FRAME = 0.2
_FARTHEST_OUT = 0.2
_CORNER_JITTER = 0.06
_ROTATION_WHEN_CUT = 6.0


@dataclass(frozen=True)
class Pose:
    """Random draws that place any cutout, so that two objects can be put into a scene in the same way.

    Attributes:
        area: share of the image that the box of the object covers.
        rotation: degrees.
        jitter: (4, 2), moves the corners of the box by shares of its sides (perspective and shear).
        where: (2,) in 0..1, the place between leftmost and rightmost, and between top and bottom.
        out: (2,), how far the box sticks out of the frame, in shares of the box, with a sign.
    """

    area: float
    rotation: float
    flip: bool
    jitter: NDArray[np.float64]
    where: tuple[float, float]
    out: tuple[float, float]


def draw_pose(rng: np.random.Generator, config: GenerateConfig) -> Pose:
    """Draws a pose: the side of the box is uniform, rotations are mostly small, places are mostly below the middle."""
    low, high = np.sqrt(config.object_area)
    area = float(rng.uniform(low, high) ** 2)
    rotation = float(rng.triangular(-1, 0, 1) * config.rotation)
    flip = bool(rng.random() < 0.5)
    jitter = rng.uniform(-_CORNER_JITTER, _CORNER_JITTER, (4, 2))
    where = float(rng.beta(1.4, 1.4)), float(rng.beta(1.8, 1.4))
    sticks_out, axis, sign, amount = rng.random(), int(rng.integers(2)), rng.choice([-1.0, 1.0]), rng.random()
    out = [0.0, 0.0]
    if sticks_out < _OUT_OF_FRAME:
        out[axis] = float(sign * amount * _FARTHEST_OUT)
    return Pose(area, rotation, flip, jitter, where, (out[0], out[1]))


def pose_matrix(
    pose: Pose, cutout: Cutout, size: int, centre: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """The (3, 3) homography from cutout pixels to pixels of a (size, size) image.

    `centre` (x, y) in pixels overrides the place of the pose. Without it, a side that the frame of the photo cut off is
    put just beyond the frame of the image, with little rotation, because a straight cut inside the image would give the
    paste away.
    """
    height, width = cutout.alpha.shape
    left, right = (cutout.cut_right, cutout.cut_left) if pose.flip else (cutout.cut_left, cutout.cut_right)
    top, bottom = cutout.cut_top, cutout.cut_bottom
    is_cut = left or right or top or bottom
    scale = min(np.sqrt(pose.area * size * size / (width * height)), 0.97 * size / max(width, height))
    half = np.array([width, height]) * scale / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)
    strength = 0.3 if is_cut else 1.0
    target = (corners + 2 * strength * pose.jitter) * half
    rotation = float(np.clip(pose.rotation, -_ROTATION_WHEN_CUT, _ROTATION_WHEN_CUT)) if is_cut else pose.rotation
    angle = np.radians(rotation)
    target = target @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    if centre is None:
        centre = _centre(pose, target, size, (left, top, right, bottom))
    if pose.flip:
        target = target[[1, 0, 3, 2]]
    source = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(source, (target + centre).astype(np.float32))
    return np.asarray(matrix, np.float64)


def _centre(
    pose: Pose, target: NDArray[np.float64], size: int, cut: tuple[bool, bool, bool, bool]
) -> NDArray[np.float64]:
    """The centre (x, y) in px of a box with corners `target` (4, 2) relative to it; `cut`: left, top, right, bottom."""
    low, high = target.min(axis=0), target.max(axis=0)
    centre = np.empty(2)
    for axis in range(2):
        room = size - (high[axis] - low[axis])
        # A box that is larger than the frame (turned by 45 degrees, say) sticks out on both sides evenly.
        start = room * pose.where[axis] if room > 0 else room / 2
        if pose.out[axis] < 0:
            start = pose.out[axis] * (high[axis] - low[axis])
        elif pose.out[axis] > 0:
            start = room + pose.out[axis] * (high[axis] - low[axis])
        centre[axis] = start - low[axis]
    left, top, right, bottom = cut
    # On a cut side, the inner one of the two corners touches the frame.
    if left:
        centre[0] = -max(target[0, 0], target[3, 0]) - 1
    elif right:
        centre[0] = size - min(target[1, 0], target[2, 0]) + 1
    if bottom:
        centre[1] = size - min(target[2, 1], target[3, 1]) + 1
    elif top:
        centre[1] = -max(target[0, 1], target[1, 1]) - 1
    return centre


def beside(rng: np.random.Generator, pose: Pose, target: tuple[slice, slice], size: int) -> Pose:
    """The pose, smaller than the target at `target` (rows, columns) and moved beside it, mostly where there is room."""
    rows, columns = target
    share = (rows.stop - rows.start) * (columns.stop - columns.start) / size**2
    area = float(np.clip(share * rng.uniform(0.3, 0.85), 0.02, 0.35))
    middle = (columns.start + columns.stop) / (2 * size)
    away = float(rng.beta(1.0, 3.0))
    x = away if middle > rng.uniform(0.3, 0.7) else 1 - away
    # Things that stand side by side have their feet at about the same height.
    y = float(np.clip(rows.stop / size + rng.normal(0, 0.15), 0, 1))
    return replace(pose, area=area, where=(x, y))
