"""Which other objects an object is told apart from: its negatives in training, its distractors in evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from persrep_ray.data import bank
from persrep_ray.data.objects import Manifest, ObjectPhotos, Photo
from persrep_ray.storage.files import File

_FEW = 16  # an object with fewer other objects is also told apart from things of the bank
_CHECKS_PER_THING = 2  # held-out things of the bank for every thing that is trained on
_PHOTOS_PER_OTHER = 4  # that a neighbour may have, so that an object with hundreds does not outweigh the rest
_MOST_HELD_OUT = 16  # of the user's negatives


def choose_distractors(object_id: str, categories: Mapping[str, str | None], most: int, seed: int) -> list[str]:
    """At most `most` other ids of `categories` (id -> category or None), those of the same category first.

    The choice depends on the arguments alone. Within a category it is random, so that the objects of a large run do not
    all get the same distractors. It is bounded, so that the work per object does not grow with the run.
    """
    mine = categories.get(object_id)

    def rank(other: str) -> tuple[bool, bytes]:
        alike = mine is not None and categories[other] == mine
        return not alike, _draw(seed, object_id, other)

    return sorted((other for other in categories if other != object_id), key=rank)[:most]


class Neighbours:
    """The other objects of a run and their photos, as generation and training use them for an object.

    Where a run has few objects, things of the bank join them.

    Attributes:
        objects: the objects of the run that have train photos, and the things of the bank, by id.
        categories: theirs.
    """

    def __init__(self, manifest: Manifest, most: int, seed: int) -> None:
        """`most` is the largest number of other objects."""
        self._most, self._seed = most, seed
        self._run = {one.object_id: one.category for one in manifest.objects.values() if one.train}
        self._group_of = {photo.path: number for number, group in enumerate(manifest.duplicates) for photo in group}
        things, self._checks = bank.things("negatives"), bank.things("cohort")
        self.objects = {object_id: manifest.objects[object_id] for object_id in self._run} | things
        self.categories = {object_id: one.category for object_id, one in self.objects.items()}

    def of(self, object_id: str) -> dict[str, tuple[int, ...]]:
        """The ids of the other objects, and the indices of the train photos that each contributes.

        A photo that is also a photo of the object itself is left out.
        """
        others = choose_distractors(object_id, self._run, self._most, self._seed)
        others += self._from_bank(object_id, self.categories, self._wanted(object_id))
        subject = self.objects[object_id]
        own = {self._group_of.get(photo.path) for photo in (*subject.train, *subject.test)} - {None}
        chosen = {other: self._photos(self.objects[other], own) for other in others}
        return {other: indices for other, indices in chosen.items() if indices}

    def checks(self, object_id: str) -> list[Photo]:
        """Photos of things that no object is trained on, for the checks of an object with few other objects."""
        categories = {one.object_id: one.category for one in self._checks.values()}
        wanted = _CHECKS_PER_THING * self._wanted(object_id)
        return [self._checks[thing].train[0] for thing in self._from_bank(object_id, categories, wanted)]

    def _wanted(self, object_id: str) -> int:
        """How many things of the bank join the other objects of `object_id`."""
        return max(0, min(_FEW, self._most) - (len(self._run) - (object_id in self._run)))

    def _from_bank(self, object_id: str, categories: Mapping[str, str | None], count: int) -> list[str]:
        things = {one: category for one, category in categories.items() if one not in self._run}
        return choose_distractors(object_id, {**things, object_id: self.categories[object_id]}, count, self._seed)

    def _photos(self, other: ObjectPhotos, without: set[int | None]) -> tuple[int, ...]:
        """An even draw of the photos of another object, which is the same for all its neighbours."""
        allowed = [i for i, photo in enumerate(other.train) if self._group_of.get(photo.path) not in without]
        drawn = sorted(allowed, key=lambda i: _draw(self._seed, other.object_id, other.train[i].path.name))
        return tuple(sorted(drawn[:_PHOTOS_PER_OTHER]))


def split_negatives(files: Sequence[File]) -> tuple[list[File], list[File]]:
    """Divides the user's photos of other things into those to train on and those that check adapters.

    An even draw of a quarter of them, at most 16, is for the checks; of fewer than four photos none is.
    """
    drawn = sorted(files, key=lambda file: (_draw("negatives", file.name), str(file)))
    held_out = set(drawn[: min(len(files) // 4, _MOST_HELD_OUT)])
    return [file for file in files if file not in held_out], [file for file in files if file in held_out]


def _draw(*parts: object) -> bytes:
    """Sorting by it is a random draw that depends on `parts` alone."""
    return hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
