from __future__ import annotations

import math

import numpy as np
import pytest

from persrep_ray.tasks import retrieval


def at_angles(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane; the smaller the angle, the nearer to the query (1, 0)."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


QUERY = at_angles(0)


def test_it_is_perfect_if_all_relevant_photos_come_first() -> None:
    relevant = np.array([False, True, True, False])
    scores = retrieval.scores(QUERY, at_angles(80, 10, -20, 60), relevant)
    assert scores == {"ndcg": pytest.approx(1.0), "mrr": 1.0, "top10": 1.0}


def test_relevant_at_ranks_two_and_four() -> None:
    scores = retrieval.scores(QUERY, at_angles(10, 20, 30, 40), np.array([False, True, False, True]))
    ideal = 1 + 1 / math.log2(3)
    assert scores["ndcg"] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert scores["mrr"] == 1 / 2


def test_scores_are_means_over_queries() -> None:
    gallery, relevant = at_angles(0, 90), np.array([True, False])
    scores = retrieval.scores(at_angles(0, 90), gallery, relevant)
    assert scores["ndcg"] == pytest.approx((1 + 1 / math.log2(3)) / 2)
    assert scores["mrr"] == (1 + 1 / 2) / 2


@pytest.mark.parametrize(("better", "expected"), [(9, 1.0), (10, 0.0)])
def test_top10_ends_at_the_tenth(better: int, expected: float) -> None:
    gallery = at_angles(*range(1, better + 1), 45, *range(60, 70))
    relevant = np.arange(len(gallery)) == better
    scores = retrieval.scores(QUERY, gallery, relevant)
    assert scores["top10"] == expected
    assert scores["mrr"] == pytest.approx(1 / (better + 1))


def test_a_tie_does_not_score_by_luck() -> None:
    gallery = at_angles(30, 30)
    for relevant in ([True, False], [False, True]):
        scores = retrieval.scores(QUERY, gallery, np.array(relevant))
        assert scores["ndcg"] == pytest.approx((1 + 1 / math.log2(3)) / 2)  # the mean over both orders
        assert scores["mrr"] == 1 / 2


def test_it_is_perfect_if_the_gallery_shows_only_the_object() -> None:
    assert retrieval.scores(QUERY, at_angles(77), np.array([True])) == {"ndcg": 1.0, "mrr": 1.0, "top10": 1.0}


def test_it_equals_the_naive_formula() -> None:
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(7, 8)).astype(np.float32), rng.normal(size=(40, 8)).astype(np.float32)
    relevant = rng.random(40) < 0.2
    ndcgs, ranks = [], []
    for query in queries:
        cosines = [float(query @ row / np.linalg.norm(query) / np.linalg.norm(row)) for row in gallery]
        hits = [bool(relevant[index]) for index in sorted(range(40), key=lambda index: -cosines[index])]
        dcg = sum(1 / math.log2(place + 2) for place, hit in enumerate(hits) if hit)
        ndcgs.append(dcg / sum(1 / math.log2(place + 2) for place in range(sum(hits))))
        ranks.append(hits.index(True) + 1)
    scores = retrieval.scores(queries, gallery, relevant)
    assert scores["ndcg"] == pytest.approx(np.mean(ndcgs), abs=1e-9)
    assert scores["mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
    assert scores["top10"] == np.mean([rank <= 10 for rank in ranks])


@pytest.mark.parametrize(
    ("queries", "relevant", "message"),
    [
        (np.zeros((0, 2)), [True, False], "query embeddings must be a non-empty"),
        (QUERY, [False, False], "no gallery photo shows the object"),
        (QUERY, [True], r"relevant has shape \(1,\), expected \(2,\)"),
        (np.ones((1, 3)), [True, False], "query embeddings have 3 dimensions, gallery embeddings 2"),
    ],
)
def test_bad_input_is_named(queries: np.ndarray, relevant: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retrieval.scores(queries, at_angles(0, 1), np.array(relevant))
