"""A registry of discs, the engine that serves it, and ways to query it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from helpers.published import PHOTOS, photo
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from persrep_ray.backbones.lora import LoraBackbone
from persrep_ray.config import RunConfig, load_serve_config
from persrep_ray.serving.engine.answers import AdapterRef, Identification
from persrep_ray.serving.engine.engine import LocalEngine
from persrep_ray.serving.engine.profile import read_profile

OBJECTS = 6
REFS = [AdapterRef(f"{'cup' if number < 2 else 'mug'}-{number}", "v1") for number in range(OBJECTS)]


@dataclass(frozen=True)
class Sample:
    """A registry of the objects `REFS`, the settings of their run, and a slot for their adapters."""

    registry: Path
    config: RunConfig
    lora: LoraBackbone


def engine_of(sample: Sample, **settings: Any) -> LocalEngine:
    config = load_serve_config({"registry": str(sample.registry), "refresh_s": 0.01, **settings})
    return LocalEngine(config, read_profile(config))


@asynccontextmanager
async def running(engine: LocalEngine) -> AsyncIterator[LocalEngine]:
    follower = asyncio.create_task(engine.run())
    try:
        yield engine
    finally:
        follower.cancel()
        await asyncio.wait([follower])


def ask(engine: LocalEngine, question: Callable[[LocalEngine], Coroutine[Any, Any, Any]]) -> Any:
    async def scenario() -> Any:
        async with running(engine):
            return await question(engine)

    return asyncio.run(asyncio.wait_for(scenario(), 30))


def unseen(number: int) -> np.ndarray:
    """A photo of an object that no prototype knows."""
    return photo(number, PHOTOS)[0]


def enormous(files: dict[str, bytes]) -> None:
    """Makes the adapter's values so large that its features overflow."""
    tensors = load_tensors(files["adapter_model.safetensors"])
    files["adapter_model.safetensors"] = save_tensors({name: one * 1e30 for name, one in tensors.items()})


def identify(engine: LocalEngine, shown: int, prefixes: Sequence[str] = ("",), **options: Any) -> Identification:
    asked = {"top_k": 5, "exact": False, **options}
    found: Identification = ask(engine, lambda one: one.identify(unseen(shown), prefixes, **asked))
    return found


def ids(found: Identification) -> list[str]:
    return [candidate.ref.object_id for candidate in found.candidates]


def assert_alike(left: Any, right: Any) -> None:
    """Checks equality up to rounding, which differs with the size of a batch."""
    if isinstance(left, np.ndarray) and left.dtype == bool:
        assert (left != right).mean() < 0.001
    elif isinstance(left, float | np.ndarray):
        np.testing.assert_allclose(left, right, atol=1e-4)
    elif isinstance(left, tuple):
        for one, other in zip(left, right, strict=True):
            assert_alike(one, other)
    elif hasattr(left, "__dataclass_fields__"):
        assert type(left) is type(right)
        for name in left.__dataclass_fields__:
            assert_alike(getattr(left, name), getattr(right, name))
    else:
        assert left == right
