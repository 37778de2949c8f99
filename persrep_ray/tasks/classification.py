"""Classification: does this photo show the object? Scored as in the reference implementation (arXiv 2412.16156)."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import average_precision_score

from persrep_ray.tasks.features import check_rows, check_same_width, cosine_matrix


def scores(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Each test photo's score (N,) float32: its largest cosine to any train photo of the object.

    `train` (T, D) and `test` (N, D) are embeddings.
    """
    check_rows(train, "train embeddings")
    check_rows(test, "test embeddings")
    check_same_width(train, "train embeddings", test, "test embeddings")
    best: np.ndarray = cosine_matrix(test, train).max(axis=1)
    return best


def pr_auc(train: np.ndarray, test: np.ndarray, is_object: np.ndarray) -> float:
    """Average precision of `scores` over all test photos, those of other objects included.

    `is_object` (N,) bool says which test photos show the object. Raises ValueError if none does, because the metric is
    then undefined.
    """
    return average_precision(scores(train, test), is_object)


def average_precision(of_photos: np.ndarray, is_object: np.ndarray) -> float:
    """Average precision of any scores (N,) of test photos; `is_object` and errors are those of `pr_auc`."""
    is_object = np.asarray(is_object, dtype=bool)
    count = len(of_photos)
    if is_object.shape != (count,):
        raise ValueError(f"is_object has shape {is_object.shape}, expected ({count},): one entry per test photo")
    if not is_object.any():
        raise ValueError("PR-AUC is undefined: no test photo shows the object")
    return float(average_precision_score(is_object, of_photos))
