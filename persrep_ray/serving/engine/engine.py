"""The engine of one process: the backbone, the adapters in memory, and the batches."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Literal, NamedTuple, TypeVar

import cv2
import numpy as np
import torch

from persrep_ray.backbones.backbone import load_backbone
from persrep_ray.config import ServeConfig
from persrep_ray.data.images import capped_size
from persrep_ray.serving.engine.adapters import (
    PRETRAINED_FILES,
    Adapter,
    AdapterMisfitError,
    parse_adapter,
    pretrained_prototypes,
)
from persrep_ray.serving.engine.answers import (
    AdapterRef,
    Candidate,
    Classification,
    Comparison,
    Identification,
    Localization,
)
from persrep_ray.serving.engine.bank import AdapterBank
from persrep_ray.serving.engine.batcher import Batcher
from persrep_ray.serving.engine.catalog import Catalog
from persrep_ray.serving.engine.encoder import ImageInput, MultiAdapterEncoder, Row
from persrep_ray.serving.engine.errors import (
    AdapterUnusableError,
    NoMasksError,
    RegistryUnavailableError,
    VersionNotFoundError,
)
from persrep_ray.serving.engine.identify import PrototypeIndex
from persrep_ray.serving.engine.metrics import Metrics
from persrep_ray.serving.engine.profile import Profile
from persrep_ray.serving.engine.source import Source
from persrep_ray.tasks.dense import LONGEST_SIDE, predict
from persrep_ray.tasks.features import normalize

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class _Job(NamedTuple):
    row: Row
    want: Literal["cls", "patches"]


class LocalEngine:
    """An `answers.Engine` on one device. It is used from one event loop, in which `run` must be running.

    Raises:
        BackboneError: the backbone cannot be loaded.
    """

    def __init__(
        self, config: ServeConfig, profile: Profile, *, device: str = "cpu", metrics: Metrics | None = None
    ) -> None:
        metrics = metrics or Metrics()
        self._config = config
        self._source = Source(config.registry)
        self._device = device
        backbone = load_backbone(profile.backbone).to(device)
        self.encoder = MultiAdapterEncoder(backbone, profile.backbone)
        self._sides = (
            backbone.whole_patches(profile.backbone.image_size),
            backbone.whole_patches(profile.dense_size),
        )
        self._grid = self._sides[1] // backbone.patch_size
        self.bank = AdapterBank(
            self._load,
            budget=config.encoder.bank_bytes,
            threads=config.encoder.load_threads,
            timeout_s=config.encoder.load_timeout_s,
            metrics=metrics,
        )
        self._batcher: Batcher[_Job, np.ndarray] = Batcher(
            self._encode, rows=config.encoder.batch_rows, adapters=_distinct_adapters, metrics=metrics
        )
        self._catalog = Catalog(self._source, config.refresh_s)
        self._index = PrototypeIndex(self._read_pretrained)
        self._indexed: tuple[AdapterRef, ...] | None = None
        self._searchable = asyncio.Event()
        self._indexer = ThreadPoolExecutor(1, thread_name_prefix="index")
        self._arithmetic = ThreadPoolExecutor(2, thread_name_prefix="arithmetic")

    async def run(self) -> None:
        """Follows the registry until it is cancelled."""
        await self._catalog.run(self._update_index)

    async def view_sides(self) -> tuple[int, int]:
        return self._sides

    async def embed(self, ref: AdapterRef, standard: np.ndarray) -> np.ndarray:
        async with self.bank.lease(ref) as adapter:
            return normalize(await self._cls(ImageInput(standard), adapter))

    async def classify(self, ref: AdapterRef, standard: np.ndarray) -> Classification:
        async with self.bank.lease(ref) as adapter:
            return adapter.classify(await self._cls(ImageInput(standard), adapter))

    async def compare(self, ref: AdapterRef, standards: tuple[np.ndarray, np.ndarray]) -> Comparison:
        async with self.bank.lease(ref) as adapter:
            first, second = await asyncio.gather(*(self._cls(ImageInput(one), adapter) for one in standards))
            return Comparison(
                same=adapter.classification(float(normalize(first) @ normalize(second))),
                each=(adapter.classify(first), adapter.classify(second)),
            )

    async def locate(self, ref: AdapterRef, dense: np.ndarray, size: tuple[int, int]) -> Localization:
        async with self.bank.lease(ref) as adapter:
            if adapter.dense is None:
                raise NoMasksError(f"object {ref.object_id}, version {ref.version}: published without masks")
            patches = await self._features(ImageInput(dense), adapter, "patches")
        grid = patches.reshape(self._grid, self._grid, -1)
        return await asyncio.get_running_loop().run_in_executor(self._arithmetic, _locate, adapter, grid, size)

    async def identify(
        self, standard: np.ndarray, prefixes: Sequence[str], *, top_k: int, exact: bool
    ) -> Identification:
        await self._wait_until_searchable()
        image = ImageInput(standard)
        known, most = self._index.count(prefixes), self._config.identify.shortlist
        if exact or known <= most:
            chosen = self._index.refs(prefixes)
        else:
            pretrained = await self._cls(image, None)
            chosen = await asyncio.get_running_loop().run_in_executor(
                self._arithmetic, self._index.shortlist, pretrained, prefixes, most
            )
        tried: list[Candidate] = []
        size = self._config.encoder.batch_rows
        for start in range(0, len(chosen), size):  # batch by batch, so that other queries are served in between
            tried += await self._try(image, chosen[start : start + size])
        found = [candidate for candidate in tried if candidate.classification.match]
        found.sort(key=lambda candidate: -candidate.classification.probability)
        return Identification(tuple(found[:top_k]), searched=known, tried=len(tried))

    async def _try(self, image: ImageInput, refs: Sequence[AdapterRef]) -> list[Candidate]:
        """How the adapters classify the image, without those that are damaged or were just deleted."""
        async with AsyncExitStack() as stack:
            leases = [stack.enter_async_context(self.bank.lease(ref)) for ref in refs]
            adapters = _usable(await asyncio.gather(*leases, return_exceptions=True))
            candidates = [self._candidate(image, adapter) for adapter in adapters]
            return _usable(await asyncio.gather(*candidates, return_exceptions=True))

    async def _candidate(self, image: ImageInput, adapter: Adapter) -> Candidate:
        return Candidate(adapter.ref, adapter.classify(await self._cls(image, adapter)))

    async def _wait_until_searchable(self) -> None:
        """Until the objects are known, "none of them" would be wrong. Raises `RegistryUnavailableError`."""
        try:
            await asyncio.wait_for(self._searchable.wait(), self._config.encoder.load_timeout_s)
        except asyncio.TimeoutError:
            raise RegistryUnavailableError("the objects of the registry have not been read yet") from None

    async def _cls(self, image: ImageInput, adapter: Adapter | None) -> np.ndarray:
        return await self._features(image, adapter, "cls")

    async def _features(
        self, image: ImageInput, adapter: Adapter | None, want: Literal["cls", "patches"]
    ) -> np.ndarray:
        """(D,) or (N, D). Raises `AdapterUnusableError` if the adapter's values make features overflow."""
        features = await self._batcher.submit(_Job(Row(image, adapter), want), (image.pixels.shape[0], want))
        if adapter is not None and not np.isfinite(features).all():
            raise self._unusable(adapter.ref, "its features are not finite")
        return features

    def _encode(self, jobs: Sequence[_Job]) -> Sequence[np.ndarray]:
        """Encodes one batch, whose jobs all want the same."""
        features = self.encoder.encode([job.row for job in jobs])
        wanted = features.cls if jobs[0].want == "cls" else features.patches
        return list(wanted.cpu().numpy())

    def _load(self, ref: AdapterRef) -> Adapter:
        files = self._source.files(ref)
        try:
            return parse_adapter(
                ref, files, self.encoder.layout, dtype=self.encoder.dtype, device=torch.device(self._device)
            )
        except AdapterMisfitError as error:
            raise self._unusable(ref, error) from error

    def _read_pretrained(self, ref: AdapterRef) -> np.ndarray:
        files = self._source.files(ref, PRETRAINED_FILES)
        try:
            return pretrained_prototypes(files, self.encoder.layout)
        except AdapterMisfitError as error:
            raise self._unusable(ref, error) from error

    def _unusable(self, ref: AdapterRef, cause: object) -> AdapterUnusableError:
        named = f"object {ref.object_id}, version {ref.version}"
        _log.error("%s: %s", named, cause)  # the cause may name paths, which the client must not see
        return AdapterUnusableError(f"{named}: its files are damaged or made for another backbone")

    async def _update_index(self) -> None:
        refs = self._catalog.refs()
        if refs is not self._indexed:
            await asyncio.get_running_loop().run_in_executor(self._indexer, self._index.update, refs)
            self._indexed = refs
        self._searchable.set()


def _usable(results: Sequence[_T | BaseException]) -> list[_T]:
    """The results without the errors that concern only one object; raises any other error."""
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, AdapterUnusableError | VersionNotFoundError):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def _distinct_adapters(jobs: Sequence[_Job]) -> int:
    return len({job.row.adapter.ref if job.row.adapter else None for job in jobs})


def _locate(adapter: Adapter, patches: np.ndarray, size: tuple[int, int]) -> Localization:
    """Searches at the size that evaluation uses, so that its metrics hold, and answers in pixels of `size`."""
    assert adapter.dense is not None
    searched = capped_size(size, LONGEST_SIDE)
    found = predict(adapter.dense, patches, searched)
    if not found.instances:
        return Localization(None, None, -1.0, found.similarity)
    (instance,) = found.instances
    mask = cv2.resize(
        instance.mask_in(searched).astype(np.uint8), (size[1], size[0]), interpolation=cv2.INTER_NEAREST
    ).astype(bool)
    left, top, width, height = (int(value) for value in instance.box)
    across, down = size[1] / searched[1], size[0] / searched[0]
    x, y = math.floor(left * across), math.floor(top * down)
    right, bottom = math.ceil((left + width) * across), math.ceil((top + height) * down)
    box = (x, y, min(right, size[1]) - x, min(bottom, size[0]) - y)
    return Localization(box, mask, instance.score, found.similarity)
