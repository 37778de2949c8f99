"""The engine's answers, which are plain data that can be sent between processes, and the interface of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from persrep_ray.tasks.dense import DensePrediction

MOST_INSTANCES = 32
"""The largest number of places at which an answer says that the object is; it bounds the size of answers."""

LEAST_PROBABILITY = 0.5
"""An image or a place where the object is less probable than this does not show it."""


@dataclass(frozen=True)
class AdapterRef:
    """The adapter that a query asks for. A published version never changes."""

    object_id: str
    version: str


@dataclass(frozen=True)
class Classification:
    """Whether an image shows the object.

    `score` is the largest cosine to the object's photos, -1..1. `probability`, 0..1, follows from the `evidence` of the
    object's recognizer. An object that was published before there were recognizers has a `threshold` of the score
    instead, and its probability is the calibrated score.
    """

    score: float
    probability: float
    threshold: float | None = None
    evidence: float | None = None

    @property
    def match(self) -> bool:
        return self.probability >= LEAST_PROBABILITY if self.threshold is None else self.score >= self.threshold


@dataclass(frozen=True)
class Comparison:
    """Two images: `same` compares them to each other, and `each` holds the comparison of either with the object."""

    same: Classification
    each: tuple[Classification, Classification]


@dataclass(frozen=True)
class Candidate:
    """An object that was tried on an image, or one that the image shows."""

    ref: AdapterRef
    classification: Classification


@dataclass(frozen=True)
class Identification:
    """The objects found, most probable first. `searched` objects are known, and the adapters of `tried` were run."""

    candidates: tuple[Candidate, ...]
    searched: int
    tried: int


class Engine(Protocol):
    """Answers queries: the engine itself, or a client of engines in other processes. All methods raise `QueryError`.

    An image is (H, W, 3) uint8 RGB and at most `data.images.IMAGE_SIDE` pixels high and wide.
    """

    async def ping(self) -> None:
        """Returns if queries can be answered."""

    async def embed(self, ref: AdapterRef, image: np.ndarray) -> np.ndarray:
        """The image's features under the adapter, (D,) float32 of unit length."""

    async def classify(self, ref: AdapterRef, image: np.ndarray) -> Classification: ...

    async def locate(self, ref: AdapterRef, image: np.ndarray) -> DensePrediction:
        """Where the image shows the object: at most `MOST_INSTANCES` places, most probable first.

        Each is at least `LEAST_PROBABILITY` probable, or it has no probability and is the only one, because the object
        was published before there were any.
        """

    async def compare(self, ref: AdapterRef, images: tuple[np.ndarray, np.ndarray]) -> Comparison: ...

    async def identify(self, image: np.ndarray, prefixes: Sequence[str], *, top_k: int, exact: bool) -> Identification:
        """The objects in the image, among those whose id starts with one of `prefixes` ("" matches all ids)."""
