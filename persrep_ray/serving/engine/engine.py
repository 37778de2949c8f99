"""The engine of one process: the backbone, the adapters in memory, and the batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import TypeVar

import numpy as np
import torch

from persrep_ray.backbones.backbone import load_backbone
from persrep_ray.config import ServeConfig
from persrep_ray.serving.engine.adapters import (
    PRETRAINED_FILES,
    Adapter,
    AdapterMisfitError,
    parse_adapter,
    pretrained_prototypes,
    unusable,
    weighed,
)
from persrep_ray.serving.engine.answers import (
    AdapterRef,
    Candidate,
    Classification,
    Comparison,
    Identification,
)
from persrep_ray.serving.engine.bank import AdapterBank
from persrep_ray.serving.engine.catalog import Catalog
from persrep_ray.serving.engine.encoder import ImageInput, MultiAdapterEncoder
from persrep_ray.serving.engine.errors import AdapterUnusableError, RegistryUnavailableError, VersionNotFoundError
from persrep_ray.serving.engine.features import FeatureExtractor
from persrep_ray.serving.engine.identify import PrototypeIndex, recognised
from persrep_ray.serving.engine.locate import locate
from persrep_ray.serving.engine.metrics import Metrics
from persrep_ray.serving.engine.profile import Profile
from persrep_ray.serving.engine.source import Source
from persrep_ray.tasks.dense import DensePrediction
from persrep_ray.tasks.features import normalize
from persrep_ray.tasks.keypoints import GeometricMatch

_GEOMETRY_CANDIDATES = 16
"""How many candidates of identify have their keypoints looked for; each costs about as much as its features."""

_T = TypeVar("_T")


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
        self.extractor = FeatureExtractor(self.encoder, profile, batch_rows=config.encoder.batch_rows, metrics=metrics)
        self.bank = AdapterBank(
            self._load,
            budget=config.encoder.bank_bytes,
            threads=config.encoder.load_threads,
            timeout_s=config.encoder.load_timeout_s,
            metrics=metrics,
        )
        self._catalog = Catalog(self._source, config.refresh_s)
        self._index = PrototypeIndex(self._read_pretrained)
        self._indexed: tuple[AdapterRef, ...] | None = None
        self._searchable = asyncio.Event()
        self._checks = 0
        self._indexer = ThreadPoolExecutor(1, thread_name_prefix="index")

    async def run(self) -> None:
        """Follows the registry until it is cancelled."""
        await self._catalog.run(self._update_index)

    async def ping(self) -> None:
        """An engine that exists can answer."""

    async def check(self, within_s: float) -> None:
        """Encodes an image. Raises what the device raises, or TimeoutError if no batch at all ends in `within_s`."""
        self._checks += 1  # another image each time, whose prefix no cache holds
        before = self.extractor.batches
        view = await self.extractor.standard(np.full((8, 8, 3), self._checks % 256, np.uint8))
        try:
            await asyncio.wait_for(self._cls(view, None), within_s)
        except asyncio.TimeoutError:
            if self.extractor.batches == before:  # otherwise it is only busy
                raise

    async def embed(self, ref: AdapterRef, image: np.ndarray) -> np.ndarray:
        view = await self.extractor.standard(image)
        async with self.bank.lease(ref) as adapter:
            return normalize(await self._cls(view, adapter))

    async def classify(self, ref: AdapterRef, image: np.ndarray) -> Classification:
        view = await self.extractor.standard(image)
        async with self.bank.lease(ref) as adapter:
            return (await self._classify(image, view, adapter))[1]

    async def compare(self, ref: AdapterRef, images: tuple[np.ndarray, np.ndarray]) -> Comparison:
        views = [await self.extractor.standard(image) for image in images]
        async with self.bank.lease(ref) as adapter:
            (first, one), (second, other) = await asyncio.gather(
                *(self._classify(image, view, adapter) for image, view in zip(images, views, strict=True))
            )
            same = adapter.classification(float(normalize(first) @ normalize(second)))
            return Comparison(same=same, each=(one, other))

    async def locate(self, ref: AdapterRef, image: np.ndarray) -> DensePrediction:
        async with self.bank.lease(ref) as adapter:
            return await locate(adapter, image, self.extractor)

    async def identify(self, image: np.ndarray, prefixes: Sequence[str], *, top_k: int, exact: bool) -> Identification:
        await self._wait_until_searchable()
        view = await self.extractor.standard(image)
        known, most = self._index.count(prefixes), self._config.identify.shortlist
        if exact or known <= most:
            chosen = self._index.refs(prefixes)
        else:
            pretrained = await self._cls(view, None)
            chosen = await self.extractor.in_thread(lambda: self._index.shortlist(pretrained, prefixes, most))
        tried: list[Candidate] = []
        size = self._config.encoder.batch_rows
        for start in range(0, len(chosen), size):  # batch by batch, so that other queries are served in between
            tried += await self._try(view, chosen[start : start + size])
        tried = await self._check_geometry(image, tried)
        return Identification(tuple(recognised(tried, known)[:top_k]), searched=known, tried=len(tried))

    async def _try(self, view: ImageInput, refs: Sequence[AdapterRef]) -> list[Candidate]:
        """How the adapters classify the image, without those that are damaged or were just deleted."""
        async with AsyncExitStack() as stack:
            leases = [stack.enter_async_context(self.bank.lease(ref)) for ref in refs]
            adapters = _usable(await asyncio.gather(*leases, return_exceptions=True))
            candidates = [self._candidate(view, adapter) for adapter in adapters]
            return _usable(await asyncio.gather(*candidates, return_exceptions=True))

    async def _candidate(self, view: ImageInput, adapter: Adapter) -> Candidate:
        features = await self.extractor.features(view, adapter)
        return Candidate(adapter.ref, adapter.classify(features.cls, features.patches))

    async def _check_geometry(self, image: np.ndarray, tried: Sequence[Candidate]) -> list[Candidate]:
        """The candidates, of which the likeliest also have the evidence of their keypoints."""
        best = sorted(tried, key=lambda one: -one.classification.probability)
        checked = [self._with_geometry(image, one) for one in best[:_GEOMETRY_CANDIDATES]]
        return _usable(await asyncio.gather(*checked, return_exceptions=True)) + best[_GEOMETRY_CANDIDATES:]

    async def _with_geometry(self, image: np.ndarray, one: Candidate) -> Candidate:
        evidence = one.classification.evidence
        async with self.bank.lease(one.ref) as adapter:
            matches = await self._matches(image, adapter)
            if evidence is None or adapter.model is None or matches is None:
                return one
            evidence += adapter.model.geometric_evidence(matches)
            return Candidate(one.ref, weighed(one.classification.score, evidence))

    async def _classify(
        self, image: np.ndarray, view: ImageInput, adapter: Adapter
    ) -> tuple[np.ndarray, Classification]:
        """The CLS (D,) of an image, and its classification."""
        features = await self.extractor.features(view, adapter)
        matches = await self._matches(image, adapter)
        return features.cls, adapter.classify(features.cls, features.patches, matches)

    async def _matches(self, image: np.ndarray, adapter: Adapter) -> Sequence[GeometricMatch] | None:
        """What the object's keypoints find on the image, None if geometry does not help to recognise the object."""
        model = adapter.model
        if model is None or model.keypoints is None or not model.uses_geometry:
            return None
        return await self.extractor.matches(image, model.keypoints)

    async def _wait_until_searchable(self) -> None:
        """Until the objects are known, "none of them" would be wrong. Raises `RegistryUnavailableError`."""
        try:
            await asyncio.wait_for(self._searchable.wait(), self._config.encoder.load_timeout_s)
        except asyncio.TimeoutError:
            raise RegistryUnavailableError("the objects of the registry have not been read yet") from None

    async def _cls(self, view: ImageInput, adapter: Adapter | None) -> np.ndarray:
        return (await self.extractor.features(view, adapter)).cls

    def _load(self, ref: AdapterRef) -> Adapter:
        files = self._source.files(ref)
        try:
            return parse_adapter(
                ref, files, self.encoder.layout, dtype=self.encoder.dtype, device=torch.device(self._device)
            )
        except AdapterMisfitError as error:
            raise unusable(ref, error) from error

    def _read_pretrained(self, ref: AdapterRef) -> np.ndarray:
        files = self._source.files(ref, PRETRAINED_FILES)
        try:
            return pretrained_prototypes(files, self.encoder.layout)
        except AdapterMisfitError as error:
            raise unusable(ref, error) from error

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
