from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest

from persrep_ray.tasks.calibration import SLOPES, Calibration, calibrate

NONE = np.empty((0, 2), dtype=np.float32)


def at(*degrees: float) -> np.ndarray:
    """Unit vectors (N, 2) at these angles, so that the cosine of two is that of their difference."""
    angles = np.radians(np.array(degrees))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def cosine(degrees: float) -> float:
    return float(np.cos(np.radians(degrees)))


def probability(calibration: Calibration, score: float) -> float:
    return 1 / (1 + math.exp(-(calibration.slope * score + calibration.intercept)))


class TestThreshold:
    def test_it_lies_halfway_between_the_lowest_score_of_the_object_and_the_highest_of_the_rest(self) -> None:
        # 30 is scored against 10 and not against itself, 75 against 30.
        assert calibrate(at(0, 10, 30), at(90, 75, 120), NONE, NONE).threshold == pytest.approx(
            (cosine(20) + cosine(45)) / 2
        )
        # Of the synthetic images, 335 is scored against 0, and 65 against 30.
        found = calibrate(at(0, 10, 30), at(90, 75), at(335, 345), at(65, 180)).threshold
        assert found == pytest.approx((cosine(25) + cosine(35)) / 2)

    def test_if_the_sides_mix_the_cut_has_the_best_balance(self) -> None:
        # To lose 60 gives 2/3 of the object and nothing else; to keep it gives all, and 4/5 of the rest.
        found = calibrate(at(0, 4, 60), at(20, 21, 22, 23, 180), NONE, NONE)
        assert found.threshold == pytest.approx((cosine(4) + cosine(16)) / 2)
        assert (found.true_positive_rate, found.false_positive_rate) == (pytest.approx(2 / 3), 0)

    def test_photos_and_synthetic_images_weigh_the_same_however_many_there_are(self) -> None:
        between = (1 + cosine(30)) / 2
        # It gives up half of the object's side for two thirds of the rest: 2 photos weigh as much as 20 images.
        found = calibrate(at(0, 0), at(30, 30, 180), at(*[320] * 20), NONE)
        assert found.threshold == pytest.approx(between)
        # It gives up 3/8 of the object's side for half of the rest: 1 photo weighs as much as 50 images.
        found = calibrate(at(0, 0), at(30), at(0, 320, 320, 320), at(*[180] * 50))
        assert found.threshold == pytest.approx(between)

    def test_it_is_the_highest_of_equally_good_cuts(self) -> None:
        # Both half of the object and none of the rest, and all of both, are equally good.
        found = calibrate(at(0, 0, 40, 60), at(1, 2, 180, 180), NONE, NONE).threshold
        assert found == pytest.approx((1 + cosine(1)) / 2)


class TestProbability:
    def test_it_is_even_at_the_threshold_and_rises(self) -> None:
        found = calibrate(at(0, 10, 30), at(90, 75, 120), at(350, 40), at(100, 70))
        assert found.slope * found.threshold + found.intercept == 0
        assert probability(found, found.threshold + 0.1) > 0.6
        assert probability(found, found.threshold - 0.1) < 0.4

    def test_scores_that_separate_give_platts_soft_targets(self) -> None:
        """With two equal scores on each side, the fit can reach its targets, (2 + 1) / (2 + 2)."""
        found = calibrate(at(0, 0), at(90, 90), NONE, NONE)
        assert probability(found, 1.0) == pytest.approx(0.75, abs=1e-4)
        assert probability(found, 0.0) == pytest.approx(0.25, abs=1e-4)

    def test_more_images_make_it_surer(self) -> None:
        few, many = (calibrate(at(*[0] * count), at(*[90] * count), NONE, NONE) for count in (2, 20))
        assert probability(many, 1.0) == pytest.approx(21 / 22, abs=1e-4)
        assert few.slope < many.slope
        with_synthetic = calibrate(at(0, 0), at(90, 90), at(*[0] * 16), at(*[90] * 16))
        assert few.slope < with_synthetic.slope < many.slope  # the effective number is 1 / (1/4/2 + 1/4/16) = 7

    def test_scores_that_mix_make_it_less_sure(self) -> None:
        apart = calibrate(at(*[0] * 6), at(*[60] * 6), at(*[30] * 3), NONE)
        mixed = calibrate(at(*[0] * 6), at(*[60] * 5, 20), at(*[30] * 2, 80), NONE)
        assert mixed.slope < apart.slope
        assert (mixed.true_positive_rate, mixed.false_positive_rate) == (pytest.approx(8 / 9), pytest.approx(1 / 6))


def test_it_counts_the_images_that_it_was_found_on() -> None:
    found = calibrate(at(0, 10, 30), at(90, 75), at(350, 40, 20, 10), at(100, 70, 80, 90, 95))
    assert (found.positives, found.others) == (7, 7)
    assert (found.true_positive_rate, found.false_positive_rate) == (1, 0)


class TestFewImages:
    def test_a_single_photo_is_judged_by_synthetic_images(self) -> None:
        found = calibrate(at(0), at(90), at(30, 40), at(100))
        assert found.threshold == pytest.approx(cosine(40) / 2)
        assert found.positives == 2

    def test_a_single_photo_alone_scores_one(self) -> None:
        found = calibrate(at(0), at(60, 100), NONE, NONE)
        assert found.threshold == pytest.approx((1 + 0.5) / 2)
        assert found.positives == 0

    def test_without_other_objects_a_cosine_of_zero_stands_for_them(self) -> None:
        assert calibrate(at(0, 20), NONE, NONE, NONE).threshold == pytest.approx(cosine(20) / 2)
        assert calibrate(at(0), NONE, NONE, NONE).threshold == pytest.approx(0.5)

    @pytest.mark.parametrize(
        ("train", "others"),
        [
            (at(5, 5, 5), at(5, 5)),
            (np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32)),
            (at(0, 90), at(0, 1, 90)),  # other objects are more alike than the object's photos
            (at(0), NONE),
        ],
    )
    def test_degenerate_scores_give_finite_numbers(self, train: np.ndarray, others: np.ndarray) -> None:
        found = calibrate(train, others, NONE, NONE)
        assert all(math.isfinite(value) for value in astuple(found))
        assert -1 <= found.threshold <= 1
        assert SLOPES[0] <= found.slope <= SLOPES[1]

    def test_the_slope_is_lowest_if_the_sides_cannot_be_told_apart(self) -> None:
        assert calibrate(at(5, 5, 5), at(5, 5), NONE, NONE).slope == pytest.approx(SLOPES[0])
        assert calibrate(at(0, 90), at(0, 1, 90), NONE, NONE).slope == pytest.approx(SLOPES[0])


def test_the_order_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    train, others, alike = rng.normal(size=(4, 8)) + 1, rng.normal(size=(9, 8)), rng.normal(size=(5, 8)) + 1
    found, again = calibrate(train, others, alike, others[:3]), calibrate(train[::-1], others[::-1], alike, others[:3])
    assert astuple(found) == pytest.approx(astuple(again))


@pytest.mark.parametrize(("train", "others"), [(NONE, at(0)), (at(0), np.full((1, 2), np.nan))])
def test_embeddings_without_a_cosine_are_refused(train: np.ndarray, others: np.ndarray) -> None:
    with pytest.raises(ValueError, match="embeddings"):
        calibrate(train, others, NONE, NONE)
