"""What a generator takes, what it makes, and what a run must know about it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from persrep_ray.config import GeneratorName, RunConfig
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.distributed.resources import Demand, PoolSize
from persrep_ray.storage.files import File

if TYPE_CHECKING:
    from persrep_ray.distributed.streaming import Item, Worker

Role = Literal["positive", "negative"]

ROLES: tuple[Role, ...] = get_args(Role)


def seed_of(*parts: object) -> int:
    """A 63-bit seed for whatever `parts` name; it is the same in every process and on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def image_seed(seed: int, object_id: str, role: Role, index: int) -> int:
    """The seed of an image of a run."""
    return seed_of(seed, object_id, role, index)


@dataclass(frozen=True)
class Chunk:
    """The images `start … start + count - 1` of one object and one role, made by one generator.

    Image `i` depends only on (`seed`, `object_id`, `role`, `i`), so it does not matter where chunks are cut.
    """

    object_id: str
    role: Role
    start: int
    count: int
    seed: int
    generator: GeneratorName

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"object {self.object_id}: role must be one of {', '.join(ROLES)}, got {self.role!r}")
        if self.start < 0 or self.count < 0 or self.seed < 0:
            raise ValueError(
                f"object {self.object_id}: start, count and seed of a chunk must not be negative, "
                f"got {self.start}, {self.count}, {self.seed}"
            )

    @property
    def indices(self) -> range:
        return range(self.start, self.start + self.count)


@dataclass
class SyntheticImage:
    """A synthetic image of an object (positive), or of something to tell it apart from (negative).

    Attributes:
        score: how alike a sampled positive is to the object's photos; it passed the filter.
        source_id: what is shown: the object's id in a positive, in a negative another object's id, a category, or the
            name of the scene or image.
        source_photo: the index of the train photo of `source_id` that the pixels come from, None if there is none.
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, the visible pixels of `source_id`; empty if a negative shows no known object.
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


class Package(NamedTuple):
    """A package that is not always installed: the setting that needs it, its name, and the command to install it."""

    needed_by: str
    name: str
    command: str


class Stage(NamedTuple):
    """A pool of actors. `worker(config, manifest, folder, prepared)` is built in each of them."""

    demand: Demand
    worker: Callable[..., Worker]


@dataclass(frozen=True)
class GeneratorInputs:
    """What a generator may use besides the objects' photos.

    Attributes:
        categories: those of the objects to generate for.
        backgrounds: the user's photos to paste objects onto.
        negatives: the user's photos of other objects.
        warn: shows a message to the user.
    """

    folder: RunFolder
    categories: Sequence[str | None]
    backgrounds: Sequence[File]
    negatives: Sequence[File]
    warn: Callable[[str], None]


class Generator(ABC):
    """What a run must know about a generator. Only `stages` must be written: most generators need little else.

    A generator is a folder next to this file; its `generator.py` holds its subclass, and `generators.py` lists it.
    The driver imports every subclass, so heavy imports belong in the workers.

    Attributes:
        uses_photos: whether it uses the photos of `--backgrounds` and `--negatives`.
        preparation: what happens to an object before its first image, as the progress line calls it; None if nothing.
    """

    uses_photos: ClassVar[bool] = False
    preparation: ClassVar[str | None] = None

    def __init__(self, config: RunConfig) -> None:
        self.config = config

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """The pools that `items` go through. The workers of the last pool are `workers.ChunkWorker`s."""

    def packages(self) -> Sequence[Package]:
        """What must be installed."""
        return ()

    def digests(self) -> dict[str, str]:
        """Digests of the files that its settings name, by setting, so that a resumed run notices a change.

        Raises ConfigError for what cannot be read.
        """
        return {}

    def prepare(self, inputs: GeneratorInputs) -> Any:
        """Makes the last argument of its workers; called once, in the driver. Raises ConfigError."""
        return None

    def items(self, chunks: Sequence[Chunk]) -> list[Item]:
        """The work on `chunks` as items for the first stage, in their order; by default an item per chunk."""
        return [asdict(chunk) for chunk in chunks]

    def warnings(self, pools: Mapping[str, PoolSize]) -> list[str]:
        """What the user may not expect of the pools that were planned."""
        return []

    def why_unusable(self, folder: RunFolder, object_id: str, positives: Sequence[Chunk]) -> str | None:
        """Says why an object cannot be trained on its finished chunks of `positives`; None if it can.

        Raises ShardError for a shard that cannot be read.
        """
        return None

    def clean_up(self, folder: RunFolder, object_id: str) -> None:  # noqa: B027 (most generators leave nothing behind)
        """Removes what is not needed once the last image of an object is made or given up; may be called again."""

    def seconds(self, folder: RunFolder, object_id: str) -> dict[str, float | None]:
        """The seconds of work on an object that its shards do not count, by name, for `summary.json`."""
        return {}

    def summary(self, folder: RunFolder, object_id: str) -> dict[str, Any]:
        """What else `summary.json` says of an object."""
        return {}
