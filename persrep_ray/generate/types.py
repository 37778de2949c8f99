"""What every generator takes and gives."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

Role = Literal["positive", "negative"]
GeneratorName = Literal["cut_paste", "dreambooth"]

ROLES: tuple[str, ...] = get_args(Role)


def seed_of(*parts: object) -> int:
    """A seed, 63 bits, for what `parts` name: the same in every process and on every machine, whatever the chunking."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def image_seed(seed: int, object_id: str, role: Role, index: int) -> int:
    """The seed of one image of a run."""
    return seed_of(seed, object_id, role, index)


@dataclass(frozen=True)
class Chunk:
    """Images `start … start + count - 1` of one object and one role, by one generator.

    Image `i` depends on (`seed`, `object_id`, `role`, `i`) alone, so a request may be cut into chunks anywhere.
    """

    object_id: str
    role: Role
    start: int
    count: int
    seed: int
    generator: GeneratorName = "cut_paste"

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"object {self.object_id}: role must be one of {', '.join(ROLES)}, got {self.role!r}")
        if self.start < 0 or self.count < 0 or self.seed < 0:
            raise ValueError(
                f"object {self.object_id}: start, count and seed of a request must not be negative, "
                f"got {self.start}, {self.count}, {self.seed}"
            )


@dataclass
class SyntheticImage:
    """One generated picture of (or against) an object.

    `image` is (S, S, 3) uint8 RGB; `mask` (S, S) bool marks the visible pixels of what `source_id` names: the object
    itself in a positive, another object in a negative, nothing where the negative shows no known object.
    `source_photo` is the index of the source's train photo whose pixels these are, None where there is none. `score` is
    the likeness by which a sampled positive passed the filter.
    """

    object_id: str
    role: Role
    generator: str
    prompt: str | None
    seed: int
    score: float | None
    source_id: str
    source_photo: int | None
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]


class Generator(Protocol):
    """Loads what it needs in `__init__`; `generate` is deterministic in the request."""

    def generate(self, request: Chunk) -> list[SyntheticImage]: ...
