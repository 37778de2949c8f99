"""Recognizers (`tasks.recognize`), fitted to what an evaluation saw of an object and of anything else."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from persrep_ray.data import bank
from persrep_ray.data.objects import Photo
from persrep_ray.evaluate.photo_cache import ViewFeatures
from persrep_ray.evaluate.scan import Scan
from persrep_ray.tasks.patches import PatchModel
from persrep_ray.tasks.recognize import Recognizer, WitnessName


def cohort_photos() -> list[Photo]:
    """The photos of the bank that every recognizer compares with, whatever neighbours the object has."""
    return [photo for thing in bank.things("cohort").values() for photo in thing.train]


def fit(
    own: Scan,
    others: Scan,
    patches: PatchModel,
    own_matches: np.ndarray,
    other_matches: np.ndarray,
    synthetic_positives: np.ndarray,
    synthetic_others: ViewFeatures,
    geometry: tuple[np.ndarray, np.ndarray] | None,
) -> Recognizer:
    """The recognizer from what one side saw.

    Args:
        own: the object's photos.
        others: photos of other objects and of the bank.
        patches: the object's, without a cohort.
        own_matches: their matches (T, K) on `own`.
        other_matches: their matches (N, K) on `others`.
        synthetic_positives: embeddings (P, D) of synthetic images of the object.
        synthetic_others: features of synthetic images of anything else.
        geometry: the scores of the keypoints on photos of the object, which they were not taken from, and of others.
    """
    names = np.array([one.photo.object_id for one in others.seen])
    known = patches.against(other_matches)
    alike = [
        known.scores(own_matches[row : row + 1], without=row)[0]
        for row in range(len(own_matches))
        if set(patches.photos) - {row}
    ]
    # A photo is not compared with its own object, which is not in the cohort of an object that is yet unknown.
    unlike = [
        patches.against(other_matches[names != name]).scores(other_matches[names == name]) for name in np.unique(names)
    ]
    if len(synthetic_others.cls):
        unlike.append(known.scores(patches.matches(synthetic_others.patches)))
    held_out: Mapping[WitnessName, tuple[np.ndarray, np.ndarray]] = {
        "patches": (np.array(alike), np.concatenate(unlike)),
        **({} if geometry is None else {"geometry": geometry}),
    }
    fitted = Recognizer.fit(
        own.cls,
        others.cls,
        list(names),
        synthetic_positives=synthetic_positives,
        synthetic_others=synthetic_others.cls,
        held_out=held_out,
        patches=known,
    )
    return Recognizer.from_arrays(fitted.to_arrays())  # rounded, so that what is measured is what is published
