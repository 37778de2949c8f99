from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.probes import FRONT, GROUND, HAND, THING, patches, tiny_probes
from PIL import Image

from persrep_ray.backbones.embedded import EmbeddedSaliency
from persrep_ray.masks.probes import MaskProbes, border

MINI_PODS = Path(__file__).parents[2] / "examples/mini_pods"


def test_the_border_decides_whether_a_package_fills_a_photo() -> None:
    inner_front = patches(GROUND)
    inner_front[~border(16)] = FRONT
    outer_front = patches(THING)
    outer_front[border(16)] = FRONT
    assert not tiny_probes().filled(inner_front)
    assert tiny_probes().filled(outer_front)


def test_hands_lose_their_saliency_and_things_keep_it() -> None:
    seen = patches(THING)
    seen[128:] = HAND  # the lower half
    rest = tiny_probes().without_hands(np.full((224, 224), 0.9, np.float32), seen)
    assert rest.shape == (224, 224) and rest.dtype == np.float32
    assert rest[:100].min() > 0.8 and rest[124:].max() < 0.2


def test_if_nearly_all_that_is_salient_is_a_hand_it_is_the_object() -> None:
    saliency = np.full((224, 224), 0.9, np.float32)
    assert np.array_equal(tiny_probes().without_hands(saliency, patches(HAND)), saliency)


@pytest.mark.parametrize("name", ["mug_0", "bottle_0", "tin_0", "screwdriver_0"])
def test_ordinary_photos_keep_their_saliency(name: str) -> None:
    image = np.array(Image.open(MINI_PODS / f"train/{name}/01.jpg"))
    saliency, seen = EmbeddedSaliency().look(image)
    probes = MaskProbes()
    assert not probes.filled(seen)
    salient = saliency > 0.5
    assert (probes.without_hands(saliency, seen)[salient] > 0.5).mean() > 0.95
