from __future__ import annotations

import numpy as np
import pytest

from persrep_ray.tasks.discriminant import DiscriminantError, fit_discriminant

GRID, WIDTH = 8, 6


def image(seed: int, *objects: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
    """Patches (8, 8, 6) of noise and a common direction, with another direction under the `objects`, and their mask."""
    patches = 0.2 * np.random.default_rng(seed).normal(size=(GRID, GRID, WIDTH)).astype(np.float32)
    patches[..., 0] += 1
    mask = np.zeros((GRID * 4, GRID * 4), dtype=bool)
    for rows, columns in objects:
        patches[rows, columns, 1] += 0.8
        mask[rows.start * 4 : rows.stop * 4, columns.start * 4 : columns.stop * 4] = True
    return patches, mask


def test_it_tells_object_patches_from_the_rest_on_new_images() -> None:
    patches, masks = zip(image(0, np.s_[1:4, 2:6]), image(1, np.s_[4:7, 0:3]), image(2), strict=True)
    found = fit_discriminant(patches, masks)
    new, mask = image(9, np.s_[2:5, 3:7])
    shown = mask[::4, ::4]
    scores = found.map(new)
    assert ((scores >= found.cut) == shown).mean() > 0.95
    assert scores[shown].mean() == pytest.approx(1, abs=0.2)
    assert scores[~shown].mean() == pytest.approx(0, abs=0.2)
    np.testing.assert_allclose(found.map(7 * new), scores, atol=1e-5)  # the length of features does not matter


def test_both_sides_weigh_the_same_however_many_patches_they_have() -> None:
    few, many = (
        fit_discriminant(*zip(image(0, np.s_[1:4, 2:6]), *(image(seed) for seed in range(1, more)), strict=True))
        for more in (4, 20)
    )
    cosine = few.direction @ many.direction / np.linalg.norm(few.direction) / np.linalg.norm(many.direction)
    assert cosine > 0.9
    assert few.cut == pytest.approx(many.cut, abs=0.15)


def test_bad_input_is_named() -> None:
    patches, mask = image(0, np.s_[1:4, 2:6])
    with pytest.raises(DiscriminantError, match="needs images"):
        fit_discriminant([], [])
    with pytest.raises(DiscriminantError, match="patches on the object and patches off it"):
        fit_discriminant([patches], [np.zeros_like(mask)])
    with pytest.raises(DiscriminantError, match="patches on the object and patches off it"):
        fit_discriminant([patches], [np.ones_like(mask)])
    with pytest.raises(ValueError, match="1 images with 2 masks"):
        fit_discriminant([patches], [mask, mask])
    with pytest.raises(ValueError, match="image 0 have a value that is not finite"):
        fit_discriminant([patches * np.nan], [mask])
    with pytest.raises(ValueError, match="patches of the image have 2 dimensions, the discriminant 6"):
        fit_discriminant([patches], [mask]).map(patches[..., :2])
