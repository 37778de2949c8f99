"""Writers that race each other on one key."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from persrep_ray.storage.store import ConflictError, Store

ROUNDS = 200


def test_of_two_writers_exactly_one_wins_each_round(store: Store) -> None:
    barrier = Barrier(2)

    def write(content: bytes, tag: str | None) -> str | None:
        barrier.wait()
        try:
            return store.write_if("pointer", content, tag)
        except ConflictError:
            return None

    tag: str | None = None
    with ThreadPoolExecutor(2) as pool:
        for number in range(ROUNDS):
            contents = [f"{writer} {number}".encode() * 100 for writer in "ab"]
            tags = list(pool.map(write, contents, [tag, tag]))
            winners = [writer for writer in range(2) if tags[writer] is not None]
            assert len(winners) == 1
            tag = tags[winners[0]]
            assert store.read_tagged("pointer") == (contents[winners[0]], tag)


def test_no_increment_is_lost(store: Store) -> None:
    """Several writers that try again until they win: the counter counts all of them."""
    store.write_if("counter", b"0", None)

    def increment(times: int) -> None:
        while times:
            data, tag = store.read_tagged("counter")
            try:
                store.write_if("counter", str(int(data) + 1).encode(), tag)
                times -= 1
            except ConflictError:
                continue

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(increment, [10] * 4))
    assert store.read("counter") == b"40"
