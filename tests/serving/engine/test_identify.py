"""The index that chooses whom to try."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from persrep_ray.serving.engine.answers import AdapterRef
from persrep_ray.serving.engine.errors import AdapterUnusableError, RegistryUnavailableError, VersionNotFoundError
from persrep_ray.serving.engine.identify import PrototypeIndex
from persrep_ray.tasks.features import normalize

WIDTH = 8


class Storage:
    """Prototypes by target; an exception in their place is raised. Records what is read."""

    def __init__(self, **photos: int) -> None:
        self.reads: list[str] = []
        self.rows: dict[AdapterRef, np.ndarray | Exception] = {}
        for object_id, count in photos.items():
            self.add(object_id, count)

    def add(self, object_id: str, photos: int = 3, version: str = "v1") -> AdapterRef:
        generator = np.random.default_rng(list(f"{object_id} {version}".encode()))
        target = AdapterRef(object_id, version)
        self.rows[target] = normalize(generator.standard_normal((photos, WIDTH)))
        return target

    def targets(self) -> tuple[AdapterRef, ...]:
        return tuple(sorted(self.rows, key=lambda target: target.object_id))

    def __call__(self, target: AdapterRef) -> np.ndarray:
        self.reads.append(target.object_id)
        rows = self.rows[target]
        if isinstance(rows, Exception):
            raise rows
        return rows

    def best(self, cls: np.ndarray, allowed: str = "") -> list[str]:
        """All ids, most alike first, by the plainest means."""
        scores = {
            target.object_id: max(float(row @ cls / np.linalg.norm(cls)) for row in rows)
            for target, rows in self.rows.items()
            if isinstance(rows, np.ndarray) and target.object_id.startswith(allowed)
        }
        return sorted(scores, key=lambda object_id: -scores[object_id])


@pytest.fixture
def storage() -> Storage:
    return Storage(bowl=1, cup=3, cup_2=2, jar=5, mug=1, pan=4)


@pytest.fixture
def index(storage: Storage) -> PrototypeIndex:
    index = PrototypeIndex(storage)
    index.update(storage.targets())
    return index


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32) * 7


def ids(targets: list[AdapterRef]) -> list[str]:
    return [target.object_id for target in targets]


@pytest.mark.parametrize("seed", range(10))
def test_the_shortlist_equals_a_plain_search(storage: Storage, index: PrototypeIndex, seed: int) -> None:
    cls = picture(seed)
    for most in (1, 3, 6, 100):
        assert ids(index.shortlist(cls, [""], most)) == storage.best(cls)[:most]
    assert ids(index.shortlist(cls, ["cup"], 5)) == storage.best(cls, "cup")
    assert (
        ids(index.shortlist(cls, ["mug", "cup"], 1))
        == [object_id for object_id in storage.best(cls) if object_id.startswith(("mug", "cup"))][:1]
    )


def test_only_objects_of_the_prefixes(index: PrototypeIndex) -> None:
    for prefixes in (["nobody"], []):
        assert index.targets(prefixes) == index.shortlist(picture(0), prefixes, 5) == []
        assert index.count(prefixes) == 0
    assert ids(index.targets(["cup", "bowl"])) == ["bowl", "cup", "cup_2"] and index.count(["cup", "bowl"]) == 3
    assert index.count([""]) == len(index.targets([""])) == 6


def test_an_empty_index_knows_nobody(storage: Storage) -> None:
    index = PrototypeIndex(storage)
    for _ in range(2):
        assert index.shortlist(picture(0), [""], 3) == index.targets([""]) == [] and index.count([""]) == 0
        index.update(())


def test_only_what_is_new_is_read_and_what_is_gone_is_forgotten(storage: Storage, index: PrototypeIndex) -> None:
    storage.reads.clear()
    del storage.rows[AdapterRef("mug", "v1")]
    storage.add("mug", 2, "v2")
    storage.add("pot")
    del storage.rows[AdapterRef("bowl", "v1")]
    index.update(storage.targets())
    assert storage.reads == ["mug", "pot"]
    assert index.targets([""]) == list(storage.targets())
    cls = picture(1)
    assert ids(index.shortlist(cls, [""], 9)) == storage.best(cls)
    index.update(())
    assert index.targets([""]) == []


def test_prototypes_are_held_once(storage: Storage, index: PrototypeIndex) -> None:
    index.update((*storage.targets(), storage.add("pot")))
    held = [rows for rows in index._rows.values() if rows is not None]
    assert len(held) == 7 and all(rows.base is index._snapshot.rows for rows in held)


def test_who_cannot_be_used_is_left_out_and_not_read_again(storage: Storage) -> None:
    storage.rows[AdapterRef("cup", "v1")] = AdapterUnusableError("damaged")
    index = PrototypeIndex(storage)
    index.update(storage.targets())
    index.update(storage.targets())
    assert "cup" not in ids(index.targets([""])) and index.count([""]) == 5
    assert storage.reads.count("cup") == 1
    cls = picture(2)
    assert ids(index.shortlist(cls, [""], 9)) == storage.best(cls)


def test_who_was_just_deleted_is_left_out(storage: Storage) -> None:
    storage.rows[AdapterRef("cup", "v1")] = VersionNotFoundError("gone")
    index = PrototypeIndex(storage)
    index.update(storage.targets())
    assert "cup" not in ids(index.targets([""]))


def test_what_cannot_be_read_now_is_an_error_and_is_all_that_is_read_again(storage: Storage) -> None:
    rows = storage.rows[AdapterRef("cup", "v1")]
    storage.rows[AdapterRef("cup", "v1")] = RegistryUnavailableError("away")
    index = PrototypeIndex(storage)
    with pytest.raises(RegistryUnavailableError, match="away"):
        index.update(storage.targets())
    assert sorted(storage.reads) == ["bowl", "cup", "cup_2", "jar", "mug", "pan"]

    storage.rows[AdapterRef("cup", "v1")] = rows
    storage.reads.clear()
    index.update(storage.targets())
    assert storage.reads == ["cup"] and index.count([""]) == 6


def test_a_registry_that_goes_away_takes_nobody_out_of_the_index(storage: Storage, index: PrototypeIndex) -> None:
    storage.rows[AdapterRef("pot", "v1")] = RegistryUnavailableError("away")
    with pytest.raises(RegistryUnavailableError):
        index.update(storage.targets())
    assert index.count([""]) == 6


def test_an_unexpected_error_leaves_the_index_as_it_was(storage: Storage, index: PrototypeIndex) -> None:
    storage.rows[AdapterRef("pot", "v1")] = KeyError("odd")
    with pytest.raises(KeyError):
        index.update(storage.targets())
    del storage.rows[AdapterRef("pot", "v1")]
    assert index.count([""]) == 6 and ids(index.shortlist(picture(0), [""], 9)) == storage.best(picture(0))


def test_searches_while_it_is_updated_see_a_whole_index(storage: Storage) -> None:
    old, new = storage.targets(), (*storage.targets(), storage.add("zebra", 4))
    index = PrototypeIndex(storage)
    index.update(old)
    cls = picture(3)
    allowed = (storage.best(cls), [one for one in storage.best(cls) if one != "zebra"])
    stop = threading.Event()
    odd: list[list[str]] = []

    def search() -> None:
        while not stop.is_set():
            found = ids(index.shortlist(cls, [""], 9))
            if found not in allowed:
                odd.append(found)

    searcher = threading.Thread(target=search)
    searcher.start()
    for _ in range(100):
        index.update(new)
        index.update(old)
    stop.set()
    searcher.join()
    assert odd == []
