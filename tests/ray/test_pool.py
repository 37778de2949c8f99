"""The pool that takes an object per call, on a real local cluster."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from persrep_ray.distributed.outcome import Outcome
from persrep_ray.distributed.pool import ObjectPool
from persrep_ray.distributed.streaming import Pool

PATIENCE_S = 120


class Worker:
    """Its call ends once as many actors as `together` are at work; the object `dies` kills its actor once."""

    def __init__(self, folder: Path, together: int) -> None:
        self._folder = folder
        self._together = together

    def __call__(self, object_id: str) -> dict[str, Any]:
        if object_id == "fails":
            raise ValueError("no good")
        if object_id == "dies" and not (self._folder / "died").exists():
            (self._folder / "died").touch()
            os._exit(1)
        (self._folder / f"actor-{os.getpid()}").touch()
        give_up = time.monotonic() + PATIENCE_S
        while len(list(self._folder.glob("actor-*"))) < self._together:
            assert time.monotonic() < give_up, "the other actor never came"
            time.sleep(0.01)
        return {"pid": os.getpid()}


@pytest.fixture(autouse=True)
def by_value() -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def pool_of(folder: Path, together: int, actors: int = 1) -> ObjectPool:
    return ObjectPool(Pool(Worker, [ray.put(folder), ray.put(together)], actors, cpus=0.5))


def ended(pool: ObjectPool, count: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    give_up = time.monotonic() + PATIENCE_S
    while len(outcomes) < count:
        assert time.monotonic() < give_up, f"only {outcomes} ended"
        outcomes += pool.poll(timeout=1)
    return sorted(outcomes, key=lambda outcome: outcome.object_id)


def test_it_grows_to_the_objects_that_wait_and_no_further(cluster: None, tmp_path: Path) -> None:
    pool = pool_of(tmp_path, together=2)
    pool.grow(4)  # no object waits
    for object_id in "abc":
        pool.submit(object_id)
    for _ in range(3):
        pool.grow(2)
    outcomes = ended(pool, 3)
    assert [(outcome.object_id, outcome.error) for outcome in outcomes] == [("a", None), ("b", None), ("c", None)]
    assert len({outcome.report["pid"] for outcome in outcomes}) == 2
    assert len(list(tmp_path.glob("actor-*"))) == 2


def test_an_actor_without_room_holds_no_object_back(cluster: None, tmp_path: Path) -> None:
    pool = ObjectPool(Pool(Worker, [ray.put(tmp_path), ray.put(1)], 1, cpus=2.0))  # all that the cluster has
    for object_id in "abc":
        pool.submit(object_id)
    pool.grow(2)
    assert len({outcome.report["pid"] for outcome in ended(pool, 3)}) == 1


def test_a_failure_and_a_death_affect_no_other_object(cluster: None, tmp_path: Path) -> None:
    pool = pool_of(tmp_path, together=1)
    for object_id in ("dies", "fails", "works"):
        pool.submit(object_id)
    outcomes = ended(pool, 3)
    assert [(outcome.object_id, outcome.error) for outcome in outcomes] == [
        ("dies", None),
        ("fails", "no good"),
        ("works", None),
    ]
