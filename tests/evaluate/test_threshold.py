from __future__ import annotations

import numpy as np
import pytest

from persrep_ray.evaluate.threshold import serving_threshold

NONE = np.empty((0, 2), dtype=np.float32)


def at(*degrees: float) -> np.ndarray:
    """(N, 2) unit vectors at these angles, so that a cosine is that of the difference."""
    angles = np.radians(np.array(degrees))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def cosine(degrees: float) -> float:
    return float(np.cos(np.radians(degrees)))


def test_lies_halfway_between_the_least_alike_train_photo_and_the_most_alike_other() -> None:
    threshold = serving_threshold(at(0, 10, 30), at(90, 75, 120))
    # 30 is scored against 10, not against itself; 75 against 30
    assert threshold == pytest.approx((cosine(20) + cosine(45)) / 2)


def test_where_they_mix_the_cut_has_the_best_f1() -> None:
    train, others = at(0, 4, 60), at(20, 21, 22, 23)
    # without 60: 2 of 3 found and no false alarm, F1 0.8; with it: 3 of 3 and four false alarms, F1 0.6
    assert serving_threshold(train, others) == pytest.approx((cosine(4) + cosine(16)) / 2)


def test_of_equally_good_cuts_the_highest() -> None:
    train, others = at(0, 0, 40, 50), at(1, 2, 3, 4)
    # 2 of 4 found and no false alarm, or 4 of 4 and four false alarms: F1 2/3 either way
    assert serving_threshold(train, others) == pytest.approx((1 + cosine(1)) / 2)


def test_one_train_photo_scores_one() -> None:
    assert serving_threshold(at(0), at(60, 100)) == pytest.approx((1 + 0.5) / 2)


def test_without_others_cosine_zero_stands_for_them() -> None:
    assert serving_threshold(at(0, 20), NONE) == pytest.approx(cosine(20) / 2)
    assert serving_threshold(at(0), NONE) == pytest.approx(0.5)


def test_collapsed_features_still_give_a_number() -> None:
    assert np.isfinite(serving_threshold(at(5, 5, 5), at(5, 5)))
    assert serving_threshold(np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32)) == 0.0


def test_does_not_change_with_the_order() -> None:
    rng = np.random.default_rng(0)
    train, others = rng.normal(size=(4, 8)) + 1, rng.normal(size=(9, 8))
    assert serving_threshold(train, others) == pytest.approx(serving_threshold(train[::-1], others[::-1]))


@pytest.mark.parametrize(("train", "others"), [(NONE, at(0)), (at(0), np.full((1, 2), np.nan))])
def test_refuses_what_has_no_cosine(train: np.ndarray, others: np.ndarray) -> None:
    with pytest.raises(ValueError, match="embeddings"):
        serving_threshold(train, others)
