"""Recognizers (`tasks.recognize`), fitted to what an evaluation saw of an object and of anything else."""

from __future__ import annotations

import numpy as np

from persrep_ray.data import bank
from persrep_ray.data.objects import Photo
from persrep_ray.evaluate.scan import Scan
from persrep_ray.tasks.recognize import Recognizer


def cohort_photos() -> list[Photo]:
    """The photos of the bank that every recognizer compares with, whatever neighbours the object has."""
    return [photo for thing in bank.things("cohort").values() for photo in thing.train]


def fit(gallery: Scan, cohort: Scan, synthetic_positives: np.ndarray, synthetic_others: np.ndarray) -> Recognizer:
    """The recognizer from one side's embeddings of train photos, of the bank, and of synthetic images.

    Embeddings are its only witness: another one would have to be judged on photos that it was not made from.
    """
    others = [*gallery.distractors().seen, *cohort.seen]
    fitted = Recognizer.fit(
        gallery.of_object().cls,
        np.stack([one.cls for one in others]),
        [one.photo.object_id for one in others],
        synthetic_positives=synthetic_positives,
        synthetic_others=synthetic_others,
        held_out={},
    )
    return Recognizer.from_arrays(fitted.to_arrays())  # rounded, so that what is measured is what is published
