"""The check of an engine tells one that hangs from one that is busy."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from persrep_ray.serving.engine.engine import LocalEngine


class Extractor:
    """Encodes as `state` says: "well", "lost", "hangs", or "busy" with the batches of others."""

    def __init__(self, state: str) -> None:
        self.batches = 0
        self.seen: list[int] = []
        self._state = state

    async def standard(self, image: np.ndarray) -> np.ndarray:
        return image

    async def features(self, view: np.ndarray, adapter: None) -> SimpleNamespace:
        self.seen.append(int(view[0, 0, 0]))
        if self._state == "lost":
            raise RuntimeError("CUDA error: device lost")
        self.batches += self._state != "hangs"
        if self._state != "well":
            await asyncio.get_running_loop().create_future()
        return SimpleNamespace(cls=np.zeros(2))


def check(state: str, times: int = 1) -> Extractor:
    engine = object.__new__(LocalEngine)
    extractor = Extractor(state)
    engine.extractor, engine._checks = extractor, 0  # type: ignore[assignment]

    async def run() -> None:
        for _ in range(times):
            await engine.check(0.01 if state != "well" else 60)

    asyncio.run(run())
    return extractor


def test_a_sound_engine_encodes_another_image_each_time() -> None:
    assert check("well", times=3).seen == [1, 2, 3]


def test_a_busy_engine_is_sound() -> None:
    check("busy")


@pytest.mark.parametrize(("state", "error"), [("hangs", asyncio.TimeoutError), ("lost", RuntimeError)])
def test_an_engine_that_hangs_or_has_lost_its_device_is_not(state: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        check(state)
