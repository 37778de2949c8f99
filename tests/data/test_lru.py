"""A cache keeps what was used last, within its limit."""

from __future__ import annotations

import numpy as np

from persrep_ray.data.lru import Lru, nbytes


def test_the_least_recently_used_value_is_given_up_first() -> None:
    cache: Lru[str, int] = Lru(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert cache.keys() == ["a", "c"]
    assert cache.get("b") is None


def test_a_limit_of_bytes() -> None:
    cache: Lru[str, np.ndarray] = Lru(100, size=nbytes)
    cache.put("a", np.zeros(60, np.uint8))
    cache.put("b", np.zeros(40, np.uint8))
    assert cache.keys() == ["a", "b"]
    cache.put("a", np.zeros(61, np.uint8))
    assert cache.keys() == ["a"], "replacing a value counts its new size"
    cache.put("huge", np.zeros(101, np.uint8))
    assert cache.keys() == [], "a value above the limit is not kept"


def test_a_value_is_made_once_even_if_it_is_none() -> None:
    cache: Lru[str, None] = Lru(2)
    made: list[str] = []
    for _ in range(2):
        assert cache.get_or("a", lambda: made.append("a")) is None
    assert made == ["a"]


def test_a_dropped_value_makes_room() -> None:
    cache: Lru[str, int] = Lru(2)
    for key in "ab":
        cache.put(key, 0)
    cache.drop("a")
    cache.drop("absent")
    cache.put("c", 0)
    assert cache.keys() == ["b", "c"]
