from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from persrep_ray.backbones.backbone import Features
from persrep_ray.config import CrossValidationConfig
from persrep_ray.train.batches import Pool
from persrep_ray.train.cross_validation import FoldScore, choose_strength, plan_folds, score_fold

CONFIG = CrossValidationConfig(folds=3, strengths=(0.0, 0.5, 1.0))


class Identity:
    """A backbone whose CLS is what the prefix cached."""

    device = torch.device("cpu")

    def suffix(self, hidden: torch.Tensor) -> Features:
        return Features(cls=hidden[:, 0], patches=hidden[:, 1:])


def view(*vectors: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(vectors)[:, None, :].repeat(1, 2, 1)


def pool(
    photos: list[torch.Tensor],
    others: list[torch.Tensor],
    distractor_photo: list[int],
    checks: tuple[torch.Tensor, ...] = (),
) -> Pool:
    none = torch.zeros(0, 2, 2)
    empty = np.array([], dtype=int)
    return Pool(
        tuple(photos), tuple(others), np.array(distractor_photo), np.ones(len(others)), none, empty, none, empty, checks
    )


def score(rank: float, margin: float = 0.0) -> FoldScore:
    return FoldScore(pr_auc=rank, ndcg=rank, margin=margin)


def test_the_strength_that_ranks_held_out_photos_best_is_chosen() -> None:
    strength, report = choose_strength([[score(0.5), score(0.9), score(0.7)]], CONFIG)
    assert strength == 0.5
    assert [c["pr_auc"] for c in report["candidates"]] == [0.5, 0.9, 0.7]


def test_an_object_that_cannot_be_improved_keeps_the_pretrained_features() -> None:
    folds = [[score(0.9, 1.0), score(0.8, 5.0), score(0.7, 9.0)], [score(0.8, 1.0), score(0.85, 5.0), score(0.6, 9.0)]]
    assert choose_strength(folds, CONFIG)[0] == 0.0


@pytest.mark.parametrize(
    ("margins", "strength"),
    [
        ((1.0, 3.0, 2.0), 0.5),
        ((1.0, 2.0, 3.0), 1.0),
        ((1.0, 2.7, 3.0), 0.5),
        ((2.8, 2.9, 3.0), 0.0),
        ((-3, -2, -1), 1.0),
    ],
)
def test_the_margin_decides_between_equal_ranks_and_a_small_gain_does_not_justify_more_strength(
    margins: tuple[float, ...], strength: float
) -> None:
    assert choose_strength([[score(1.0, margin) for margin in margins]], CONFIG)[0] == strength


def test_without_folds_the_adapter_is_trusted() -> None:
    assert choose_strength([], CONFIG) == (1.0, {"folds": 0})


def test_there_are_no_folds_if_nothing_can_be_held_out() -> None:
    own, other = view((1.0, 0.0)), view((0.0, 1.0))
    assert plan_folds(pool([own], [other], [0]), CONFIG) == []
    assert plan_folds(pool([own, own], [], []), CONFIG) == []
    assert plan_folds(pool([own, own], [other], [0]), CONFIG) == [0, 1]
    assert plan_folds(pool([own, own], [other], [0]), CrossValidationConfig(folds=0)) == []
    assert plan_folds(pool([own, own], [], [], checks=(other[0],)), CONFIG) == [0, 1], "an object alone is checked, too"


def test_a_held_out_photo_is_ranked_against_photos_that_are_never_trained_on() -> None:
    own, others = [view((1.0, 0.0)), view((0.9, 0.436))], [view((0.0, 1.0)), view((0.0, 1.0))]
    backbone: Any = Identity()
    without = score_fold(backbone, pool(own, others, [0, 1]), held_out=1)
    near = view((0.99, 0.14))[0]
    for photos, numbers in (([], []), (others, [0, 1])):
        scored = score_fold(backbone, pool(own, photos, numbers, checks=(near,)), held_out=1)
        assert without.pr_auc == 1.0 and scored.pr_auc == 0.5


def test_a_held_out_photo_is_ranked_against_photos_that_its_fold_did_not_see() -> None:
    # The held-out photo 1 is nearer to the object than the distractor's photo 1, but farther than its photo 0.
    own = [view((1.0, 0.0)), view((0.9, 0.436))]
    others = [view((0.99, 0.14)), view((0.0, 1.0))]
    backbone: Any = Identity()
    scored = score_fold(backbone, pool(own, others, [0, 1]), held_out=1)
    assert scored.pr_auc == 1.0  # the fold trained on photo 0 of the distractor, so it does not rank it
    assert scored.margin == pytest.approx(0.9 / 1e-6, rel=1e-3)  # a single distractor has no spread
    assert scored.ndcg == 1.0
    seen = score_fold(backbone, pool(own, others, [1, 1]), held_out=1)  # now the fold saw neither, so (0.99, 0.14) wins
    assert seen.ndcg == pytest.approx(1 / np.log2(3)) and seen.pr_auc == 0.5
