"""What a version knows of its object beside the adapter: how to recognise it, and how to find it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from persrep_ray.tasks import keypoints as of_keypoints
from persrep_ray.tasks import recognize
from persrep_ray.tasks.find import Finder
from persrep_ray.tasks.keypoints import GeometricMatch, KeypointModel, published_keypoints, witness_score
from persrep_ray.tasks.recognize import Recognizer, WitnessName, published_recognizer


@dataclass(frozen=True)
class ObjectModel:
    """An object's models, all made from features under its adapter, except for the keypoints.

    `finder` and `keypoints` are None for an object without masks, `keypoints` also for one that has too few of them.
    """

    recognizer: Recognizer
    finder: Finder | None = None
    keypoints: KeypointModel | None = None

    @property
    def nbytes(self) -> int:
        parts = (self.recognizer, self.finder, self.keypoints)
        return sum(part.nbytes for part in parts if part is not None)

    @property
    def uses_geometry(self) -> bool:
        """Whether keypoints help to recognise the object: on at least a half of its photos they find it.

        They cost more than everything else, so that objects without a print do without them.
        """
        witness = self.recognizer.witnesses.get("geometry")
        return self.keypoints is not None and witness is not None and witness.miss <= 0.5

    def evidence(self, cls: np.ndarray, patches: np.ndarray) -> np.ndarray:
        """The evidence (N,), in nats, of features that images show the object (`Recognizer.evidence`).

        Args:
            cls: the embeddings (N, D), under the adapter, of the images' standard views.
            patches: the patch features (N, h, w, D) of the same views.
        """
        of_patches = self.recognizer.patches
        scores: dict[WitnessName, np.ndarray] = {}
        if of_patches is not None:
            scores["patches"] = of_patches.scores(of_patches.matches(patches))
        return self.recognizer.evidence(cls, scores)

    def geometric_evidence(self, matches: Sequence[GeometricMatch]) -> float:
        """What `matches`, which the keypoints find on an image, add to its evidence: 0 if geometry is not used."""
        if not self.uses_geometry:
            return 0.0
        return float(self.recognizer.witnesses["geometry"].evidence(np.array(witness_score(matches))))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The models as arrays, which `from_arrays` reads."""
        arrays = {f"{recognize.PREFIX}{name}": array for name, array in self.recognizer.to_arrays().items()}
        if self.finder is not None:
            arrays |= self.finder.to_arrays()
        if self.keypoints is not None:
            arrays |= {f"{of_keypoints.PREFIX}{name}": array for name, array in self.keypoints.to_arrays().items()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], dimensions: int) -> ObjectModel | None:
        """The models among the arrays of a version, whose features have so many dimensions.

        None if it has none, because it was published long ago. Raises ValueError unless the arrays are right.
        """
        recognizer = published_recognizer(arrays, dimensions)
        if recognizer is None:
            return None
        return cls(recognizer, Finder.from_arrays(arrays, dimensions), published_keypoints(arrays))
