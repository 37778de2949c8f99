"""Where an image shows an object: its finder searches, and looks a second time at the best places."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import numpy as np

from persrep_ray.data.images import capped_size
from persrep_ray.serving.engine.adapters import Adapter, unusable
from persrep_ray.serving.engine.answers import LEAST_PROBABILITY, MOST_INSTANCES
from persrep_ray.serving.engine.errors import NoMasksError
from persrep_ray.serving.engine.features import FeatureExtractor
from persrep_ray.tasks.dense import LONGEST_SIDE, DensePrediction, DenseReference, predict
from persrep_ray.tasks.find import Finder


async def locate(adapter: Adapter, image: np.ndarray, extractor: FeatureExtractor) -> DensePrediction:
    """The answer of `Engine.locate`, found as evaluation finds it, so that its metrics hold.

    Raises:
        NoMasksError: the object was published without masks.
        AdapterUnusableError: its arrays do not fit, or make scores that are not finite.
    """
    try:
        if adapter.finder is not None:
            found = await _found(adapter, adapter.finder, image, extractor)
        elif adapter.dense is not None:
            found = await _found_by_threshold(adapter, adapter.dense, image, extractor)
        else:
            named = f"object {adapter.ref.object_id}, version {adapter.ref.version}"
            raise NoMasksError(f"{named}: published without masks")
    except ValueError as error:
        raise unusable(adapter.ref, error) from error
    figures = [figure for one in found.instances for figure in (one.score, one.probability or 0.0)]
    if not all(map(math.isfinite, figures)) or not np.isfinite(found.similarity).all():
        raise unusable(adapter.ref, "its scores are not finite")
    sure = [one for one in found.instances if one.probability is None or one.probability >= LEAST_PROBABILITY]
    sure.sort(key=lambda one: -(one.probability or 0.0))
    return replace(found, instances=tuple(sure[:MOST_INSTANCES]))


async def _found(adapter: Adapter, finder: Finder, image: np.ndarray, extractor: FeatureExtractor) -> DensePrediction:
    whole = await extractor.features(await extractor.dense(image), adapter)
    proposals = await extractor.in_thread(lambda: finder.propose(image, whole.patches))
    crops = await extractor.in_thread(lambda: finder.crops(image, proposals))
    views = [await extractor.standard(crop) for crop in crops]
    looks = await asyncio.gather(*(extractor.features(view, adapter) for view in views))
    cls = np.array([look.cls for look in looks]).reshape(len(looks), -1)
    patches = np.array([look.patches for look in looks])
    return await extractor.in_thread(lambda: finder.decide(image, proposals, cls, patches))


async def _found_by_threshold(
    adapter: Adapter, reference: DenseReference, image: np.ndarray, extractor: FeatureExtractor
) -> DensePrediction:
    whole = await extractor.features(await extractor.dense(image), adapter)
    size = capped_size((image.shape[0], image.shape[1]), LONGEST_SIDE)
    return await extractor.in_thread(lambda: predict(reference, whole.patches, size))
