"""Features of images under adapters: views are made in threads, and encoded in batches of one pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from persrep_ray.data.images import resize_square, standard_view
from persrep_ray.data.lru import Lru
from persrep_ray.serving.engine.adapters import Adapter, unusable
from persrep_ray.serving.engine.batcher import Batcher
from persrep_ray.serving.engine.encoder import ImageInput, MultiAdapterEncoder, Row, digest_of
from persrep_ray.serving.engine.metrics import Metrics
from persrep_ray.serving.engine.profile import Profile
from persrep_ray.tasks.keypoints import GeometricMatch, KeypointModel, Keypoints, describe

_DESCRIBED = 8  # images, each with keypoints of 5 MB; a page asks several questions about the same image
_T = TypeVar("_T")


@dataclass(frozen=True)
class ImageFeatures:
    """The features of a view under one adapter: `cls` (D,) and `patches` (h, w, D), float32."""

    cls: np.ndarray
    patches: np.ndarray


class FeatureExtractor:
    """Turns images (H, W, 3) uint8 RGB into views, and views into features. It is used from one event loop.

    A standard view is the image's centre, and a dense view is the whole image squashed to a square.
    """

    def __init__(self, encoder: MultiAdapterEncoder, profile: Profile, *, batch_rows: int, metrics: Metrics) -> None:
        self.batches = 0  # encoded so far
        self._encoder = encoder
        self._standard_side = encoder.backbone.whole_patches(profile.backbone.image_size)
        self._dense_side = encoder.backbone.whole_patches(profile.dense_size)
        self._batcher: Batcher[Row, ImageFeatures] = Batcher(
            self._encode, rows=batch_rows, adapters=_distinct_adapters, metrics=metrics
        )
        self._described: Lru[bytes, asyncio.Future[Keypoints]] = Lru(_DESCRIBED)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="arithmetic")

    async def standard(self, image: np.ndarray) -> ImageInput:
        return await self.in_thread(lambda: ImageInput(standard_view(image, self._standard_side)))

    async def dense(self, image: np.ndarray) -> ImageInput:
        return await self.in_thread(lambda: ImageInput(resize_square(image, self._dense_side)))

    async def features(self, view: ImageInput, adapter: Adapter | None) -> ImageFeatures:
        """The view's features; None is the pretrained backbone.

        Raises `AdapterUnusableError` if the adapter's values make features overflow.
        """
        found = await self._batcher.submit(Row(view, adapter), view.pixels.shape[0])
        if adapter is not None and not (np.isfinite(found.cls).all() and np.isfinite(found.patches).all()):
            raise unusable(adapter.ref, "its features are not finite")
        return found

    async def keypoints(self, image: np.ndarray) -> Keypoints:
        """The image's keypoints. Queries about the same image, one after the other or at a time, share them."""
        digest = await self.in_thread(lambda: digest_of(image))
        work = self._described.get_or(digest, lambda: asyncio.ensure_future(self.in_thread(lambda: describe(image))))
        try:
            return await asyncio.shield(work)  # a client that leaves does not cancel it for the others
        except Exception:
            self._described.drop(digest)  # the next query may succeed
            raise

    async def matches(self, image: np.ndarray, model: KeypointModel) -> Sequence[GeometricMatch]:
        """What an object's keypoints find on the image."""
        described = await self.keypoints(image)
        return await self.in_thread(lambda: model.find(described))

    async def in_thread(self, work: Callable[[], _T]) -> _T:
        """The result of arithmetic that would hold up the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _encode(self, rows: Sequence[Row]) -> Sequence[ImageFeatures]:
        """Encodes one batch, whose views have the same side."""
        features = self._encoder.encode(rows)
        grid = rows[0].image.pixels.shape[0] // self._encoder.backbone.patch_size
        all_cls, all_patches = features.cls.cpu().numpy(), features.patches.cpu().numpy()
        self.batches += 1
        return [
            ImageFeatures(cls, patches.reshape(grid, grid, -1))
            for cls, patches in zip(all_cls, all_patches, strict=True)
        ]


def _distinct_adapters(rows: Sequence[Row]) -> int:
    return len({row.adapter.ref if row.adapter else None for row in rows})
