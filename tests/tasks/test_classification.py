from __future__ import annotations

import numpy as np
import pytest

from persrep_ray.tasks import classification

TRAIN = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=np.float32)


def test_the_score_is_the_best_cosine_to_any_train_photo() -> None:
    test = np.array([[0.0, 5.0, 0.0], [3.0, 0.0, 4.0], [0.0, 0.0, 1.0], [-1.0, -1.0, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(classification.scores(TRAIN, test), [1.0, 0.6, 0.0, -1 / np.sqrt(2)], atol=1e-6)


def test_a_perfect_ranking_is_one() -> None:
    test = np.array([[0.1, 0.0, 1.0], [0.0, 2.0, 0.1], [1.0, 0.0, 0.1]], dtype=np.float32)
    assert classification.pr_auc(TRAIN, test, np.array([False, True, True])) == 1.0


def test_a_distractor_on_top_costs_exactly_its_share() -> None:
    test = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.5], [1.0, 0.0, 1.0]], dtype=np.float32)
    # A distractor ranks first, so precision is 1/2 at the first photo of the object and 2/3 at the second.
    assert classification.pr_auc(TRAIN, test, np.array([False, True, True])) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_equal_scores_give_the_share_of_the_object() -> None:
    test = np.tile(TRAIN[0], (4, 1))
    assert classification.pr_auc(TRAIN, test, np.array([True, False, False, False])) == pytest.approx(1 / 4)


def test_it_is_undefined_without_a_photo_of_the_object() -> None:
    with pytest.raises(ValueError, match="no test photo shows the object"):
        classification.pr_auc(TRAIN, TRAIN, np.array([False, False]))


@pytest.mark.parametrize(
    ("train", "test", "is_object", "message"),
    [
        (np.zeros((0, 3)), TRAIN, [True, False], r"train embeddings must be a non-empty .* \(0, 3\)"),
        (TRAIN, np.ones((2, 4)), [True, False], "train embeddings have 3 dimensions, test embeddings 4"),
        (TRAIN, np.array([[1, 0, 0], [np.nan, 0, 0]]), [True, False], "test embeddings has a value .* row 1 of 2"),
        (TRAIN, TRAIN, [True], r"is_object has shape \(1,\), expected \(2,\)"),
    ],
)
def test_bad_input_is_named(train: np.ndarray, test: np.ndarray, is_object: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification.pr_auc(train, test, np.array(is_object))
