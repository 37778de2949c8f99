from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from persrep_ray.config import GenerateConfig
from persrep_ray.generate.cut_paste.compositing import make_sprite, warp
from persrep_ray.generate.cut_paste.cutouts import Cutout
from persrep_ray.generate.cut_paste.placement import draw_pose, pose_matrix

CONFIG = GenerateConfig(image_size=128)
CUTOUT = Cutout("mug", np.full((80, 60, 3), 200, np.uint8), np.ones((80, 60), np.float32))


def corners(matrix: np.ndarray, cutout: Cutout = CUTOUT) -> np.ndarray:
    height, width = cutout.alpha.shape
    points = np.array([[[0, 0]], [[width, 0]], [[width, height]], [[0, height]]], np.float64)
    return cv2.perspectiveTransform(points, matrix).reshape(4, 2)


def test_area_stays_in_the_configured_range_and_the_aspect_is_kept() -> None:
    for seed in range(200):
        pose = draw_pose(np.random.default_rng(seed), CONFIG)
        assert CONFIG.object_area[0] <= pose.area <= CONFIG.object_area[1]
        straight = replace(pose, rotation=0.0, jitter=np.zeros((4, 2)))
        box = np.ptp(corners(pose_matrix(straight, CUTOUT, 128)), axis=0)
        assert box[1] / box[0] == pytest.approx(80 / 60, rel=1e-3)
        assert box[0] * box[1] / 128**2 <= pose.area + 1e-6
        if pose.area < 0.5:
            assert box[0] * box[1] / 128**2 == pytest.approx(pose.area, rel=1e-3)


def test_rotation_stays_in_its_bound() -> None:
    turns = [draw_pose(np.random.default_rng(seed), CONFIG).rotation for seed in range(300)]
    assert max(np.abs(turns)) <= CONFIG.rotation
    assert max(turns) > 15 and min(turns) < -15


def test_at_most_a_fifth_is_out_of_frame_and_mostly_nothing() -> None:
    outside = []
    for seed in range(200):
        pose = replace(draw_pose(np.random.default_rng(seed), CONFIG), rotation=0.0, jitter=np.zeros((4, 2)))
        box = corners(pose_matrix(pose, CUTOUT, 128))
        seen = np.ptp(np.clip(box, 0, 128), axis=0)
        outside.append(1 - float(np.prod(seen) / np.prod(np.ptp(box, axis=0))))
    assert max(outside) <= 0.2 + 1e-6
    assert 0.1 < np.mean(np.array(outside) > 0.005) < 0.3


@pytest.mark.parametrize("flip", [False, True])
def test_a_cut_side_lies_on_the_frame(flip: bool) -> None:
    for seed in range(50):
        pose = replace(draw_pose(np.random.default_rng(seed), CONFIG), flip=flip)
        bottom = corners(pose_matrix(pose, replace(CUTOUT, cut_bottom=True), 128))
        assert min(bottom[2, 1], bottom[3, 1]) >= 128
        left = corners(pose_matrix(pose, replace(CUTOUT, cut_left=True), 128))
        assert min(left[0, 0], left[3, 0]) >= 128 if flip else max(left[0, 0], left[3, 0]) <= 0


def test_warp_puts_the_pixels_where_the_matrix_says() -> None:
    sprite = make_sprite(CUTOUT, 128)
    pose = replace(draw_pose(np.random.default_rng(3), CONFIG), out=(0.0, 0.0))
    matrix = pose_matrix(pose, CUTOUT, 128)
    layer = warp(sprite, matrix, 128)
    outline = np.zeros((128, 128), np.uint8)
    cv2.fillPoly(outline, [np.round(corners(matrix)).astype(np.int32)], 1)
    pasted = layer.whole_alpha(128) > 0.5
    assert (pasted & (outline > 0)).sum() / (pasted | (outline > 0)).sum() > 0.9
    assert np.allclose(layer.colour[layer.alpha > 0.9], 200, atol=1)
