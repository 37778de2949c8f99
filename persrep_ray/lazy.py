"""Things that take long to make, made when they are first needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Lazy(Generic[_T]):
    """What `make` gives, made with the first `get`. Why that failed is told each time, and not tried again."""

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._made: _T | None = None
        self._broken: Exception | None = None

    def get(self) -> _T:
        if self._broken is not None:
            raise self._broken
        if self._made is None:
            try:
                self._made = self._make()
            except Exception as error:
                self._broken = error
                raise
        return self._made
