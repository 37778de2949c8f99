"""The table of pretrained and personalized metrics for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from persrep_ray.tasks.metrics import Sides

_COLUMNS = {
    "classification.pr_auc": "PR-AUC",
    "retrieval.ndcg": "nDCG",
    "detection.map50": "det mAP50",
    "detection.map": "det mAP",
    "segmentation.map50": "seg mAP50",
    "segmentation.map": "seg mAP",
}
_CELL = 13  # "0.310 → 0.429"
_LONGEST_NAME = 28
_GAP = "  "


def format_table(objects: Mapping[str, Sides], mean: Sides) -> str:
    """A table of "pretrained → personalized" for each object and the mean, at most 120 characters wide.

    Metrics that neither an object nor the mean has get no column. A single missing value is a dash.
    """
    rows = [*objects.items(), ("mean", mean)]
    present = {name for _, sides in rows for metrics in sides.values() for name in metrics}
    columns = [name for name in _COLUMNS if name in present]
    names = [_shorten(object_id) for object_id, _ in rows]
    width = max(len("object"), *map(len, names))

    header = _GAP.join([f"{'object':<{width}}", *(f"{_COLUMNS[name]:^{_CELL}}" for name in columns)])
    rule = "─" * len(header)
    lines = [
        _GAP.join([f"{name:<{width}}", *(_cell(sides, column) for column in columns)]).rstrip()
        for name, (_, sides) in zip(names, rows, strict=True)
    ]
    return "\n".join([header.rstrip(), rule, *lines[:-1], rule, lines[-1]])


def _cell(sides: Sides, name: str) -> str:
    before, after = (sides.get(side, {}).get(name) for side in ("pretrained", "personalized"))
    if before is None and after is None:
        return f"{'-':^{_CELL}}"
    return f"{_value(before)} → {_value(after)}"


def _value(value: float | None) -> str:
    return f"{'-':^5}" if value is None else f"{value:.3f}"


def _shorten(object_id: str) -> str:
    """Leaves out the middle of a long object id, because the ends tell objects apart."""
    if len(object_id) <= _LONGEST_NAME:
        return object_id
    half = (_LONGEST_NAME - 1) // 2
    return f"{object_id[: _LONGEST_NAME - 1 - half]}…{object_id[-half:]}"
