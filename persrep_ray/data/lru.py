"""A cache bounded by the number or the bytes of what it holds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class HasBytes(Protocol):
    @property
    def nbytes(self) -> int: ...


def nbytes(value: HasBytes) -> int:
    """The size of an array, a tensor or the like, for an `Lru` bounded by bytes."""
    return value.nbytes


class Lru(Generic[_Key, _Value]):
    """Values by key, with a total size of at most `limit`; the least recently used values are dropped first.

    Args:
        limit: how many values, or how many bytes if `size` counts bytes.
        size: gives the size of a value; by default, each counts 1. A value larger than `limit` is not kept.
    """

    def __init__(self, limit: int, size: Callable[[_Value], int] = lambda _: 1) -> None:
        self._limit = limit
        self._size = size
        self._used = 0
        self._values: OrderedDict[_Key, _Value] = OrderedDict()

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: _Key) -> _Value | None:
        """The value of `key`, which then counts as the most recently used; None if it is not kept."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def get_or(self, key: _Key, make: Callable[[], _Value]) -> _Value:
        """The value of `key`. If it is not kept, `make` is called and its result is kept. The value may be None."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = make()
        self.put(key, value)
        return value

    def put(self, key: _Key, value: _Value) -> None:
        self.drop(key)
        self._values[key] = value
        self._used += self._size(value)
        while self._used > self._limit:
            _, dropped = self._values.popitem(last=False)
            self._used -= self._size(dropped)

    def drop(self, key: _Key) -> None:
        """Drops the value of `key`, if it is kept."""
        if key in self._values:
            self._used -= self._size(self._values.pop(key))

    def keys(self) -> list[_Key]:
        return list(self._values)
