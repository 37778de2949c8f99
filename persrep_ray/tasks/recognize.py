"""Does an image show the object? Several witnesses, each with its own scale, become one calibrated probability.

A witness gives an image a score: the likeness of its embedding to the object's photos, the best patches, the keypoints
that fit. What a score says depends on the object, so each witness is calibrated on scores of images of the object and
of other objects, as a log-likelihood ratio (LLR): log p(score | the object) - log p(score | anything else). The sum of
the LLRs is the evidence. It is comparable across objects, so an image's name is the object with the most evidence, if
that outweighs that there may be none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Literal, get_args

import numpy as np

from persrep_ray.tasks.features import (
    check_rows,
    check_same_width,
    evenly,
    finite_array,
    from_int8,
    stored_array,
    to_int8,
)
from persrep_ray.tasks.patches import PatchModel
from persrep_ray.tasks.whitening import Whitening

WitnessName = Literal["cls", "patches", "geometry"]
WITNESSES: tuple[WitnessName, ...] = get_args(WitnessName)

PREFIX = "recognize."
"""How the names of a recognizer's arrays begin in a version."""

MOST_COHORT = 48
"""How many photos of other objects are kept to compare with; each takes 0.4 kB (384 dimensions of 8 bits)."""

MOST_PHOTOS = 16
"""How many photos of the object are kept, evenly from all; each takes 0.8 kB."""

_PATCHES = "patches."
_NEAREST = 3  # of the cohort: the mean likeness of the image to these is taken off its likeness to the object
_MOST_EVIDENCE = 20.0  # nats, of a witness; more says no more, and could overflow


@dataclass(frozen=True)
class Prior:
    """What is assumed of a witness before an object's images are seen, as strongly as if from `weight` images: the mean
    score of others (`low`) and of the object (`high`), and their common `spread`."""

    low: float
    high: float
    spread: float
    weight: float


PRIORS: Mapping[WitnessName, Prior] = {
    "cls": Prior(low=-0.36, high=0.22, spread=0.24, weight=100),
    "patches": Prior(low=-0.16, high=0.08, spread=0.13, weight=100),
    "geometry": Prior(low=0.2, high=3.2, spread=1.1, weight=100),
}
"""Found on the 30 DreamBooth subjects (`cls`) and on ten cartons (`geometry`, log(1 + score)); `patches` is a guess."""


@dataclass(frozen=True)
class Witness:
    """A score's LLR is log((1 - miss) * exp(slope * (score - middle)) + miss), at most 8.

    The scores of others, and those of the object where the witness sees it, are normal with the same spread; with
    probability `miss` the witness does not see the object, and its score is like that of others. So a low score never
    says more than log(miss): keypoints, which are not found on a dog, then say nothing.
    """

    slope: float
    middle: float
    miss: float

    @classmethod
    def fit(cls, of_object: np.ndarray, of_others: np.ndarray, prior: Prior) -> Witness:
        """The witness from scores of images of the object (K,) and of other objects (N,); either may be empty.

        Raises ValueError if a score is not finite.
        """
        alike, unlike = np.asarray(of_object, np.float64), np.asarray(of_others, np.float64)
        if not (np.isfinite(alike).all() and np.isfinite(unlike).all()):
            raise ValueError("a witness gave a score that is not finite")
        weight = prior.weight
        low = (weight * prior.low + unlike.sum()) / (weight + len(unlike))
        seen = alike[alike > (low + prior.high) / 2]
        high = (weight * prior.high + seen.sum()) / (weight + len(seen))
        squares = weight * prior.spread**2 + ((unlike - low) ** 2).sum() + ((seen - high) ** 2).sum()
        variance = squares / (weight + len(unlike) + len(seen))
        miss = (1 + len(alike) - len(seen)) / (2 + len(alike))
        slope = max(high - low, 0.0) / variance  # 0, saying nothing, where others score as high
        return cls(slope=float(slope), middle=float((high + low) / 2), miss=float(miss))

    def evidence(self, scores: np.ndarray) -> np.ndarray:
        """The LLRs of `scores` (...)."""
        exponent = np.minimum(self.slope * (np.asarray(scores, np.float64) - self.middle), 50)
        llr: np.ndarray = np.log((1 - self.miss) * np.exp(exponent) + self.miss)
        return np.minimum(llr, _MOST_EVIDENCE)


@dataclass(frozen=True)
class Recognizer:
    """What is known of an object for recognising it.

    `photos` (T, D) and `cohort` (C, D), of other objects, are whitened embeddings. `patches` is None if no image was
    compared patch by patch.
    """

    whitening: Whitening
    photos: np.ndarray
    cohort: np.ndarray
    witnesses: Mapping[WitnessName, Witness]
    patches: PatchModel | None = None

    @classmethod
    def fit(
        cls,
        photos: np.ndarray,
        others: np.ndarray,
        other_objects: Sequence[str],
        *,
        synthetic_positives: np.ndarray,
        synthetic_others: np.ndarray,
        held_out: Mapping[WitnessName, tuple[np.ndarray, np.ndarray]],
        patches: PatchModel | None = None,
    ) -> Recognizer:
        """The recognizer of an object.

        Args:
            photos: embeddings (T, D) of the object's photos.
            others: embeddings (N, D) of photos of other objects; without any there is nothing to compare with.
            other_objects: the object that each of these shows.
            synthetic_positives: embeddings (P, D) of synthetic images of the object that training has not seen; P may
                be 0, here and below.
            synthetic_others: embeddings (M, D) of such images of anything else.
            held_out: for each other witness, its scores of images of the object that it was not made from, and of
                images of other objects. Keypoints and patches must not be judged by synthetic images of the object,
                which are pasted photos.
            patches: the object's, for the witness of that name.

        The cohort is one half the photos most like the object, and one half the rest, evenly.

        Raises ValueError if there is no photo, none of other objects, or if features or scores do not fit.
        """
        check_rows(photos, "train embeddings")
        check_rows(others, "embeddings of other objects")
        check_same_width(photos, "train embeddings", others, "embeddings of other objects")
        names = np.asarray(other_objects, dtype=str)
        if len(names) != len(others):
            raise ValueError(f"{len(others)} embeddings of other objects, but {len(names)} names")
        # "other " sets the object apart from an object of the same name
        whitening = Whitening.fit(
            np.concatenate([photos, others]), [""] * len(photos) + [f"other {name}" for name in names]
        )
        ours, theirs = whitening(photos), whitening(others)
        ours = ours[chosen_rows(len(ours))]
        chosen = _spread(theirs @ ours.T, MOST_COHORT)
        cohort, cohort_names = theirs[chosen], names[chosen]
        rows = range(len(ours)) if len(ours) > 1 else ()  # a single photo cannot be compared with the rest
        alike = [_likeness(ours[i : i + 1], np.delete(ours, i, axis=0), cohort) for i in rows]
        unlike = [_likeness(theirs[names == name], ours, cohort[cohort_names != name]) for name in np.unique(names)]
        if len(synthetic_positives):
            alike.append(_likeness(whitening(synthetic_positives), ours, cohort))
        if len(synthetic_others):
            unlike.append(_likeness(whitening(synthetic_others), ours, cohort))
        scores: dict[WitnessName, tuple[np.ndarray, np.ndarray]] = {
            "cls": (np.concatenate([*alike, np.empty(0)]), np.concatenate([*unlike, np.empty(0)])),
            **held_out,
        }
        witnesses = {name: Witness.fit(*pair, PRIORS[name]) for name, pair in scores.items()}
        return cls(whitening, ours, cohort, witnesses, patches)

    def evidence(self, cls: np.ndarray, others: Mapping[WitnessName, np.ndarray]) -> np.ndarray:
        """The LLRs (N,) of images with the embeddings `cls` (N, D) and with the scores (N,) of other witnesses.

        A witness that was not asked, or that the object does not have, says nothing. An LLR of 0 is even; its
        probability, if the image is as likely to show the object as not, is 1 / (1 + exp(-LLR)).
        """
        scores = {"cls": self.likeness(cls), **others}
        known = [self.witnesses[name].evidence(values) for name, values in scores.items() if name in self.witnesses]
        total: np.ndarray = np.sum(known, axis=0)
        return total

    def likeness(self, cls: np.ndarray, *, without: int | None = None) -> np.ndarray:
        """How much more images with the embeddings `cls` (N, D) are like the object than like the cohort, (N,).

        The object's photo `without` does not count, unless it is the only photo.
        """
        check_rows(cls, "embeddings of images")
        check_same_width(cls, "embeddings of images", self.photos, "the object's embeddings")
        photos = self.photos if without is None or len(self.photos) == 1 else np.delete(self.photos, without, axis=0)
        return _likeness(self.whitening(cls), photos, self.cohort)

    @property
    def nbytes(self) -> int:
        patches = 0 if self.patches is None else self.patches.nbytes
        return self.whitening.nbytes + self.photos.nbytes + self.cohort.nbytes + patches

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The recognizer as arrays, which `from_arrays` reads."""
        arrays = {
            **self.whitening.to_arrays(),
            "photos": self.photos.astype(np.float16),
            "cohort": to_int8(self.cohort),
        }
        if self.patches is not None:
            arrays |= {f"{_PATCHES}{name}": value for name, value in self.patches.to_arrays().items()}
        return arrays | {f"witness.{name}": np.array(astuple(one)) for name, one in self.witnesses.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Recognizer:
        """The recognizer that `to_arrays` gave. Raises ValueError unless the arrays are such a recognizer's."""
        whitening = Whitening.from_arrays(arrays, "recognize")
        dimensions = len(whitening.mean)
        photos = finite_array(arrays, "recognize", "photos", np.float16, (None, dimensions)).astype(np.float32)
        cohort = from_int8(stored_array(arrays, "recognize", "cohort", np.int8, (None, dimensions)))
        for name, rows, most in (("photos", photos, MOST_PHOTOS), ("cohort", cohort, MOST_COHORT)):
            if not 1 <= len(rows) <= most:
                raise ValueError(f"recognize.{name} has {len(rows)} rows, not 1 to {most}")
        of_patches = {name.removeprefix(_PATCHES): array for name, array in arrays.items() if name.startswith(_PATCHES)}
        patches = PatchModel.from_arrays(of_patches, "recognize.patches") if of_patches else None
        witnesses: dict[WitnessName, Witness] = {}
        for name in WITNESSES:
            if name == "cls" or f"witness.{name}" in arrays:
                slope, middle, miss = finite_array(arrays, "recognize", f"witness.{name}", np.float64, (3,))
                if slope < 0 or not 0 < miss < 1:
                    raise ValueError(f"recognize.witness.{name} has slope {slope} and miss {miss}")
                witnesses[name] = Witness(float(slope), float(middle), float(miss))
        return cls(whitening, photos, cohort, witnesses, patches)


def chosen_rows(count: int) -> np.ndarray:
    """Which of `count` photos of an object a recognizer keeps, in their order."""
    return evenly(count, MOST_PHOTOS)


def published_recognizer(arrays: Mapping[str, np.ndarray], dimensions: int) -> Recognizer | None:
    """The recognizer among the arrays of a version, whose embeddings have so many dimensions; None if it has none.

    Raises ValueError unless the arrays are such a recognizer's.
    """
    found = {name.removeprefix(PREFIX): value for name, value in arrays.items() if name.startswith(PREFIX)}
    if not found:
        return None
    recognizer = Recognizer.from_arrays(found)
    if recognizer.photos.shape[1] != dimensions:
        raise ValueError(f"recognize.photos has {recognizer.photos.shape[1]} dimensions, not {dimensions}")
    return recognizer


def posterior(evidence: np.ndarray, known: int, none: float = 0.5) -> np.ndarray:
    """The probability (N,) of each candidate that the image shows it. What is missing to 1 is none of the objects.

    `evidence` (N,) is the candidates' LLRs, and `known` is the number of all objects among which they were searched. An
    image shows none of them with the prior probability `none`, and otherwise each is as likely; so an object has to
    bring the more evidence the more objects there are, and false alarms do not grow with their number.
    """
    joint = np.exp(np.asarray(evidence, np.float64)) * (1 - none) / known
    share: np.ndarray = joint / (none + joint.sum())
    return share


def _likeness(images: np.ndarray, photos: np.ndarray, cohort: np.ndarray) -> np.ndarray:
    """The largest cosine (N,) of each image to a photo of the object, less its mean cosine to the nearest of the cohort
    (adaptive score normalisation, Cumani et al., 2011). All are unit rows."""
    if not len(cohort):  # it had photos of one object only, which is the one that is judged now
        cohort = np.zeros((1, images.shape[1]), np.float32)
    likeness: np.ndarray = (images @ photos.T).max(axis=1) - np.sort(images @ cohort.T)[:, -_NEAREST:].mean(axis=1)
    return likeness


def _spread(cosines: np.ndarray, most: int) -> np.ndarray:
    """At most `most` rows of `cosines` (N, T): a half with the largest, a half evenly from the rest."""
    if len(cosines) <= most:
        return np.arange(len(cosines))
    order = np.argsort(-cosines.max(axis=1), kind="stable")
    rest = np.linspace(most // 2, len(order) - 1, most - most // 2).round().astype(int)
    return np.sort(order[np.concatenate([np.arange(most // 2), rest])])
