"""The engine's answers, which are plain data that can be sent between processes, and the interface of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class AdapterRef:
    """The adapter that a query asks for. A published version never changes."""

    object_id: str
    version: str


@dataclass(frozen=True)
class Classification:
    """Whether an image shows the object.

    `score` is the largest cosine to the object's photos, -1..1, and `probability` the calibrated score, 0..1.
    """

    score: float
    probability: float
    threshold: float

    @property
    def match(self) -> bool:
        return self.score >= self.threshold


@dataclass(frozen=True)
class Localization:
    """Where an image shows the object, in pixels of the requested size.

    `box` [x, y, width, height] and `mask` (H, W) bool are None and `score` is -1 if nothing was found. `similarity`
    (h, w) float32 is the cosine of each patch to the object, -1..1; the patches cover the whole image.
    """

    box: tuple[int, int, int, int] | None
    mask: np.ndarray | None
    score: float
    similarity: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Two images: `same` compares them to each other, and `each` holds the comparison of either with the object."""

    same: Classification
    each: tuple[Classification, Classification]


@dataclass(frozen=True)
class Candidate:
    """An object that an image shows."""

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

    `standard` is the image's `standard_view` and `dense` the whole image after `resize_square`, both (S, S, 3) uint8
    RGB with the sides that `view_sides` returns.
    """

    async def view_sides(self) -> tuple[int, int]:
        """The sides of the standard and the dense view, in pixels."""

    async def embed(self, ref: AdapterRef, standard: np.ndarray) -> np.ndarray:
        """The image's features under the adapter, (D,) float32 of unit length."""

    async def classify(self, ref: AdapterRef, standard: np.ndarray) -> Classification: ...

    async def locate(self, ref: AdapterRef, dense: np.ndarray, size: tuple[int, int]) -> Localization:
        """`size` is the (H, W) that the mask and the box refer to."""

    async def compare(self, ref: AdapterRef, standards: tuple[np.ndarray, np.ndarray]) -> Comparison: ...

    async def identify(
        self, standard: np.ndarray, prefixes: Sequence[str], *, top_k: int, exact: bool
    ) -> Identification:
        """The objects in the image, among those whose id starts with one of `prefixes` ("" matches all ids)."""
