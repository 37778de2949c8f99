"""Which objects are tried, and which of them are recognised."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from persrep_ray.serving.engine.answers import AdapterRef, Candidate, Classification
from persrep_ray.serving.engine.errors import AdapterUnusableError, RegistryUnavailableError, VersionNotFoundError
from persrep_ray.serving.engine.identify import PrototypeIndex, recognised
from persrep_ray.tasks.features import normalize

WIDTH = 8


class Storage:
    """Prototypes by adapter. An exception in their place is raised. It records what is read."""

    def __init__(self, **photos: int) -> None:
        self.reads: list[str] = []
        self.rows: dict[AdapterRef, np.ndarray | Exception] = {}
        for object_id, count in photos.items():
            self.add(object_id, count)

    def add(self, object_id: str, photos: int = 3, version: str = "v1") -> AdapterRef:
        generator = np.random.default_rng(list(f"{object_id} {version}".encode()))
        ref = AdapterRef(object_id, version)
        self.rows[ref] = normalize(generator.standard_normal((photos, WIDTH)))
        return ref

    def refs(self) -> tuple[AdapterRef, ...]:
        return tuple(sorted(self.rows, key=lambda ref: ref.object_id))

    def __call__(self, ref: AdapterRef) -> np.ndarray:
        self.reads.append(ref.object_id)
        rows = self.rows[ref]
        if isinstance(rows, Exception):
            raise rows
        return rows

    def best(self, cls: np.ndarray, allowed: str = "") -> list[str]:
        """All ids, most similar first, by a plain search."""
        scores = {
            ref.object_id: max(float(row @ cls / np.linalg.norm(cls)) for row in rows)
            for ref, rows in self.rows.items()
            if isinstance(rows, np.ndarray) and ref.object_id.startswith(allowed)
        }
        return sorted(scores, key=lambda object_id: -scores[object_id])


@pytest.fixture
def storage() -> Storage:
    return Storage(bowl=1, cup=3, cup_2=2, jar=5, mug=1, pan=4)


@pytest.fixture
def index(storage: Storage) -> PrototypeIndex:
    index = PrototypeIndex(storage)
    index.update(storage.refs())
    return index


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32) * 7


def ids(refs: list[AdapterRef]) -> list[str]:
    return [ref.object_id for ref in refs]


@pytest.mark.parametrize("seed", range(10))
def test_the_shortlist_equals_a_plain_search(storage: Storage, index: PrototypeIndex, seed: int) -> None:
    cls = image(seed)
    for most in (1, 3, 6, 100):
        assert ids(index.shortlist(cls, [""], most)) == storage.best(cls)[:most]
    assert ids(index.shortlist(cls, ["cup"], 5)) == storage.best(cls, "cup")
    assert (
        ids(index.shortlist(cls, ["mug", "cup"], 1))
        == [object_id for object_id in storage.best(cls) if object_id.startswith(("mug", "cup"))][:1]
    )


def test_only_objects_of_the_prefixes(index: PrototypeIndex) -> None:
    for prefixes in (["nobody"], []):
        assert index.refs(prefixes) == index.shortlist(image(0), prefixes, 5) == []
        assert index.count(prefixes) == 0
    assert ids(index.refs(["cup", "bowl"])) == ["bowl", "cup", "cup_2"] and index.count(["cup", "bowl"]) == 3
    assert index.count([""]) == len(index.refs([""])) == 6


def test_an_empty_index_knows_nobody(storage: Storage) -> None:
    index = PrototypeIndex(storage)
    for _ in range(2):
        assert index.shortlist(image(0), [""], 3) == index.refs([""]) == [] and index.count([""]) == 0
        index.update(())


def test_only_what_is_new_is_read_and_what_is_gone_is_forgotten(storage: Storage, index: PrototypeIndex) -> None:
    storage.reads.clear()
    del storage.rows[AdapterRef("mug", "v1")]
    storage.add("mug", 2, "v2")
    storage.add("pot")
    del storage.rows[AdapterRef("bowl", "v1")]
    index.update(storage.refs())
    assert storage.reads == ["mug", "pot"]
    assert index.refs([""]) == list(storage.refs())
    cls = image(1)
    assert ids(index.shortlist(cls, [""], 9)) == storage.best(cls)
    index.update(())
    assert index.refs([""]) == []


def test_prototypes_are_held_once(storage: Storage, index: PrototypeIndex) -> None:
    index.update((*storage.refs(), storage.add("pot")))
    held = [rows for rows in index._rows.values() if rows is not None]
    assert len(held) == 7 and all(rows.base is index._snapshot.rows for rows in held)


def test_who_cannot_be_used_is_left_out_and_not_read_again(storage: Storage) -> None:
    storage.rows[AdapterRef("cup", "v1")] = AdapterUnusableError("damaged")
    index = PrototypeIndex(storage)
    index.update(storage.refs())
    index.update(storage.refs())
    assert "cup" not in ids(index.refs([""])) and index.count([""]) == 5
    assert storage.reads.count("cup") == 1
    cls = image(2)
    assert ids(index.shortlist(cls, [""], 9)) == storage.best(cls)


def test_who_was_just_deleted_is_left_out(storage: Storage) -> None:
    storage.rows[AdapterRef("cup", "v1")] = VersionNotFoundError("gone")
    index = PrototypeIndex(storage)
    index.update(storage.refs())
    assert "cup" not in ids(index.refs([""]))


def test_what_cannot_be_read_now_is_an_error_and_is_all_that_is_read_again(storage: Storage) -> None:
    rows = storage.rows[AdapterRef("cup", "v1")]
    storage.rows[AdapterRef("cup", "v1")] = RegistryUnavailableError("away")
    index = PrototypeIndex(storage)
    with pytest.raises(RegistryUnavailableError, match="away"):
        index.update(storage.refs())
    assert sorted(storage.reads) == ["bowl", "cup", "cup_2", "jar", "mug", "pan"]

    storage.rows[AdapterRef("cup", "v1")] = rows
    storage.reads.clear()
    index.update(storage.refs())
    assert storage.reads == ["cup"] and index.count([""]) == 6


def test_a_registry_that_goes_away_takes_nobody_out_of_the_index(storage: Storage, index: PrototypeIndex) -> None:
    storage.rows[AdapterRef("pot", "v1")] = RegistryUnavailableError("away")
    with pytest.raises(RegistryUnavailableError):
        index.update(storage.refs())
    assert index.count([""]) == 6


def test_an_unexpected_error_leaves_the_index_as_it_was(storage: Storage, index: PrototypeIndex) -> None:
    storage.rows[AdapterRef("pot", "v1")] = KeyError("odd")
    with pytest.raises(KeyError):
        index.update(storage.refs())
    del storage.rows[AdapterRef("pot", "v1")]
    assert index.count([""]) == 6 and ids(index.shortlist(image(0), [""], 9)) == storage.best(image(0))


def test_searches_while_it_is_updated_see_a_whole_index(storage: Storage) -> None:
    old, new = storage.refs(), (*storage.refs(), storage.add("zebra", 4))
    index = PrototypeIndex(storage)
    index.update(old)
    cls = image(3)
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


def tried(object_id: str, evidence: float) -> Candidate:
    probability = 1 / (1 + np.exp(-evidence))
    return Candidate(AdapterRef(object_id, "v1"), Classification(0.5, probability, evidence=evidence))


def old(object_id: str, score: float) -> Candidate:
    """A candidate that was published before there were recognizers."""
    return Candidate(AdapterRef(object_id, "v1"), Classification(score, probability=score, threshold=0.6))


class TestRecognised:
    def test_evidence_has_to_outweigh_the_number_of_objects(self) -> None:
        for known, weighed in ((1, 1), (10, 10), (100_000, 100)):
            needed = float(np.log(weighed))
            (found,) = recognised([tried("mug", needed + 0.01), tried("cup", -9)], known)
            assert found.ref.object_id == "mug" and 0.5 <= found.classification.probability < 0.51
            assert recognised([tried("mug", needed - 0.01)], known) == []

    def test_two_objects_that_look_the_same_share_their_probability(self) -> None:
        found = recognised([tried("mug", 8), tried("twin", 8.5), tried("cup", 0)], 10)
        assert [one.ref.object_id for one in found] == ["twin", "mug"]
        probabilities = [one.classification.probability for one in found]
        assert probabilities[1] == pytest.approx(probabilities[0] * np.exp(-0.5)) and 0.99 < sum(probabilities) < 1

    def test_objects_of_an_earlier_release_are_recognised_if_they_match(self) -> None:
        found = recognised([old("jug", 0.59), old("pot", 0.7), tried("mug", 8), tried("cup", -1)], 10)
        assert [one.ref.object_id for one in found] == ["mug", "pot"]
        assert found[1] == old("pot", 0.7)

    def test_nothing_tried_is_nothing_found(self) -> None:
        assert recognised([], 0) == []
