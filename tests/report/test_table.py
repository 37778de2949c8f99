from __future__ import annotations

from persrep_ray.report.table import format_table
from persrep_ray.tasks.metrics import METRICS

ALL = dict.fromkeys(METRICS, 0.25)


def test_the_table_shows_every_object_and_the_mean() -> None:
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


def test_a_table_with_all_tasks_and_long_ids_is_at_most_120_characters_wide() -> None:
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
