from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from helpers.tiny import shape, tiny_backbone

from persrep_ray.config import DataConfig, ViewsConfig
from persrep_ray.train.batches import TrainInputs
from persrep_ray.train.views import ViewStore, augment

Inputs = Callable[[str], TrainInputs]


def store(seed: int = 0, **changes: int) -> ViewStore:
    return ViewStore(tiny_backbone(), ViewsConfig(**changes), DataConfig(), size=56, seed=seed)  # type: ignore[arg-type]


def test_a_crop_is_upright_and_in_place() -> None:
    ramp = np.zeros((100, 100, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.mgrid[:100, :100] * 2  # red tells the row, green the column
    still = ViewsConfig(rotation=0.0, light=0.0)
    for seed in range(10):
        view = augment(np.random.default_rng(seed), ramp, 50, still, 0.25).astype(float)
        rows, columns = np.diff(view[..., 0].mean(axis=1)), np.abs(np.diff(view[..., 1].mean(axis=0)))
        assert np.allclose(rows, rows[0], atol=1.1) and rows[0] > 0  # level and not upside down
        assert 0.9 <= rows.mean() <= 4.1 and abs(rows.mean() - columns.mean()) < 0.1  # 50 to 100 px on 50


def test_without_augmentation_a_view_is_the_photo() -> None:
    image, _ = shape((250, 10, 10), seed=3, size=64)
    still = ViewsConfig(rotation=0.0, light=0.0)
    views = {augment(np.random.default_rng(seed), image, 64, still, 1.0).tobytes() for seed in range(8)}
    assert views == {image.tobytes(), np.ascontiguousarray(image[:, ::-1]).tobytes()}  # only the flip remains


def test_views_depend_only_on_the_seed_and_the_photo(make_inputs: Inputs) -> None:
    photos = make_inputs("red").photos
    forward, backward, other_seed = store(), store(), store(seed=1)
    first = [forward.photo(photo) for photo in photos]
    second = [backward.photo(photo) for photo in reversed(photos)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    third = other_seed.photo(photos[0])
    assert torch.equal(third[0], first[0][0]) and not torch.equal(
        third[1:], first[0][1:]
    )  # the standard view is the same


def test_a_photo_that_left_the_cache_gives_the_same_views_again(make_inputs: Inputs) -> None:
    photos = make_inputs("red").photos
    small = store(cached_photos=1)
    first = small.photo(photos[0])
    small.photo(photos[1])
    again = small.photo(photos[0])
    assert again is not first and torch.equal(again, first)
    assert small.photo(photos[0]) is again


def test_synthetic_images_have_one_view_each(make_inputs: Inputs) -> None:
    inputs = make_inputs("red")
    views = store().synthetic(inputs.positives)
    assert views.shape == (len(inputs.positives), 1 + 16, 32)
    alone = store().synthetic(inputs.positives[2:3])
    torch.testing.assert_close(alone[0], views[2])
