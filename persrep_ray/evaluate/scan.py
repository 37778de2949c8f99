"""What an evaluation saw on a set of photos, and the metrics that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from persrep_ray.data.objects import Photo
from persrep_ray.tasks import classification, retrieval
from persrep_ray.tasks.dense import DenseOutcome, coco_of_outcomes
from persrep_ray.tasks.metrics import flatten


@dataclass(frozen=True)
class Seen:
    """A photo, its CLS embedding (D,), and what was found on it if it takes part in the dense tasks.

    `evidence` is that of the object's recognizer. `paper` is what the mode `threshold` finds beside the default mode.
    """

    photo: Photo
    cls: np.ndarray
    evidence: float | None = None
    outcome: DenseOutcome | None = None
    paper: DenseOutcome | None = None


@dataclass(frozen=True)
class Scan:
    """N photos under one set of features, for the evaluation of one object."""

    object_id: str
    seen: Sequence[Seen]

    @property
    def cls(self) -> np.ndarray:
        """The CLS embeddings (N, D)."""
        return np.stack([one.cls for one in self.seen]) if self.seen else np.empty((0, 0), dtype=np.float32)

    @property
    def shows_object(self) -> np.ndarray:
        """Whether each photo shows the object, (N,) bool."""
        return np.array([one.photo.object_id == self.object_id for one in self.seen], dtype=bool)

    def only(self, keep: Callable[[Photo], bool]) -> Scan:
        """The photos for which `keep` is true."""
        return Scan(self.object_id, [one for one in self.seen if keep(one.photo)])

    def of_object(self) -> Scan:
        """The photos of the object."""
        return self.only(lambda photo: photo.object_id == self.object_id)

    def distractors(self) -> Scan:
        """The photos of other objects."""
        return self.only(lambda photo: photo.object_id != self.object_id)


def metrics(gallery: Scan, tests: Scan) -> dict[str, float]:
    """Flat metrics of the four tasks. `gallery` holds train photos. A task without data or evidence is absent.

    Classification and retrieval need a photo of another object, because without one every answer is right.
    """
    tasks: dict[str, dict[str, float]] = {}
    is_object, relevant = tests.shows_object, gallery.shows_object
    if is_object.any() and not is_object.all():
        tasks["classification"] = {"pr_auc": classification.pr_auc(gallery.of_object().cls, tests.cls, is_object)}
        evidence = [one.evidence for one in tests.seen if one.evidence is not None]
        if len(evidence) == len(tests.seen):
            tasks["served"] = {"pr_auc": classification.average_precision(np.array(evidence), is_object)}
    if is_object.any() and not relevant.all():
        tasks["retrieval"] = retrieval.scores(tests.of_object().cls, gallery.cls, relevant)
    for prefix, outcomes in (
        ("", [one.outcome for one in tests.seen if one.outcome]),
        ("paper.", [one.paper for one in tests.seen if one.paper]),
    ):
        if any(one.true_boxes for one in outcomes):
            tasks |= {prefix + task: values for task, values in coco_of_outcomes(outcomes).items()}
    return flatten(tasks)
