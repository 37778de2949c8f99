from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from tiny import shape, tiny_backbone

from persrep_ray.config import DataConfig, ViewsConfig
from persrep_ray.train.inputs import TrainInputs
from persrep_ray.train.views import ViewStore, augment

Inputs = Callable[[str], TrainInputs]


def store(seed: int = 0, **changes: int) -> ViewStore:
    return ViewStore(tiny_backbone(), ViewsConfig(**changes), DataConfig(), size=56, seed=seed)  # type: ignore[arg-type]


def test_image_and_mask_move_alike() -> None:
    image, mask = shape((250, 10, 10), seed=3, size=200)
    rng = np.random.default_rng(0)
    for _ in range(20):
        view, moved = augment(rng, image, mask, 64, ViewsConfig(light=0.0), 0.4)
        assert moved is not None and view.shape == (64, 64, 3) and moved.shape == (64, 64)
        red = (view[..., 0] > 200) & (view[..., 1] < 60)
        both, either = np.count_nonzero(red & moved), np.count_nonzero(red | moved)
        assert either == 0 or both / either > 0.9


def test_without_freedom_a_view_is_the_photo() -> None:
    image, _ = shape((250, 10, 10), seed=3, size=64)
    still = ViewsConfig(rotation=0.0, light=0.0)
    views = {augment(np.random.default_rng(seed), image, None, 64, still, 1.0)[0].tobytes() for seed in range(8)}
    assert views == {image.tobytes(), np.ascontiguousarray(image[:, ::-1]).tobytes()}  # the flip remains


def test_views_depend_on_the_seed_and_the_photo_alone(make_inputs: Inputs) -> None:
    photos = make_inputs("red").photos
    forward, backward, other_seed = store(), store(), store(seed=1)
    first = [forward.photo(photo).hidden for photo in photos]
    second = [backward.photo(photo).hidden for photo in reversed(photos)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    third = other_seed.photo(photos[0]).hidden
    assert torch.equal(third[0], first[0][0]) and not torch.equal(third[1:], first[0][1:])  # the standard view stays


def test_a_forgotten_photo_gives_the_same_views_again(make_inputs: Inputs) -> None:
    photos = make_inputs("red").photos
    small = store(cached_photos=1)
    first = small.photo(photos[0])
    small.photo(photos[1])
    again = small.photo(photos[0])
    assert again is not first and torch.equal(again.hidden, first.hidden)
    assert small.photo(photos[0]) is again


def test_foreground_is_the_share_of_each_patch(make_inputs: Inputs) -> None:
    views = store().photo(make_inputs("red").photos[0])
    grid = views.foreground[0].view(4, 4)
    assert grid[1:3, 1:3].mean() > 0.6 and grid[0, 0] == 0 and 0 < grid.mean() < 0.5


def test_synthetic_images_have_one_view_each(make_inputs: Inputs) -> None:
    inputs = make_inputs("red")
    views = store().synthetic(inputs.positives)
    assert len(views) == len(inputs.positives) and torch.isfinite(views.foreground).all()
    alone = store().synthetic(inputs.positives[2:3])
    torch.testing.assert_close(alone.hidden[0], views.hidden[2])
