from __future__ import annotations

import pytest

from persrep_ray.report.table import format_table
from persrep_ray.tasks.metrics import METRICS, flatten, mean_metrics

ALL = dict.fromkeys(METRICS, 0.25)


def test_flatten() -> None:
    nested = {"classification": {"pr_auc": 0.5}, "detection": {"map": 0.1, "map50": 0.2}}
    assert flatten(nested) == {"classification.pr_auc": 0.5, "detection.map": 0.1, "detection.map50": 0.2}


def test_mean_is_over_the_objects_that_have_the_metric() -> None:
    rows = [
        {"retrieval.ndcg": 0.2, "classification.pr_auc": 1.0},
        {"classification.pr_auc": 0.5},
        {"retrieval.ndcg": 0.4, "classification.pr_auc": 0.0},
        {},
    ]
    mean = mean_metrics(rows)
    assert mean == {"classification.pr_auc": pytest.approx(0.5), "retrieval.ndcg": pytest.approx(0.3)}
    assert list(mean) == ["classification.pr_auc", "retrieval.ndcg"]  # in the order of METRICS


def test_mean_of_nothing_is_empty() -> None:
    assert mean_metrics([]) == {}


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown metric 'detection\.mAP': expected one of classification\.pr_auc"):
        mean_metrics([{"detection.mAP": 0.1}])


def test_table_shows_every_object_and_the_mean() -> None:
    table = format_table(
        {"mug": {"pretrained": {"classification.pr_auc": 0.31}, "personalized": {"classification.pr_auc": 0.4294}}},
        {"pretrained": {"classification.pr_auc": 0.31}, "personalized": {"classification.pr_auc": 0.4294}},
    )
    assert table.splitlines() == [
        "object     PR-AUC",
        "─" * 21,
        "mug     0.310 → 0.429",
        "─" * 21,
        "mean    0.310 → 0.429",
    ]


def test_table_with_all_tasks_and_long_ids_fits_120_columns() -> None:
    objects = {"a" * 64 + "z" * 64: {"pretrained": ALL, "personalized": ALL}, "b": {"pretrained": ALL}}
    lines = format_table(objects, {"pretrained": ALL, "personalized": ALL}).splitlines()
    assert max(map(len, lines)) <= 120
    assert " ".join(lines[0].split()) == "object PR-AUC nDCG det mAP50 det mAP seg mAP50 seg mAP"
    assert lines[2].startswith("a" * 14 + "…" + "z" * 13 + "  0.250 → 0.250  ")
    assert lines[3].count("0.250 →   -") == 6


def test_a_failed_object_keeps_its_line() -> None:
    sides = {"pretrained": ALL, "personalized": ALL}
    lines = format_table({"good": sides, "bad": {}}, sides).splitlines()
    assert lines[3].split() == ["bad", *"------"]
