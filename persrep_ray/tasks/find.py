"""Finding an object on an image, in the same way in evaluation and in serving.

proposals = finder.propose(image, patches, keypoints)   # parts of the image that may show the object
looks = encode(finder.crops(image, proposals))          # by the caller, under the object's adapter
prediction = finder.decide(image, proposals, looks.cls, looks.patches)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from persrep_ray.data.images import capped_size
from persrep_ray.tasks.dense import LONGEST_SIDE, SMALLEST_COMPONENT, DensePrediction, Instance, bounding_box, crop
from persrep_ray.tasks.discriminant import Discriminant
from persrep_ray.tasks.features import normalize

SECOND_LOOKS = 2
"""How many crops of an image are encoded once more. With them, a search costs at most twice its first look."""

_MARGIN = 1.2  # side of a look over the longer side of its box
_STANDARD = 8 / 7  # a standard view shows the middle 7/8 of an image


@dataclass(frozen=True)
class Proposal:
    """A part of the image that may show the object; box and mask as in `dense.Instance`."""

    box: np.ndarray
    mask: np.ndarray
    score: float


@dataclass(frozen=True)
class Proposals:
    """The proposals on an image, best first, in pixels of a photo of `size` (H, W), and the patches' scores (h, w)."""

    proposals: tuple[Proposal, ...]
    similarity: np.ndarray
    size: tuple[int, int]


class Finder:
    """What is known of an object for finding it on an image.

    Args:
        looks: the unit CLS features (T, D) of the train photos, cropped to the object as `crops` does.
        calibration: slope and intercept of an instance's probability, a sigmoid of its score.
    """

    def __init__(self, discriminant: Discriminant, looks: np.ndarray, calibration: tuple[float, float]) -> None:
        self.discriminant = discriminant
        self.looks = looks
        self.calibration = calibration

    @property
    def uses_keypoints(self) -> bool:
        """Whether `propose` needs the image's keypoints."""
        return False

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.to_arrays().values())

    def propose(self, image: np.ndarray, patches: np.ndarray, keypoints: Any = None) -> Proposals:
        """The first look.

        Args:
            image: (H, W, 3) uint8 RGB, at most `data.images.IMAGE_SIDE` wide and high.
            patches: the features (h, w, D) of its dense view.
            keypoints: those of the image, or None.

        Raises:
            ValueError: shapes do not fit, or features are not finite.
        """
        size = capped_size((image.shape[0], image.shape[1]), LONGEST_SIDE)
        scores = self.discriminant.map(patches)
        upsampled = cv2.resize(scores, size[::-1], interpolation=cv2.INTER_CUBIC)
        count, labels = cv2.connectedComponents((upsampled >= self.discriminant.cut).astype(np.uint8), connectivity=4)
        proposals = []
        for label in range(1, count):
            mask = labels == label
            if np.count_nonzero(mask) >= SMALLEST_COMPONENT:
                box = bounding_box(mask)
                assert box is not None
                proposals.append(Proposal(box, crop(mask, box), float(upsampled[mask].mean())))
        proposals.sort(key=lambda one: -one.score)
        return Proposals(tuple(proposals), np.clip(scores, -1, 1), size)

    def crops(self, image: np.ndarray, proposals: Proposals) -> list[np.ndarray]:
        """The images (S, S, 3) uint8 of the second look, at most `SECOND_LOOKS`, to be encoded as standard views."""
        scale = image.shape[0] / proposals.size[0]
        return [look(image, one.box * scale) for one in proposals.proposals[:SECOND_LOOKS]]

    def decide(self, image: np.ndarray, proposals: Proposals, cls: np.ndarray, patches: np.ndarray) -> DensePrediction:
        """What is found, given the features of the n crops as standard views: `cls` (n, D) and `patches` (n, h, w, D).

        Without crops, n is 0. Raises ValueError if shapes do not fit or features are not finite.
        """
        likeness = (normalize(cls) @ self.looks.T).max(axis=1) if len(cls) else np.empty(0)
        slope, intercept = self.calibration
        instances = []
        for index, one in enumerate(proposals.proposals):
            score = one.score + float(likeness[index]) if index < len(likeness) else one.score - 1
            instances.append(Instance(one.box, one.mask, score, _sigmoid(slope * score + intercept)))
        instances.sort(key=lambda one: -one.score)
        return DensePrediction(tuple(instances), proposals.similarity, proposals.size)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything as float32 arrays, from which `from_arrays` makes the same finder."""
        return {
            "discriminant.direction": self.discriminant.direction,
            "discriminant.origin": self.discriminant.origin,
            "discriminant.cut": np.array([self.discriminant.cut], np.float32),
            "find.looks": self.looks,
            "find.calibration": np.array(self.calibration, np.float32),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], width: int) -> Finder | None:
        """The finder in `arrays`, or None if they hold none: the object was published without masks or long ago.

        Args:
            arrays: those of a version, which may be damaged or hostile.
            width: D, the dimensions of the backbone's features.

        Raises:
            ValueError: an array is missing, has another shape or type, or holds a value that is not finite.
        """
        if "discriminant.direction" not in arrays:
            return None

        def read(name: str, *shape: int | None) -> np.ndarray:
            array = arrays.get(name)
            if array is None:
                raise ValueError(f"{name} is missing")
            fits = array.ndim == len(shape) and all(
                size == wanted if wanted else size for size, wanted in zip(array.shape, shape, strict=True)
            )
            if not fits or not np.issubdtype(array.dtype, np.floating):
                raise ValueError(f"{name} is {array.dtype} {array.shape}, not {shape} floats")
            with np.errstate(over="ignore"):
                array = array.astype(np.float32)
                if not np.isfinite(np.square(array).sum()):
                    raise ValueError(f"{name} has a value that is not a finite number")
            return array

        cut = float(read("discriminant.cut", 1)[0])
        discriminant = Discriminant(read("discriminant.direction", width), read("discriminant.origin", width), cut)
        slope, intercept = (float(value) for value in read("find.calibration", 2))
        return cls(discriminant, normalize(read("find.looks", None, width)), (slope, intercept))


def look(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """A square crop (S, S, 3) uint8 whose standard view shows `box` [x, y, width, height] with a margin.

    Where the square leaves the image, the pixels at its border are repeated.
    """
    x, y, width, height = (float(value) for value in box)
    side = max(1, math.ceil(max(width, height) * _MARGIN * _STANDARD))
    left, top = round(x + width / 2 - side / 2), round(y + height / 2 - side / 2)
    rows = np.clip(np.arange(top, top + side), 0, image.shape[0] - 1)
    columns = np.clip(np.arange(left, left + side), 0, image.shape[1] - 1)
    return image[rows[:, None], columns]


def look_of_photo(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The look at the object on a train photo (H, W, 3), whose `mask` (H, W) bool is not empty."""
    box = bounding_box(mask)
    assert box is not None
    return look(image, box)


def _sigmoid(value: float) -> float:
    return (1 + math.tanh(value / 2)) / 2
