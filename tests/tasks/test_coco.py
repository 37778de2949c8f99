"""COCO scores against values computed by hand. Boxes are [xmin, ymin, width, height] on photos of 200 x 200."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pytest

from persrep_ray.tasks.coco import Region, Scored, average_precision, box_region, mask_region

SIZE = (200, 200)
OBJECT = (20, 30, 50, 50)  # 2,500 px: COCO's "medium"


def box(xmin: int, ymin: int, width: int, height: int) -> Region:
    return box_region(np.array([xmin, ymin, width, height]), SIZE)


def as_mask(region: Region) -> Region:
    xmin, ymin, width, height = (int(value) for value in region.geometry)
    mask = np.zeros(SIZE, dtype=bool)
    mask[ymin : ymin + height, xmin : xmin + width] = True
    return mask_region(mask)


def both_kinds(
    truths: Sequence[Sequence[Region]], predictions: Sequence[Sequence[tuple[Region, float]]]
) -> list[dict[str, float]]:
    """The metrics for boxes and for the same rectangles as masks."""
    boxes = [[Scored(*one) for one in found] for found in predictions]
    masks = [[Scored(as_mask(region), score) for region, score in found] for found in predictions]
    return [
        average_precision(truths, boxes, "bbox"),
        average_precision([[as_mask(region) for region in true] for true in truths], masks, "segm"),
    ]


def test_perfect_predictions_are_one() -> None:
    regions = [box(*OBJECT), box(0, 0, 10, 10), box(5, 5, 150, 150)]  # medium, small, large
    predictions = [[(region, score)] for region, score in zip(regions, [0.9, 0.1, -0.3], strict=True)]
    for metrics in both_kinds([*([region] for region in regions), []], [*predictions, []]):
        assert metrics == {"map": 1.0, "map50": 1.0, "f1": 1.0}


def test_a_false_positive_that_outranks_halves_precision() -> None:
    for metrics in both_kinds([[box(*OBJECT)], []], [[(box(*OBJECT), 0.5)], [(box(*OBJECT), 0.9)]]):
        assert [metrics["map"], metrics["map50"]] == pytest.approx([1 / 2, 1 / 2])
        assert metrics["f1"] == pytest.approx(2 * 0.5 * 1 / 1.5)


def test_a_false_positive_ranked_last_costs_nothing() -> None:
    for metrics in both_kinds([[], [box(*OBJECT)]], [[(box(*OBJECT), 0.5)], [(box(*OBJECT), 0.9)]]):
        assert metrics == {"map": 1.0, "map50": 1.0, "f1": 1.0}


def test_a_false_positive_between_two_hits() -> None:
    truths = [[box(*OBJECT)], [], [box(*OBJECT)]]
    predictions = [[(box(*OBJECT), score)] for score in (0.9, 0.8, 0.7)]
    # The 51 recall points up to 0.5 have precision 1, the 50 above have 2/3.
    expected = (51 * 1 + 50 * 2 / 3) / 101
    for metrics in both_kinds(truths, predictions):
        assert [metrics["map"], metrics["map50"]] == pytest.approx([expected, expected])


def test_f1_averages_the_area_ranges_that_have_truths() -> None:
    # The false positive is small and the truth medium: it halves precision in "all" and does not count in "medium".
    for metrics in both_kinds([[box(*OBJECT)], []], [[(box(*OBJECT), 0.5)], [(box(0, 0, 10, 10), 0.9)]]):
        assert metrics["map"] == pytest.approx(1 / 2)
        assert metrics["f1"] == pytest.approx(2 * 0.75 / 1.75)


def test_a_loose_prediction_counts_up_to_its_overlap() -> None:
    # The IoU is 0.72, a hit at .50, .55, .60, .65 and .70 and a miss at the other five thresholds.
    for metrics in both_kinds([[box(0, 0, 100, 100)]], [[(box(0, 0, 100, 72), 0.9)]]):
        assert metrics == {"map": pytest.approx(0.5), "map50": 1.0, "f1": pytest.approx(0.5)}


def test_a_missed_object_cuts_recall() -> None:
    for metrics in both_kinds([[box(*OBJECT)], [box(*OBJECT)]], [[(box(*OBJECT), 0.9)], []]):
        assert metrics["map"] == pytest.approx(51 / 101)
        # 51 recall points have precision 1 and 50 have 0; recall is 1/2 throughout.
        assert metrics["f1"] == pytest.approx(51 / 101 * (2 * 0.5 / 1.5))


def test_no_predictions_are_zero() -> None:
    for metrics in both_kinds([[box(*OBJECT)], []], [[], []]):
        assert metrics == {"map": 0.0, "map50": 0.0, "f1": 0.0}


def test_the_first_photo_can_match() -> None:
    """COCO takes an annotation with id 0 for unmatched."""
    assert average_precision([[box(*OBJECT)]], [[Scored(box(*OBJECT), 0.0)]], "bbox")["map"] == 1.0


def test_it_prints_and_logs_nothing(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        both_kinds([[box(*OBJECT)]], [[(box(*OBJECT), 0.9)]])
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []


def test_each_copy_on_a_photo_counts() -> None:
    left, right = box(0, 0, 50, 50), box(100, 0, 50, 50)
    for metrics in both_kinds([[left, right]], [[(right, 0.9), (left, 0.8)]]):
        assert metrics == {"map": 1.0, "map50": 1.0, "f1": 1.0}
    for metrics in both_kinds([[left, right]], [[(left, 0.9)]]):
        assert metrics["map"] == pytest.approx(51 / 101)
    for metrics in both_kinds([[left]], [[(left, 0.9), (left, 0.8)]]):  # the second box of a copy is never a hit
        assert metrics["map"] == 1.0
    for metrics in both_kinds([[left, right]], [[(left, 0.9), (left, 0.8), (right, 0.7)]]):
        assert metrics["map"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="no photo has a ground truth"):
        average_precision([[]], [[Scored(box(*OBJECT), 0.5)]], "bbox")
    with pytest.raises(ValueError, match="ground truths of 2 photos, predictions of 1"):
        average_precision([[box(*OBJECT)], []], [[]], "bbox")
    with pytest.raises(ValueError, match="prediction on photo 1 is not finite"):
        average_precision([[box(*OBJECT)], []], [[], [Scored(box(*OBJECT), float("nan"))]], "bbox")
