"""Which other objects an object is told apart from: its negatives in training, its distractors in evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def choose_distractors(object_id: str, categories: Mapping[str, str | None], most: int, seed: int) -> list[str]:
    """At most `most` other ids of `categories` (id -> category or None), those of the same category first.

    The choice depends on the arguments alone. Within a category it is random, so that the objects of a large run do not
    all get the same distractors. It is bounded, so that the work per object does not grow with the run.
    """
    mine = categories.get(object_id)

    def rank(other: str) -> tuple[bool, bytes]:
        alike = mine is not None and categories[other] == mine
        return not alike, hashlib.blake2b(f"{seed}/{object_id}/{other}".encode(), digest_size=8).digest()

    return sorted((other for other in categories if other != object_id), key=rank)[:most]
