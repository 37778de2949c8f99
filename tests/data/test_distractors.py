"""What an object is told apart from: its neighbours in the run, and things of the bank where there are few."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from persrep_ray.data import bank
from persrep_ray.data.distractors import Neighbours, split_negatives
from persrep_ray.data.objects import Manifest, ObjectPhotos, Photo


def objects(count: int, photos: int = 3, category: str | None = None) -> dict[str, ObjectPhotos]:
    names = [f"o{number:02d}" for number in range(count)]
    return {
        name: ObjectPhotos(
            name, category, tuple(Photo(name, Path(f"/{name}/{i:03d}.jpg"), None, None) for i in range(photos)), ()
        )
        for name in names
    }


def neighbours(
    manifest: dict[str, ObjectPhotos], *groups: tuple[Photo, ...], most: int = 32, seed: int = 0
) -> Neighbours:
    return Neighbours(Manifest(Path("/"), manifest, (), groups), most, seed)


def test_an_object_alone_is_told_apart_from_the_bank_and_checked_on_the_rest_of_it() -> None:
    alone = neighbours(objects(1))
    assert len(alone.of("o00")) == 16 and set(alone.of("o00")) <= set(bank.things("negatives"))
    checks = alone.checks("o00")
    assert len(checks) == len(set(checks)) == 32
    assert {photo.object_id for photo in checks} <= set(bank.things("cohort"))
    assert alone.of("o00") == neighbours(objects(1)).of("o00") != neighbours(objects(1), seed=1).of("o00")


def test_the_bank_steps_back_as_the_run_grows() -> None:
    counts = {}
    for others in (0, 1, 15, 16, 40):
        some = neighbours(objects(1 + others))
        counts[others] = (sum(one.startswith("bank:") for one in some.of("o00")), len(some.checks("o00")))
    assert counts == {0: (16, 32), 1: (15, 30), 15: (1, 2), 16: (0, 0), 40: (0, 0)}
    assert neighbours(objects(1), most=0).of("o00") == {}


def test_things_of_the_objects_category_come_first() -> None:
    assert "bank:cup_0" in neighbours(objects(1, category="cup")).of("o00")
    assert neighbours(objects(1, category="cup")).checks("o00")[0].object_id == "bank:cup_1"


def test_an_object_with_hundreds_of_photos_lends_a_few_drawn_evenly() -> None:
    run = objects(3, photos=3) | {"big": ObjectPhotos("big", None, objects(1, photos=500)["o00"].train, ())}
    drawn: Counter[int] = Counter()
    for seed in range(60):
        chosen = neighbours(run, seed=seed)
        assert len(chosen.of("o00")["big"]) == 4 and len(chosen.of("o00")["o01"]) == 3
        assert chosen.of("o00")["big"] == chosen.of("o01")["big"], "neighbours share what is computed for a photo"
        drawn.update(chosen.of("o00")["big"])
    quarters = [sum(drawn[i] for i in range(start, start + 125)) for start in range(0, 500, 125)]
    assert sum(quarters) == 240 and all(40 < quarter < 80 for quarter in quarters)


def test_a_photo_that_is_in_two_objects_is_a_negative_of_neither() -> None:
    run = objects(3)
    a, b = run["o00"].train[1], run["o01"].train[2]
    some = neighbours(run, (a, b))
    assert some.of("o00")["o01"] == (0, 1) and some.of("o01")["o00"] == (0, 2)
    assert some.of("o02")["o00"] == some.of("o02")["o01"] == (0, 1, 2)
    only = {**run, "o01": ObjectPhotos("o01", None, (b,), ())}
    assert "o01" not in neighbours(only, (a, b)).of("o00"), "no photo is left"


def test_a_test_photo_of_the_object_is_no_negative_either() -> None:
    run = objects(2)
    test = Photo("o00", Path("/o00/test.jpg"), None, None)
    run["o00"] = ObjectPhotos("o00", None, run["o00"].train, (test,))
    assert neighbours(run, (test, run["o01"].train[0])).of("o00")["o01"] == (1, 2)


def test_a_quarter_of_the_users_negatives_is_held_out() -> None:
    files = [Path(f"/negatives/{number}.jpg") for number in range(100)]
    for count, held in ((0, 0), (3, 0), (4, 1), (40, 10), (100, 16)):
        training, checks = split_negatives(files[:count])
        assert len(checks) == held and sorted([*training, *checks]) == sorted(files[:count])
    assert split_negatives(files) == split_negatives(files)
