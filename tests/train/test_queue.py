"""Leases: whatever dies at any time, no object is lost and none is trained twice at a time."""

from __future__ import annotations

from persrep_ray.distributed.outcome import Outcome
from persrep_ray.train.queue import WorkQueue


def queue_of(*object_ids: str, max_attempts: int = 2) -> WorkQueue:
    queue = WorkQueue(max_attempts)
    for object_id in object_ids:
        queue.put(object_id)
    return queue


def test_objects_are_leased_in_order_and_once() -> None:
    queue = queue_of("a", "b")
    queue.put("a")
    assert [queue.lease("one"), queue.lease("two"), queue.lease("three")] == ["a", "b", None]


def test_it_is_finished_once_it_is_closed_and_every_lease_has_ended() -> None:
    queue = queue_of("a")
    assert not queue.finished()
    queue.lease("one")
    queue.close()
    assert not queue.finished()
    queue.end("one", Outcome("a"))
    assert queue.finished()


def test_an_empty_queue_is_not_finished_before_it_is_closed() -> None:
    queue = queue_of()
    assert not queue.finished()
    queue.close()
    assert queue.finished()


def test_outcomes_are_handed_over_once() -> None:
    queue = queue_of("a")
    queue.lease("one")
    queue.end("one", Outcome("a", "no good"))
    assert queue.snapshot(drain=False).outcomes == [Outcome("a", "no good")]
    assert queue.snapshot().outcomes == [Outcome("a", "no good")]
    assert queue.snapshot().outcomes == []


def test_a_released_object_is_next() -> None:
    queue = queue_of("a", "b")
    queue.lease("one")
    queue.release("one")
    assert queue.lease("two") == "a"


def test_leasing_gives_back_the_object_that_the_owner_held() -> None:
    queue = queue_of("a", "b")
    assert queue.lease("one") == "a"
    assert queue.lease("one") == "a"
    assert queue.snapshot().leased == 1


def test_an_object_whose_workers_keep_dying_fails_and_the_next_one_is_served() -> None:
    queue = queue_of("poison", "b", max_attempts=2)
    assert queue.lease("one") == "poison"
    assert queue.lease("one") == "poison"
    assert queue.lease("one") == "b"
    (outcome,) = queue.snapshot().outcomes
    assert outcome.object_id == "poison"
    assert "2 times" in (outcome.error or "")


def test_the_end_of_a_lost_lease_does_not_count() -> None:
    queue = queue_of("a", "b")
    queue.lease("one")
    queue.release("one")
    assert queue.lease("two") == "a"
    queue.end("one", Outcome("a"))
    assert queue.snapshot().outcomes == []
    queue.end("two", Outcome("a"))
    assert queue.snapshot().outcomes == [Outcome("a")]


def test_images_of_all_leases_add_up_lost_leases_included() -> None:
    queue = queue_of("a", "b")
    queue.lease("one")
    queue.lease("two")
    queue.progress("one", "a", 10)
    queue.progress("two", "b", 5)
    queue.progress("two", "a", 99)
    assert queue.snapshot().images == 15
    queue.release("one")
    queue.lease("one")
    queue.progress("one", "a", 3)
    assert queue.snapshot().images == 18


def test_a_broken_owner_gives_its_object_back_and_says_why() -> None:
    queue = queue_of("a")
    queue.lease("one")
    queue.broken("one", "no such backbone")
    snapshot = queue.snapshot()
    assert (snapshot.broken, snapshot.waiting, snapshot.leased) == ({"one": "no such backbone"}, 1, 0)


def test_it_counts_what_an_owner_has_ended() -> None:
    queue = queue_of("a", "b")
    for name in "ab":
        queue.lease("cell")
        queue.end("cell", Outcome(name))
    queue.end("cell", Outcome("b"))
    assert queue.snapshot().ended == {"cell": 2}


def test_giving_up_fails_everything_that_has_not_ended() -> None:
    queue = queue_of("a", "b", "c")
    queue.lease("one")
    queue.end("one", Outcome("a"))
    queue.lease("one")
    queue.close()
    queue.give_up("all cells are gone")
    assert {one.object_id: one.error for one in queue.snapshot().outcomes} == {
        "a": None,
        "b": "all cells are gone",
        "c": "all cells are gone",
    }
    assert queue.finished()
