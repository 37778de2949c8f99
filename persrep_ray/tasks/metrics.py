"""Names and means of metrics.

Metrics are flat: `{"classification.pr_auc": 0.43, "retrieval.ndcg": 0.77, …}`. A task without data has no key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

Side = Literal["pretrained", "personalized"]
SIDES: tuple[Side, Side] = ("pretrained", "personalized")

Metrics = Mapping[str, float]
Sides = Mapping[Side, Metrics]
"""The metrics of one object, or their mean, by both sides."""

METRICS = (
    "classification.pr_auc",
    "served.pr_auc",
    "retrieval.ndcg",
    "retrieval.mrr",
    "retrieval.top10",
    "detection.map",
    "detection.map50",
    "detection.f1",
    "segmentation.map",
    "segmentation.map50",
    "segmentation.f1",
    *(f"paper.{task}.{name}" for task in ("detection", "segmentation") for name in ("map", "map50", "f1")),
)
"""`classification` is by the largest cosine to a train photo, as in the paper, and `served` by a recognizer, as in
serving. `detection` and `segmentation` are those of `evaluate.mode`; `paper` is the mode `threshold` beside it.
"""


def flatten(tasks: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Turns `{"detection": {"map": 0.1}}` into `{"detection.map": 0.1}`."""
    return {f"{task}.{name}": value for task, metrics in tasks.items() for name, value in metrics.items()}


def mean_metrics(metrics: Iterable[Metrics]) -> dict[str, float]:
    """The mean of each metric over the objects that have it, in the order of `METRICS`.

    A metric that no object has is absent. Raises ValueError for a metric that is not in `METRICS`.
    """
    values: dict[str, list[float]] = {}
    for of_object in metrics:
        for name, value in of_object.items():
            values.setdefault(name, []).append(value)
    unknown = sorted(values.keys() - set(METRICS))
    if unknown:
        raise ValueError(f"unknown metric {unknown[0]!r}: expected one of {', '.join(METRICS)}")
    return {name: sum(values[name]) / len(values[name]) for name in METRICS if name in values}


def mean_sides(metrics: Iterable[Sides]) -> dict[Side, dict[str, float]]:
    """The mean over objects of each side's metrics."""
    metrics = list(metrics)
    return {side: mean_metrics(sides[side] for sides in metrics) for side in SIDES}
