"""Which test photos the contact sheet shows, and under which titles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from persrep_ray.data.objects import Photo
from persrep_ray.evaluate.scan import Scan
from persrep_ray.tasks import classification

OWN_ROWS = 6


def choose_rows(galleries: tuple[Scan, Scan], tests: tuple[Scan, Scan]) -> Iterator[tuple[Photo, str]]:
    """Photos and titles, from the scans of the pretrained and the personalized features.

    First own test photos, those with a truth before the others; then, for either features, the photo of another object
    that they take for the object most. A title tells the classification scores before and after.
    """
    before, after = (_scores(gallery, test) for gallery, test in zip(galleries, tests, strict=True))
    chosen = sorted((one.photo for one in tests[0].own().seen), key=lambda photo: photo.mask is None)[:OWN_ROWS]
    for scores in (before, after):
        others = [one.photo for one in tests[0].others().seen if one.photo not in chosen]
        chosen += sorted(others, key=lambda photo: scores[photo.path], reverse=True)[:1]
    for photo in chosen:
        name = f"{photo.object_id}/{photo.path.name}"
        whose = "" if photo.object_id == tests[0].object_id else "another object: "
        yield photo, f"{whose}{name}   score {before[photo.path]:.2f} → {after[photo.path]:.2f}"


def _scores(gallery: Scan, tests: Scan) -> dict[Path, float]:
    """Each test photo's classification score."""
    if not tests.seen:
        return {}
    scores = classification.scores(gallery.own().cls, tests.cls)
    return {one.photo.path: float(score) for one, score in zip(tests.seen, scores, strict=True)}
