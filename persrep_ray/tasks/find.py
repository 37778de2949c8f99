"""Finding an object on an image, in the same way in evaluation and in serving.

    proposals = finder.propose(image, patches, matches)        # the first look: parts that may show the object
    looks = recognise(finder.crops(image, proposals))          # by the caller, under the object's adapter
    prediction = finder.decide(image, proposals, looks)

The discriminant says where to look. What it finds in one piece may be several things, so parts of it are proposed, too.
A part is judged by how much its patches look like the object's, one by one and in the mean, and the best parts by how
much more their crops are like the object than like anything else (`recognize.Recognizer.likeness`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from persrep_ray.data.images import capped_size
from persrep_ray.tasks.dense import (
    LONGEST_SIDE,
    DensePrediction,
    Instance,
    bounding_box,
    crop,
    largest_component,
)
from persrep_ray.tasks.discriminant import Discriminant, fit_discriminant
from persrep_ray.tasks.features import normalize
from persrep_ray.tasks.keypoints import GeometricMatch
from persrep_ray.tasks.logistic import fit_logistic, sigmoid
from persrep_ray.tasks.regions import regions, true_edges

SECOND_LOOKS = 2
"""How many crops of an image are encoded once more. With them, a search costs at most twice its first look."""

MOST_PHOTOS = 8
"""A finder remembers at most this many of the object's photos."""

_MOST_PROPOSALS = 16
_BLUR = 0.4  # patches; the score of a single patch is noisy
_LOW = 0.6  # of the cut: in an unseen pose the object scores less, and parts above tell it from what it merges with
_CONTAINED = 0.7  # of two parts that share this much of the smaller part, the better one stays
_MARGIN = 1.2  # side of a look over the longer side of its box
_STANDARD = 8 / 7  # a standard view shows the middle 7/8 of an image
_LEAST_GEOMETRY = 4.0  # score of a match from which it counts
_EVEN_GEOMETRY = 16.0  # score at which it is as likely right as wrong: neighbours of a brand reach 14, boxes 28
_SLOPE_GEOMETRY = 3.0  # of the logit over the log of the score
_PRIOR = np.array([5.0, 5.0, 5.0, -10.0])
"""The weights before any example. What looks like the object in its patches alone, as a plush dog does on a photo of
another plush toy, is told apart by the second look: 0.3 to 0.5 for the object, at most 0.02 for anything else."""


@dataclass(frozen=True)
class Sample:
    """An image (H, W, 3) uint8, its patch features (h, w, D), and the mask (H, W) bool of the object, empty without."""

    image: np.ndarray
    patches: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Proposal:
    """A part (H, W) bool of the image that may show the object, and how much it looks like the object.

    `fit` is the mean score of its pixels by the discriminant, and `likeness` the largest cosine between its mean patch
    and those of the train photos. `geometry` is the score of the keypoints that agree, and 0 if none do; the mask is
    then the outline that they carry over from a train photo.
    """

    mask: np.ndarray
    fit: float
    likeness: float
    geometry: float = 0.0


@dataclass(frozen=True)
class Proposals:
    """The proposals on an image, best first, in pixels of a photo of `size` (H, W), and the patches' scores (h, w)."""

    proposals: tuple[Proposal, ...]
    similarity: np.ndarray
    size: tuple[int, int]


class Finder:
    """What is known of an object for finding it on an image.

    Args:
        appearance: the unit mean patches (T, D) of the object on its train photos, relative to the origin of the
            discriminant.
        weights: (4,) for the logit of an instance's probability: those of fit, likeness and the second look, and the
            constant.
    """

    def __init__(self, discriminant: Discriminant, appearance: np.ndarray, weights: np.ndarray) -> None:
        self._discriminant = discriminant
        self._appearance = appearance
        self._weights = weights

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.to_arrays().values())

    def propose(self, image: np.ndarray, patches: np.ndarray, matches: Sequence[GeometricMatch] = ()) -> Proposals:
        """The first look.

        Args:
            image: (H, W, 3) uint8 RGB, at most `data.images.IMAGE_SIDE` wide and high.
            patches: the features (h, w, D) of its dense view.
            matches: what the object's keypoints find on the image (`KeypointModel.find`), the best first.

        Raises:
            ValueError: shapes do not fit, or features are not finite.
        """
        size = capped_size((image.shape[0], image.shape[1]), LONGEST_SIDE)
        centred = self._discriminant.centred(patches)
        scores = centred @ self._discriminant.direction
        smooth = cv2.resize(cv2.GaussianBlur(scores, (0, 0), _BLUR), size[::-1], interpolation=cv2.INTER_CUBIC)
        patch = round(size[0] * size[1] / scores.size)  # pixels
        found = []

        def add(mask: np.ndarray, geometry: float = 0.0) -> None:
            likeness = float((self._appearance @ mean_patch(centred, mask)).max())
            found.append(Proposal(mask, float(smooth[mask].mean()), likeness, geometry))

        for mask in regions(smooth, _LOW * self._discriminant.cut, least=max(1, patch)):
            add(mask)
        for match in matches[:_MOST_PROPOSALS]:
            mask = cv2.resize(
                match.mask(image.shape[:2]).astype(np.uint8), size[::-1], interpolation=cv2.INTER_AREA
            ).astype(bool)
            if match.score >= _LEAST_GEOMETRY and mask.any():
                add(mask, match.score)
        found.sort(key=lambda one: (-one.geometry, -(one.fit + one.likeness)))
        kept: list[Proposal] = []
        for one in found:
            if len(kept) < _MOST_PROPOSALS and not any(_shared(one.mask, other.mask) >= _CONTAINED for other in kept):
                kept.append(one)
        return Proposals(tuple(kept), np.clip(scores, -1, 1), size)

    def crops(self, image: np.ndarray, proposals: Proposals) -> list[np.ndarray]:
        """The images (S, S, 3) uint8 of the second look, at most `SECOND_LOOKS`, to be encoded as standard views."""
        return [look(image, proposals.proposals[index].mask) for index in _looked_at(proposals)]

    def decide(self, image: np.ndarray, proposals: Proposals, looks: np.ndarray) -> DensePrediction:
        """What is found, given how much the n crops are like the object: `looks` (n,) of `Recognizer.likeness`.

        Instances are ranked by their probability. Raises ValueError if shapes do not fit or features are not finite.
        """
        small = cv2.resize(image, proposals.size[::-1], interpolation=cv2.INTER_AREA)
        instances = []
        for one, seen in zip(proposals.proposals, self._evidence(proposals, looks), strict=True):
            mask = one.mask if one.geometry else edges_of(small, one.mask)
            box = bounding_box(mask)
            assert box is not None
            logit = float(self._weights @ [*seen, 1])
            if one.geometry:  # what the keypoints confirm may be too small or too pale for the patches
                sure = _SLOPE_GEOMETRY * math.log(one.geometry / _EVEN_GEOMETRY)
                logit = max(logit, 0.0) + sure if sure > 0 else max(logit, sure)
            instances.append(Instance(box, crop(mask, box), logit, sigmoid(logit)))
        instances.sort(key=lambda one: -one.score)
        return DensePrediction(tuple(instances), proposals.similarity, proposals.size)

    def _evidence(self, proposals: Proposals, looks: np.ndarray) -> list[tuple[float, float, float]]:
        """Fit, likeness and second look of each proposal.

        A proposal without a second look is taken to look as little like the object as the worst that had one.
        """
        if not np.isfinite(looks).all():
            raise ValueError("the features of a second look are not finite")
        seen = dict(zip(_looked_at(proposals), map(float, looks), strict=True))
        least = min(seen.values(), default=0.0)
        return [(one.fit, one.likeness, seen.get(index, least)) for index, one in enumerate(proposals.proposals)]

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays, from which `from_arrays` makes the same finder."""
        return {
            "discriminant.direction": self._discriminant.direction,
            "discriminant.origin": self._discriminant.origin,
            "discriminant.cut": np.array([self._discriminant.cut], np.float32),
            "find.appearance": self._appearance,
            "find.weights": self._weights,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], width: int) -> Finder | None:
        """The finder in `arrays`, or None if they hold none: the object was published without masks, or long ago.

        Args:
            arrays: those of a version, which may be damaged or hostile.
            width: D, the dimensions of the backbone's features.

        Raises:
            ValueError: an array is missing, has another shape or type, or holds a value that is not finite.
        """
        if "discriminant.direction" not in arrays:
            return None
        direction, origin = (_read(arrays, f"discriminant.{name}", width) for name in ("direction", "origin"))
        cut = float(_read(arrays, "discriminant.cut", 1)[0])
        appearance = _read(arrays, "find.appearance", None, width)
        if len(appearance) > MOST_PHOTOS:
            raise ValueError(f"find.appearance has more than {MOST_PHOTOS} rows")
        return cls(Discriminant(direction, origin, cut), normalize(appearance), _read(arrays, "find.weights", 4))


def fit_finder(
    photos: Sequence[Sample],
    synthetic: Sequence[Sample],
    recognise: Callable[[Sequence[np.ndarray], int | None], np.ndarray],
) -> Finder:
    """The finder of an object.

    Args:
        photos: train photos with masks, at most `MOST_PHOTOS`, with the patches of their dense views.
        synthetic: images of the object, whose masks are exact, and of anything else, which training has not seen.
        recognise: how much images are like the object, (n,), as `decide` wants it. Its second argument is the index of
            the photo that they were cut from, with which they are not compared, or None.

    The probability is fitted on what the finder proposes on the synthetic images, and on the photos, each of which is
    compared with the rest: a proposal is right if its IoU with the mask is at least 0.5.

    Raises:
        ValueError: there is no photo, shapes do not fit, or features are not finite.
    """
    samples = [*photos, *synthetic]
    discriminant = fit_discriminant([one.patches for one in samples], [one.mask for one in samples])
    means = [mean_patch(discriminant.centred(one.patches), one.mask) for one in photos]
    finder = Finder(discriminant, np.stack(means), _PRIOR)

    evidence, labels = [], []
    for index, one in enumerate(samples):
        known = finder
        if index < len(photos):
            if len(photos) == 1:
                continue
            rest = [other for other in range(len(photos)) if other != index]
            known = Finder(discriminant, finder._appearance[rest], _PRIOR)
        proposals = known.propose(one.image, one.patches)
        crops = known.crops(one.image, proposals)
        looks = recognise(crops, index if index < len(photos) else None) if crops else np.empty(0)
        truth = cv2.resize(one.mask.astype(np.uint8), proposals.size[::-1], interpolation=cv2.INTER_NEAREST) > 0
        evidence += [[*seen, 1.0] for seen in known._evidence(proposals, looks)]
        labels += [_iou(proposal.mask, truth) >= 0.5 for proposal in proposals.proposals]
    weights = fit_logistic(np.reshape(evidence, (-1, len(_PRIOR))), np.array(labels, bool), _PRIOR)
    return Finder(discriminant, finder._appearance, weights.astype(np.float32))


def _looked_at(proposals: Proposals) -> list[int]:
    """The proposals that get a second look: the best ones that keypoints do not confirm."""
    unsure = [index for index, one in enumerate(proposals.proposals) if not one.geometry]
    return unsure[:SECOND_LOOKS]


def look(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A square crop (S, S, 3) of `image` (H, W, 3) uint8 whose standard view shows `mask` (h, w) bool with a margin.

    The mask covers the whole image, perhaps with fewer pixels. Where the square leaves the image, the pixels at the
    image's border are repeated.
    """
    box = bounding_box(mask)
    assert box is not None, "an empty mask"
    x, y, width, height = box * (image.shape[0] / mask.shape[0])
    side = max(1, math.ceil(max(width, height) * _MARGIN * _STANDARD))
    left, top = round(x + width / 2 - side / 2), round(y + height / 2 - side / 2)
    rows = np.clip(np.arange(top, top + side), 0, image.shape[0] - 1)
    columns = np.clip(np.arange(left, left + side), 0, image.shape[1] - 1)
    return image[rows[:, None], columns]


def mean_patch(features: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The unit mean (D,) of the patch features (h, w, D) that `mask` (H, W) bool covers, each weighted by its cover.

    Patches covered by less than a half do not count, unless all are.
    """
    height, width = features.shape[:2]
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    share[share < min(0.5, float(share.max()))] = 0
    mean: np.ndarray = normalize(np.einsum("hw,hwd->d", share, features))
    return mean


def edges_of(image: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """The largest component of `coarse` (H, W) bool, with holes filled, and its border at the edges of `image`."""
    coarse = largest_component(coarse)
    fine = largest_component(true_edges(image, coarse))
    return fine if _iou(fine, coarse) >= 0.5 else coarse


def _shared(left: np.ndarray, right: np.ndarray) -> float:
    """The share of the smaller mask that both have."""
    smaller = max(1, min(int(left.sum()), int(right.sum())))
    return int((left & right).sum()) / smaller


def _iou(left: np.ndarray, right: np.ndarray) -> float:
    return int((left & right).sum()) / max(1, int((left | right).sum()))


def _read(arrays: Mapping[str, np.ndarray], name: str, *shape: int | None) -> np.ndarray:
    """The array `name` as float32, checked; None in `shape` stands for any number of rows but 0."""
    array = arrays.get(name)
    if array is None:
        raise ValueError(f"{name} is missing")
    fits = array.ndim == len(shape) and array.size > 0
    fits = fits and all(wanted in (None, size) for size, wanted in zip(array.shape, shape, strict=True))
    if not fits or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} is {array.dtype} {array.shape}, not {shape} floats")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
        if not np.isfinite(np.square(array).sum()):
            raise ValueError(f"{name} has a value that is not a finite number")
    return array
