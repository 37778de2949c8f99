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
from persrep_ray.tasks.dense import LONGEST_SIDE, DensePrediction, predict
from persrep_ray.tasks.find import Finder, Proposals
from persrep_ray.tasks.model import ObjectModel


async def locate(adapter: Adapter, image: np.ndarray, extractor: FeatureExtractor) -> DensePrediction:
    """The answer of `Engine.locate`, found as evaluation finds it, so that its metrics hold.

    Raises:
        NoMasksError: the object was published without masks.
        AdapterUnusableError: its arrays do not fit, or make scores that are not finite.
    """
    finder = None if adapter.model is None else adapter.model.finder
    if adapter.dense is None and finder is None:
        named = f"object {adapter.ref.object_id}, version {adapter.ref.version}"
        raise NoMasksError(f"{named}: published without masks")
    whole = await extractor.features(await extractor.dense(image), adapter)
    try:
        if adapter.model is not None and finder is not None:
            found = await _looked_at_twice(adapter, adapter.model, finder, image, whole.patches, extractor)
        else:
            found = await extractor.in_thread(lambda: _by_threshold(adapter, image, whole.patches))
    except ValueError as error:
        raise unusable(adapter.ref, error) from error
    figures = [figure for one in found.instances for figure in (one.score, one.probability or 0.0)]
    if not all(map(math.isfinite, figures)) or not np.isfinite(found.similarity).all():
        raise unusable(adapter.ref, "its scores are not finite")
    sure = [one for one in found.instances if one.probability is None or one.probability >= LEAST_PROBABILITY]
    sure.sort(key=lambda one: -(one.probability or 0.0))
    return replace(found, instances=tuple(sure[:MOST_INSTANCES]))


async def _looked_at_twice(
    adapter: Adapter,
    model: ObjectModel,
    finder: Finder,
    image: np.ndarray,
    patches: np.ndarray,
    extractor: FeatureExtractor,
) -> DensePrediction:
    """What the finder decides after a second look at its best proposals."""
    matches = [] if model.keypoints is None else await extractor.matches(image, model.keypoints)

    def first_look() -> tuple[Proposals, list[np.ndarray]]:
        proposals = finder.propose(image, patches, matches)
        return proposals, finder.crops(image, proposals)

    proposals, crops = await extractor.in_thread(first_look)
    views = [await extractor.standard(crop) for crop in crops]
    looks = await asyncio.gather(*(extractor.features(view, adapter) for view in views))

    def decide() -> DensePrediction:
        likeness = model.recognizer.likeness(np.stack([look.cls for look in looks])) if looks else np.empty(0)
        return finder.decide(image, proposals, likeness)

    return await extractor.in_thread(decide)


def _by_threshold(adapter: Adapter, image: np.ndarray, patches: np.ndarray) -> DensePrediction:
    """What is found for an object that was published before there were finders."""
    assert adapter.dense is not None
    return predict(adapter.dense, patches, capped_size((image.shape[0], image.shape[1]), LONGEST_SIDE))
