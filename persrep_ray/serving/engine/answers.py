"""Queries and answers of the engine, and who can be asked: plain data, so that they cross process borders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class AdapterRef:
    """The adapter a query is about: a version never changes once it is published."""

    object_id: str
    version: str


@dataclass(frozen=True)
class Classification:
    """Does the image show the object?

    `score`: largest cosine to the object's photos, -1..1. `probability`: the score, calibrated, 0..1.
    """

    score: float
    probability: float
    threshold: float

    @property
    def match(self) -> bool:
        return self.score >= self.threshold


@dataclass(frozen=True)
class Localization:
    """Where the image shows the object, in pixels of the `size` that was asked for.

    `box` [x, y, width, height] and `mask` (H, W) bool are None where nothing was found; `score` is then -1.
    `similarity` (h, w) float32: cosine of each patch to the object, -1..1, row-major over the whole image.
    """

    box: tuple[int, int, int, int] | None
    mask: np.ndarray | None
    score: float
    similarity: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Two images: `same` is what a `Classification` of one against the other says, `each` tells of either alone."""

    same: Classification
    each: tuple[Classification, Classification]


@dataclass(frozen=True)
class Candidate:
    """An object that an image shows."""

    ref: AdapterRef
    classification: Classification


@dataclass(frozen=True)
class Identification:
    """The objects found, most probable first; `searched` objects were known, `tried` of them by their own adapter."""

    candidates: tuple[Candidate, ...]
    searched: int
    tried: int


class Engine(Protocol):
    """Who answers: the engine itself, or a client of engines in other processes. All methods raise `QueryError`.

    `standard` is a (S, S, 3) uint8 RGB `standard_view` of the image and `dense` the whole image by `resize_square`,
    with the sides that `view_sides` gives.
    """

    async def view_sides(self) -> tuple[int, int]:
        """Sides of the standard and of the dense view, pixels."""

    async def embed(self, ref: AdapterRef, standard: np.ndarray) -> np.ndarray:
        """(D,) float32 of unit length."""

    async def classify(self, ref: AdapterRef, standard: np.ndarray) -> Classification: ...

    async def locate(self, ref: AdapterRef, dense: np.ndarray, size: tuple[int, int]) -> Localization:
        """`size` is the (H, W) that mask and box are wanted in."""

    async def compare(self, ref: AdapterRef, standards: tuple[np.ndarray, np.ndarray]) -> Comparison: ...

    async def identify(
        self, standard: np.ndarray, prefixes: Sequence[str], *, top_k: int, exact: bool
    ) -> Identification:
        """Among the objects whose id starts with one of `prefixes` ("" matches all)."""
