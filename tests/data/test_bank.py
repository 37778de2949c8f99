"""The bank of generic negatives that comes with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from persrep_ray.config import DataConfig
from persrep_ray.data import bank
from persrep_ray.data.images import read_mask, read_rgb
from persrep_ray.data.tree import check_object_id

FOLDER = Path(str(resources.files("persrep_ray.data"))) / "bank"


def test_both_parts_have_things_of_the_same_many_categories_and_share_no_thing() -> None:
    negatives, cohort = bank.things("negatives"), bank.things("cohort")
    assert not set(negatives) & set(cohort)
    categories = [{thing.category for thing in part.values()} for part in (negatives, cohort)]
    assert categories[0] == categories[1] and len(categories[0]) >= 50


def test_a_thing_cannot_be_mistaken_for_an_object_of_the_user() -> None:
    for thing in bank.things("negatives"):
        with pytest.raises(ValueError, match="bad object id"):
            check_object_id(thing)


def test_every_photo_has_a_mask_of_the_thing() -> None:
    for part in ("negatives", "cohort"):
        for thing in bank.things(part).values():  # type: ignore[arg-type]
            for photo in thing.train:
                image, mask = read_rgb(photo.path, DataConfig()), read_mask(photo.mask, DataConfig())  # type: ignore[arg-type]
                assert mask.shape == image.shape[:2] and 0.02 < mask.mean() < 0.9, photo.path


def test_it_is_small_and_states_its_license() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 3 * 1024**2
    assert "Apache-2.0" in (FOLDER / "LICENSE").read_text()
