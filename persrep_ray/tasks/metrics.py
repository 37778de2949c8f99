"""Metrics of many objects and their mean.

Metrics are flat: `{"classification.pr_auc": 0.43, "retrieval.ndcg": 0.77, …}`; a task without data has no key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Metrics = Mapping[str, float]
Sides = Mapping[str, Metrics]
"""The metrics of one object (or their mean): `{"pretrained": …, "personalized": …}`."""

SIDES = ("pretrained", "personalized")

METRICS = (
    "classification.pr_auc",
    "retrieval.ndcg",
    "retrieval.mrr",
    "retrieval.top10",
    "detection.map",
    "detection.map50",
    "detection.f1",
    "segmentation.map",
    "segmentation.map50",
    "segmentation.f1",
)


def flatten(tasks: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """`{"detection": {"map": 0.1}}` as `{"detection.map": 0.1}`."""
    return {f"{task}.{name}": value for task, metrics in tasks.items() for name, value in metrics.items()}


def mean_metrics(metrics: Iterable[Metrics]) -> dict[str, float]:
    """The mean of each metric over the objects that have it, in the order of `METRICS`; one that none has is absent.

    Raises ValueError for a metric that is not in `METRICS`.
    """
    values: dict[str, list[float]] = {}
    for one in metrics:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    unknown = sorted(values.keys() - set(METRICS))
    if unknown:
        raise ValueError(f"unknown metric {unknown[0]!r}: expected one of {', '.join(METRICS)}")
    return {name: sum(values[name]) / len(values[name]) for name in METRICS if name in values}


def mean_sides(metrics: Iterable[Sides]) -> dict[str, dict[str, float]]:
    """The mean over objects of each side's metrics."""
    metrics = list(metrics)
    return {side: mean_metrics(one[side] for one in metrics) for side in SIDES}
