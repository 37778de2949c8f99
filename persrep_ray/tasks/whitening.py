"""Whitening of features: what varies most, for reasons that say nothing about the object, counts less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from persrep_ray.tasks.features import check_rows, finite_array, from_int8, normalize, stored_array, to_int8

MOST_DIRECTIONS = 32
"""How many directions a whitening has at most; each takes 0.4 kB (384 dimensions of 8 bits)."""

_SHRINKAGE = 1.0  # of the covariance, towards a multiple of the identity


@dataclass(frozen=True)
class Whitening:
    """Weakens the directions along which features vary for reasons that say nothing about the object.

    `mean` (D,) is that of all features. The deviation of a feature from it along `directions` (R, D), which are
    orthonormal, is scaled by `factors` (R,), 0..1.
    """

    mean: np.ndarray
    directions: np.ndarray
    factors: np.ndarray

    @classmethod
    def fit(cls, embeddings: np.ndarray, objects: Sequence[str], *, rank: int = MOST_DIRECTIONS) -> Whitening:
        """From the embeddings (N, D) of photos: what varies among photos of the same object, as light, pose and place.

        `objects` says which object each photo shows. This is the within-class covariance normalisation of speaker
        verification (Hatch et al., 2006), of low rank. Without an object that has two photos nothing is known, and the
        whitening only subtracts the mean.
        """
        check_rows(embeddings, "embeddings")
        units = normalize(embeddings).astype(np.float64)
        names, owner = np.unique(np.asarray(objects), return_inverse=True)
        means = np.stack([units[owner == index].mean(axis=0) for index in range(len(names))])
        within = units - means[owner]
        freedom = len(units) - len(names)
        mean, dimensions = units.mean(axis=0).astype(np.float32), units.shape[1]
        if freedom == 0:
            return cls(mean, np.empty((0, dimensions), np.float32), np.empty(0, np.float32))
        return cls._of(mean, within.T @ within / freedom, min(rank, freedom))

    @classmethod
    def total(cls, features: np.ndarray, *, rank: int = MOST_DIRECTIONS) -> Whitening:
        """From features (N, D) of whatever images show: what varies most among all of them."""
        units = normalize(features)
        mean = units.mean(axis=0)
        centred = units - mean
        return cls._of(mean, centred.T @ centred / len(units), rank)

    @classmethod
    def _of(cls, mean: np.ndarray, covariance: np.ndarray, rank: int) -> Whitening:
        dimensions = len(covariance)
        variances, directions = np.linalg.eigh(covariance.astype(np.float64))
        kept = slice(-1, -1 - min(rank, dimensions), -1)  # the largest first
        floor = max(_SHRINKAGE * variances.sum() / dimensions, 1e-12)
        factors = 1 / np.sqrt(1 + np.maximum(variances[kept], 0) / floor)
        stored = from_int8(to_int8(directions.T[kept]))
        return cls(mean, stored, factors.astype(np.float32))

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """The whitened features (..., D) float32, of unit length."""
        centred = normalize(embeddings) - self.mean
        return normalize(centred - (centred @ self.directions.T * (1 - self.factors)) @ self.directions)

    @property
    def nbytes(self) -> int:
        return self.mean.nbytes + self.directions.nbytes + self.factors.nbytes

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The whitening as arrays, which `from_arrays` reads."""
        return {"mean": self.mean, "directions": to_int8(self.directions), "factors": self.factors}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], group: str) -> Whitening:
        """The whitening that `to_arrays` gave; `group` names it in errors.

        Raises ValueError unless the arrays are such a whitening's.
        """
        mean = finite_array(arrays, group, "mean", np.float32, (None,))
        directions = from_int8(stored_array(arrays, group, "directions", np.int8, (None, len(mean))))
        if len(directions) > MOST_DIRECTIONS:
            raise ValueError(f"{group}.directions has {len(directions)} rows, not 0 to {MOST_DIRECTIONS}")
        return cls(mean, directions, finite_array(arrays, group, "factors", np.float32, (len(directions),)))
