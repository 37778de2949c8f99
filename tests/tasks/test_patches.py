"""Patches of an object that are found anywhere in an image, measured against a cohort."""

from __future__ import annotations

import numpy as np
import pytest

from persrep_ray.tasks.patches import MOST_PATCHES, MOST_PHOTOS, PatchModel

GRID, WIDTH = 6, 32
RANDOM = np.random.default_rng(0)
PARTS = RANDOM.normal(size=(4, WIDTH))  # of the object
COMMON = RANDOM.normal(size=(3, WIDTH))  # of every image


def images(count: int, seed: int, parts: int = 0) -> np.ndarray:
    """Patch features (N, h, w, D) of images with `parts` parts of the object and one common thing, wherever."""
    random = np.random.default_rng(seed)
    made = random.normal(size=(count, GRID * GRID, WIDTH)) * 0.9
    for image in made:
        where = random.permutation(GRID * GRID)
        for place, part in zip(where, [*PARTS[:parts], *COMMON], strict=False):
            image[place] = part * 1.5 + random.normal(size=WIDTH) * 0.3
    return made.reshape(count, GRID, GRID, WIDTH).astype(np.float32)


def shown(photos: np.ndarray) -> list[np.ndarray | None]:
    """Which patches of the photos show a part or the common thing."""
    wanted = np.concatenate([PARTS, COMMON])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    units = photos / np.linalg.norm(photos, axis=-1, keepdims=True)
    masks: list[np.ndarray | None] = []
    for image in units:
        likeness = (image @ wanted.T).max(axis=-1)
        masks.append(likeness >= np.sort(likeness.ravel())[-8])
    return masks


@pytest.fixture(scope="module")
def model() -> PatchModel:
    photos, others = images(3, 1, parts=4), images(20, 2)
    plain = PatchModel.fit(photos, shown(photos), others)
    return plain.against(plain.matches(others))


def test_an_image_with_the_parts_exceeds_the_cohort_and_others_do_not(model: PatchModel) -> None:
    of_object = model.scores(model.matches(images(10, 3, parts=4)))
    of_others = model.scores(model.matches(images(10, 4)))
    assert of_object.min() > of_others.max()
    half = model.scores(model.matches(images(10, 5, parts=2)))
    assert of_others.mean() < half.mean() < of_object.mean()  # what is hidden costs its share


def test_what_every_image_has_says_nothing(model: PatchModel) -> None:
    common = model.patches @ np.mean(model.whitening(COMMON.astype(np.float32)), axis=0)
    assert model.base[common.argmax()] > np.median(model.base) + 0.1


def test_a_photo_is_not_judged_by_its_own_patches(model: PatchModel) -> None:
    photos = images(3, 1, parts=4)
    matches = model.matches(photos)
    for index in range(3):
        assert model.scores(matches[index : index + 1], without=index) < model.scores(matches[index : index + 1]) - 0.05


def test_many_photos_take_no_more_room() -> None:
    photos = images(40, 6, parts=4)
    model = PatchModel.fit(photos, [None] * 40, images(5, 7))
    assert len(model.patches) <= MOST_PATCHES and len(np.unique(model.photos)) == MOST_PHOTOS


def test_an_object_without_a_cohort_compares_with_nothing() -> None:
    photos = images(2, 8, parts=4)
    model = PatchModel.fit(photos, [None, None], images(5, 9))
    assert not model.against(np.empty((0, len(model.patches)))).base.any()


class TestArrays:
    def test_they_make_the_same_model(self, model: PatchModel) -> None:
        again = PatchModel.from_arrays(model.to_arrays(), "patches")
        tests = images(4, 10, parts=3)
        np.testing.assert_allclose(again.scores(again.matches(tests)), model.scores(model.matches(tests)), atol=1e-6)
        assert again.nbytes == model.nbytes

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("patches", None, "patches.patches is missing"),
            ("patches", np.zeros((97, WIDTH), np.int8), "has 97 rows, not 1 to 96"),
            ("patches", np.zeros((5, WIDTH + 1), np.int8), r"patches.patches has type int8 and shape \(5, 33\)"),
            ("base", np.full(24, np.nan, np.float32), "patches.base has a value that is not finite"),
            ("photos", np.zeros(3, np.int32), r"patches.photos has type int32 and shape \(3,\)"),
            ("directions", np.zeros((33, WIDTH), np.int8), "directions has 33 rows, not 0 to 32"),
        ],
    )
    def test_damaged_ones_are_refused(
        self, model: PatchModel, name: str, value: np.ndarray | None, message: str
    ) -> None:
        arrays = {key: array for key, array in model.to_arrays().items() if key != name}
        if value is not None:
            arrays[name] = value
        with pytest.raises(ValueError, match=message):
            PatchModel.from_arrays(arrays, "patches")
