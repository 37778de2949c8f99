"""A cache bounded by the bytes of what it holds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class HasBytes(Protocol):
    @property
    def nbytes(self) -> int: ...


_Value = TypeVar("_Value", bound=HasBytes)


class ByteLru(Generic[_Value]):
    """Values by key, at most `budget` bytes of them, the least recently used given up first."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._used = 0
        self._values: OrderedDict[Hashable, _Value] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def get(self, key: Hashable) -> _Value | None:
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: Hashable, value: _Value) -> None:
        if key in self._values:
            self._used -= self._values.pop(key).nbytes
        self._values[key] = value
        self._used += value.nbytes
        while self._used > self._budget:
            self._used -= self._values.popitem(last=False)[1].nbytes
