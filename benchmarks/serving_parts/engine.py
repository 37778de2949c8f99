"""The engine by itself, without HTTP: loads, memory, identify. Each function returns the figures of one run."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from persrep_ray.config import DataConfig, IdentifyConfig, ServeConfig
from persrep_ray.data.images import bounded, capped_size, read_rgb
from persrep_ray.data.objects import load_manifest
from persrep_ray.registry.registry import FILES, Registry
from persrep_ray.serving.engine.adapters import Adapter
from persrep_ray.serving.engine.answers import AdapterRef
from persrep_ray.serving.engine.encoder import ImageInput, MultiAdapterEncoder, Row
from persrep_ray.serving.engine.engine import LocalEngine
from persrep_ray.serving.engine.profile import read_profile
from persrep_ray.storage.local import LocalStore
from persrep_ray.tasks.dense import LONGEST_SIDE, predict
from persrep_ray.tasks.features import normalize

_T = TypeVar("_T")


def make_engine(registry: Registry, *, threads: int, shortlist: int = 16) -> LocalEngine:
    torch.set_num_threads(threads)
    config = ServeConfig(registry=registry.store.uri, identify=IdentifyConfig(shortlist=shortlist))
    return LocalEngine(config, read_profile(config))


def refs_of(registry: Registry) -> list[AdapterRef]:
    return [AdapterRef(object_id, version) for object_id, version in registry.live().items()]


async def bank_overhead(engine: LocalEngine, ref: AdapterRef) -> float:
    """Median milliseconds that the bank adds to a query whose adapter is in memory."""
    async with engine.bank.lease(ref):
        pass
    times = []
    for _ in range(2000):
        started = time.perf_counter()
        async with engine.bank.lease(ref):
            pass
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


async def batches(engine: LocalEngine, registry: Registry, photo: Path, rounds: int = 9, rows: int = 16) -> float:
    """The time of a batch for one adapter over the time of a batch for `rows` adapters, measured in turns.

    All images differ, within a batch and between batches.
    """
    image = (await engine.extractor.standard(read_rgb(photo, DataConfig()))).pixels
    adapters = []
    for ref in refs_of(registry)[:rows]:
        async with engine.bank.lease(ref) as adapter:
            adapters.append(adapter)
    ratios = []
    for number in range(rounds + 1):
        seconds = []
        for turn, wanted in enumerate((adapters[:1] * rows, adapters)):
            shifted = [np.roll(image, (2 * number + turn, 3 * row), axis=(0, 1)) for row in range(rows)]
            started = time.perf_counter()
            engine.encoder.encode([Row(ImageInput(one), adapter) for one, adapter in zip(shifted, wanted, strict=True)])
            seconds.append(time.perf_counter() - started)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios[1:])  # the first round warms up


async def cold_loads(engine: LocalEngine, registry: Registry) -> dict[str, float]:
    """Milliseconds to get an adapter that is neither in memory nor in the system's file cache."""
    times = []
    for ref in refs_of(registry):
        if isinstance(registry.store, LocalStore):
            for name in FILES:
                forget(registry.local_copy(ref.object_id, ref.version) / name)
        assert ref not in engine.bank
        started = time.perf_counter()
        async with engine.bank.lease(ref):
            times.append(1000 * (time.perf_counter() - started))
    return {"p50": statistics.median(times), "p99": sorted(times)[int(len(times) * 0.99)]}


def forget(path: Path) -> None:
    """Drops a file from the system's cache, so that it is read from the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


async def resident(engine: LocalEngine, registry: Registry) -> dict[str, float]:
    """How much the process grows when all adapters are loaded, compared with the bytes of their tensors."""
    first, *others = refs_of(registry)
    async with engine.bank.lease(first):  # the first load also creates threads and buffers, which count as the base
        pass
    base, counted = resident_bytes(), engine.bank.nbytes
    for ref in others:
        async with engine.bank.lease(ref):
            pass
    grown = resident_bytes() - base
    return {
        "adapters": len(engine.bank),
        "adapter_mb": engine.bank.nbytes / len(engine.bank) / 1e6,
        "base_mb": base / 1e6,
        "grown_mb": grown / 1e6,
        "grown_over_adapters": grown / (engine.bank.nbytes - counted),
    }


def resident_bytes() -> int:
    """The resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def identify(engine: LocalEngine, registry: Registry, photo: Path, rounds: int = 3) -> dict[str, float]:
    """Exact identify compared with a separate full forward for each adapter."""
    image = bounded(read_rgb(photo, DataConfig()))
    follower = asyncio.create_task(engine.run())
    count = len(registry.objects())
    while (await engine.identify(image, [""], top_k=5, exact=False)).searched < count:
        await asyncio.sleep(0.2)
    await engine.identify(image, [""], top_k=5, exact=True)  # all adapters are in memory from here on
    adapters = []
    for ref in refs_of(registry):
        async with engine.bank.lease(ref) as adapter:
            adapters.append(adapter)
    ratios, exact_s, shortlist_s = [], [], []
    for number in range(rounds):
        shifted = [np.roll(image, (number + 1, index), axis=(0, 1)) for index in range(count)]
        views = [await engine.extractor.standard(one) for one in shifted]
        separate = one_by_one(engine.encoder, views, adapters)
        started = time.perf_counter()
        await engine.identify(np.roll(image, -1 - number, axis=0), [""], top_k=5, exact=True)
        exact_s.append(time.perf_counter() - started)
        started = time.perf_counter()
        await engine.identify(np.roll(image, -100 - number, axis=0), [""], top_k=5, exact=False)
        shortlist_s.append(time.perf_counter() - started)
        ratios.append(exact_s[-1] / separate)
    follower.cancel()
    return {
        "adapters": count,
        "exact_over_separate": statistics.median(ratios),
        "exact_s": statistics.median(exact_s),
        "shortlist_s": statistics.median(shortlist_s),
    }


async def same_top1(trained: Registry, data: Path, *, threads: int, shortlists: Sequence[int]) -> dict[str, Any]:
    """The share of real test photos on which shortlists and exact mode name the same object first.

    `right` is the share on which exact mode names the photo's object.
    """
    engines = {size: make_engine(trained, threads=threads, shortlist=size) for size in shortlists}
    exact_engine = next(iter(engines.values()))
    followers = [asyncio.create_task(engine.run()) for engine in engines.values()]
    limits = DataConfig()
    manifest = load_manifest(data, limits)
    blank = np.zeros((1, 1, 3), np.uint8)
    for engine in engines.values():
        while (await engine.identify(blank, [""], top_k=1, exact=False)).searched < len(trained.objects()):
            await asyncio.sleep(0.2)
    same: Counter[int] = Counter()
    right = total = 0
    for object_id, photos in manifest.objects.items():
        for photo in photos.test:
            image = bounded(read_rgb(photo.path, limits))
            exact = await exact_engine.identify(image, [""], top_k=1, exact=True)
            first = [candidate.ref.object_id for candidate in exact.candidates]
            right += first == [object_id]
            total += 1
            for size, engine in engines.items():
                short = await engine.identify(image, [""], top_k=1, exact=False)
                same[size] += first == [one.ref.object_id for one in short.candidates]
    for follower in followers:
        follower.cancel()
    return {
        "objects": len(trained.objects()),
        "photos": total,
        "right": right / total,
        **{f"same_top1_of_{size}": same[size] / total for size in shortlists},
    }


async def queries(engine: LocalEngine, registry: Registry, photos: Sequence[Path]) -> dict[str, float]:
    """CPU seconds of the encoder per query, and the same for the former way, measured in turns.

    Each photo is asked about the object in the folder of its name. The former way is one pass of the backbone, and a
    cosine (classify) or Otsu's threshold (detect). Describing keypoints, which objects with keypoints need once per
    image, is given by itself; the first query of the object about an image includes it.
    """
    refs = {ref.object_id: ref for ref in refs_of(registry)}
    seconds: dict[str, list[float]] = {name: [] for name in ("classify", "classify_before", "detect", "detect_before")}
    described: list[float] = []
    for number, photo in enumerate([photos[0], *photos]):  # the first round warms up
        ref, image = refs[photo.parent.name], bounded(read_rgb(photo, DataConfig()))
        async with engine.bank.lease(ref) as adapter:
            assert adapter.model is not None and adapter.dense is not None, "published by an earlier release"
            keypoints = await timed(engine.extractor.keypoints(image), described)
            assert len(keypoints) >= 0
            for turn, former in enumerate((True, False) if number % 2 else (False, True)):
                shifted = np.roll(image, turn + 1, axis=1)  # so that no prefix is kept
                if former:
                    await timed(classify_before(engine, adapter, shifted), seconds["classify_before"])
                    await timed(detect_before(engine, adapter, shifted), seconds["detect_before"])
                else:
                    await timed(engine.classify(ref, shifted), seconds["classify"])
                    await timed(engine.locate(ref, shifted), seconds["detect"])
    found = {f"{name}_s": statistics.median(times[1:]) for name, times in seconds.items()}
    return {
        **found,
        "classify_over_before": found["classify_s"] / found["classify_before_s"],
        "detect_over_before": found["detect_s"] / found["detect_before_s"],
        "keypoints_s": statistics.median(described[1:]),
    }


async def timed(query: Awaitable[_T], seconds: list[float]) -> _T:
    """Appends the CPU seconds of all threads."""
    started = time.process_time()
    answer = await query
    seconds.append(time.process_time() - started)
    return answer


async def classify_before(engine: LocalEngine, adapter: Adapter, image: np.ndarray) -> None:
    view = await engine.extractor.standard(image)
    adapter.cls @ normalize((await engine.extractor.features(view, adapter)).cls)


async def detect_before(engine: LocalEngine, adapter: Adapter, image: np.ndarray) -> None:
    view = await engine.extractor.dense(image)
    patches = (await engine.extractor.features(view, adapter)).patches
    assert adapter.dense is not None
    predict(adapter.dense, patches, capped_size((image.shape[0], image.shape[1]), LONGEST_SIDE))


def one_by_one(encoder: MultiAdapterEncoder, views: Sequence[ImageInput], adapters: Sequence[Adapter]) -> float:
    """Seconds of a separate forward for each view and its adapter; the views differ, so no prefix is shared."""
    started = time.perf_counter()
    for view, adapter in zip(views, adapters, strict=True):
        encoder.encode([Row(view, adapter)])
    return time.perf_counter() - started
