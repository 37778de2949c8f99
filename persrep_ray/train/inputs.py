"""What the training of one object starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from persrep_ray.data.objects import Photo
from persrep_ray.generate.types import SyntheticImage


@dataclass(frozen=True)
class TrainInputs:
    """One object's real photos, the real photos of others, and what was generated.

    A photo's `mask` is the mask the run uses, given or made. Both `positives` and `negatives` are in the order of
    their image index.
    """

    object_id: str
    photos: tuple[Photo, ...]
    others: tuple[Photo, ...]
    positives: Sequence[SyntheticImage]
    negatives: Sequence[SyntheticImage]
