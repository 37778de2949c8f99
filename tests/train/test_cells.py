"""How often a training cell is started again, with Ray replaced by plain calls."""

from __future__ import annotations

from typing import Any

import pytest

from persrep_ray.distributed.outcome import Outcome
from persrep_ray.train import cells as module
from persrep_ray.train.cells import Cells
from persrep_ray.train.queue import WorkQueue


class Remote:
    """An actor whose methods are called at once."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._value, name)
        return type("Method", (), {"remote": staticmethod(method)})


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> Cells:
    """One cell, whose task is its number, with five objects to train."""
    started: list[str] = []
    monkeypatch.setattr(module.ray, "get", lambda value: value)
    monkeypatch.setattr(Cells, "_start", lambda self, owner: started.append(owner) or len(started))
    cells = object.__new__(Cells)
    queue = WorkQueue(max_attempts=100)
    for name in "abcde":
        queue.put(name)
    cells._queue = Remote(queue)
    cells._last_error = ""
    cells._prepare(1)
    return cells


def lose(cells: Cells, *, progress: bool) -> bool:
    """Ends the task of the cell, perhaps after an object. Returns whether the cell was started again."""
    if progress:
        object_id = cells._queue.lease.remote("cell-0")
        cells._queue.end.remote("cell-0", Outcome(object_id))
    cells._end(next(iter(cells._running)))
    return bool(cells._running)


def test_a_cell_that_makes_progress_is_always_started_again(cells: Cells) -> None:
    assert all(lose(cells, progress=True) for _ in range(4))


def test_a_cell_that_stands_still_is_given_up(cells: Cells) -> None:
    assert [lose(cells, progress=False) for _ in range(4)] == [True, True, True, False]
