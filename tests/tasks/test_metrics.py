from __future__ import annotations

import pytest

from persrep_ray.tasks.metrics import flatten, mean_metrics


def test_flatten() -> None:
    nested = {"classification": {"pr_auc": 0.5}, "detection": {"map": 0.1, "map50": 0.2}}
    assert flatten(nested) == {"classification.pr_auc": 0.5, "detection.map": 0.1, "detection.map50": 0.2}


def test_the_mean_is_over_the_objects_that_have_the_metric() -> None:
    rows = [
        {"retrieval.ndcg": 0.2, "classification.pr_auc": 1.0},
        {"classification.pr_auc": 0.5},
        {"retrieval.ndcg": 0.4, "classification.pr_auc": 0.0},
        {},
    ]
    mean = mean_metrics(rows)
    assert mean == {"classification.pr_auc": pytest.approx(0.5), "retrieval.ndcg": pytest.approx(0.3)}
    assert list(mean) == ["classification.pr_auc", "retrieval.ndcg"]  # the order of METRICS


def test_the_mean_of_nothing_is_empty() -> None:
    assert mean_metrics([]) == {}


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown metric 'detection\.mAP': expected one of classification\.pr_auc"):
        mean_metrics([{"detection.mAP": 0.1}])
