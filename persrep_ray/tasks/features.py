"""Cosine similarity of feature rows, and the checks that all tasks share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_TINY = 1e-12


def normalize(features: np.ndarray) -> np.ndarray:
    """Scales the last axis of `features` (..., D) to unit length, as float32; a zero vector stays zero."""
    features = np.asarray(features, dtype=np.float32)
    norms = np.sqrt(np.einsum("...d,...d->...", features, features))
    unit: np.ndarray = features / np.maximum(norms, _TINY)[..., None]
    return unit


def cosine_matrix(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosines (L, R) float32 between the rows of `left` (L, D) and of `right` (R, D)."""
    cosines: np.ndarray = normalize(left) @ normalize(right).T
    return cosines


def check_rows(features: np.ndarray, name: str) -> None:
    """Raises ValueError unless `features` is a non-empty, finite (rows, D) array; `name` says what it holds."""
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{name} must be a non-empty (rows, dimensions) array, got shape {features.shape}")
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        raise ValueError(f"{name} has a value that is not finite in row {int(np.argmin(finite))} of {len(features)}")


def check_same_width(left: np.ndarray, left_name: str, right: np.ndarray, right_name: str) -> None:
    """Raises ValueError unless the last axes have the same length."""
    if left.shape[-1] != right.shape[-1]:
        raise ValueError(
            f"{left_name} have {left.shape[-1]} dimensions, {right_name} {right.shape[-1]}: not from the same backbone"
        )


def stored_array(
    arrays: Mapping[str, np.ndarray], group: str, name: str, kind: type[np.generic], shape: tuple[int | None, ...]
) -> np.ndarray:
    """The array `name` of stored arrays, which may be hostile; `group` says in errors what they describe.

    Raises ValueError unless its type and shape (None: any length) are right.
    """
    array = arrays.get(name)
    if array is None:
        raise ValueError(f"{group}.{name} is missing")
    wanted = tuple(actual if length is None else length for length, actual in zip(shape, array.shape, strict=False))
    if array.dtype != kind or array.ndim != len(shape) or array.shape != wanted:
        raise ValueError(f"{group}.{name} has type {array.dtype} and shape {array.shape}")
    return array


def finite_array(
    arrays: Mapping[str, np.ndarray], group: str, name: str, kind: type[np.generic], shape: tuple[int | None, ...]
) -> np.ndarray:
    """As `stored_array`. Raises ValueError also if a value is not finite."""
    array = stored_array(arrays, group, name, kind, shape)
    if not np.isfinite(array).all():
        raise ValueError(f"{group}.{name} has a value that is not finite")
    return array


def to_int8(units: np.ndarray) -> np.ndarray:
    """The unit rows (N, D) in 8 bits, which changes a cosine by less than 0.01."""
    largest = np.abs(units).max(axis=1, keepdims=True, initial=1e-6)
    rounded: np.ndarray = np.round(units * (127 / largest)).astype(np.int8)
    return rounded


def from_int8(rows: np.ndarray) -> np.ndarray:
    """The unit rows (N, D) float32 that `to_int8` was given."""
    return normalize(rows)


def evenly(count: int, most: int) -> np.ndarray:
    """Which of `count` rows are taken, in their order: evenly, at most `most`."""
    rows: np.ndarray = np.linspace(0, count - 1, min(count, most)).round().astype(int)
    return rows
