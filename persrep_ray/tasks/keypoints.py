"""Local features with a geometric check: where does an image show the very print, relief or pattern of the object?

Keypoints are SIFT (Lowe, 2004) with RootSIFT descriptors (Arandjelović and Zisserman, 2012). An image's keypoints are
matched to those of each of the object's photos. Every match predicts where the object's centre is, how large it is and
how it is turned. Matches that agree (Lowe's Hough transform) become an instance of the object: a homography is fitted
to them, which carries the object's outline into the image. Nothing is drawn at random, so results are reproducible.

This finds printed, carved and woven things, any number of copies. On a dog or a plain mug it finds nothing, and that
says nothing about whether they are there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from persrep_ray.tasks.features import evenly, stored_array
from persrep_ray.tasks.homography import Instance, instances, project

SCENE_SIDES = 640, 1200
"""An image is enlarged or reduced for its keypoints if its longest side, in pixels, is not within these limits."""

PHOTO_SIDE = 512
"""A photo of the object with a longer side, in pixels, is reduced; small photos stay as they are."""

MOST_PHOTOS = 6
"""How many photos of an object are kept; they are taken evenly from all."""

MOST_KEYPOINTS = 600
"""How many keypoints of an object are kept, over all its photos: about 85 kB."""

LEAST_KEYPOINTS = 12
"""A model of fewer costs time and finds nothing."""

PREFIX = "keypoints."
"""How the names of a model's arrays begin in a version."""

_SCENE_KEYPOINTS = 6000
_PHOTO_KEYPOINTS = 1000
_CONTRAST = 0.02  # half of OpenCV's default: prints on shelves are often pale
_LENGTH = 512  # of a descriptor; inner products of such integers are exact in float32, so they are reproducible
_RATIO = 0.85
_MOST_MATCHES = 2000  # per photo of the object; voting takes this squared
_SAME = 0.6  # overlap, as a share of the smaller box, from which two instances are one
_THUMBNAIL = 32
_OVERSAMPLED = 4
_MOST_CORNERS = 64


@dataclass(frozen=True)
class Keypoints:
    """The N keypoints of an image.

    `points` (N, 2) float32 = [x, y], `scales` (N,) float32 (diameters) and `responses` (N,) float32 refer to the pixels
    of `image` (H, W, 3) uint8 RGB, which is the image as it was described; `zoom` = (horizontal, vertical) is the
    factor from the original image to it. `angles` (N,) float32 are in radians, `descriptors` (N, 128) uint8.
    """

    points: np.ndarray
    scales: np.ndarray
    angles: np.ndarray
    responses: np.ndarray
    descriptors: np.ndarray
    image: np.ndarray
    zoom: tuple[float, float]

    def __len__(self) -> int:
        return len(self.points)

    def take(self, rows: np.ndarray) -> Keypoints:
        """The keypoints of these rows (indices or bool)."""
        names = ("points", "scales", "angles", "responses", "descriptors")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


def describe(image: np.ndarray) -> Keypoints:
    """The keypoints of an `image` (H, W, 3) uint8 RGB in which objects are looked for."""
    longest = max(image.shape[:2])
    return _describe(image, min(max(longest, SCENE_SIDES[0]), SCENE_SIDES[1]), _SCENE_KEYPOINTS)


@dataclass(frozen=True)
class GeometricMatch:
    """An instance of the object in an image.

    `outline` (V, 2) float32 is the polygon of the object's mask in pixels of the image, which it may exceed; `box` (4,)
    int32 = [x, y, width, height] surrounds the part of it that lies in the image. `inliers` counts the distinct matches
    that fit. `correlation` (-1..1) compares the object's photo, laid into the image, with what is there: it tells apart
    products that share no more than a logo. `score` is the sum of the inliers' weights times the correlation, and 0 if
    that is negative. `photo` is the index of the model's photo.
    """

    outline: np.ndarray
    box: np.ndarray
    inliers: int
    correlation: float
    score: float
    photo: int

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """The pixels (H, W) bool inside the outline; `size` is the (H, W) of the image."""
        filled = np.zeros(size, dtype=np.uint8)
        cv2.fillPoly(filled, [np.round(np.clip(self.outline, -30_000, 30_000)).astype(np.int32)], 1)
        return filled.astype(bool)


class KeypointModel:
    """The keypoints of an object's photos."""

    def __init__(self, photos: Sequence[_Photo]) -> None:
        self._photos = tuple(photos)

    @classmethod
    def fit(
        cls,
        photos: Sequence[np.ndarray],
        masks: Sequence[np.ndarray | None],
        others: Sequence[Sequence[Keypoints]] = (),
    ) -> KeypointModel:
        """The model of an object.

        Args:
            photos: the object's photos (H, W, 3) uint8 RGB.
            masks: the mask (H, W) bool of the object on each photo; None is the whole photo.
            others: for each of some other objects, the keypoints (`describe`) of its photos.

        A keypoint that fits `s` of the object's other photos and photos of `n` other objects weighs (1 + s) / (1 + n)²:
        a brand's logo tells nothing about which product of the brand it is, and what lies behind the object is not
        there on its next photo. The keypoints with the largest weights are kept.

        Raises ValueError if lengths or shapes do not fit, or if a mask is empty.
        """
        if not photos or len(photos) != len(masks):
            raise ValueError(f"a keypoint model needs photos with one mask or None each: {len(photos)}, {len(masks)}")
        chosen = chosen_photos(len(photos))
        kept = [_Photo.of(photos[index], masks[index]) for index in chosen]
        scenes = [describe(photos[index]) for index in chosen] if len(chosen) > 1 else []
        most = MOST_KEYPOINTS // len(kept)
        return cls([_weighted(photo, scenes[:i] + scenes[i + 1 :], others, most) for i, photo in enumerate(kept)])

    def __len__(self) -> int:
        """The number of keypoints."""
        return sum(len(photo.keypoints) for photo in self._photos)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.to_arrays().values())

    def find(self, scene: Keypoints, *, without: int | None = None) -> list[GeometricMatch]:
        """All instances of the object in an image, the highest score first.

        The model's photo `without` is not looked for: the scene is that photo.
        """
        found = [
            _match(instance, photo, index, scene)
            for index, photo in enumerate(self._photos)
            if index != without
            for instance in photo.instances(scene)
        ]
        kept: list[GeometricMatch] = []
        for match in sorted(found, key=lambda match: (-match.score, -match.inliers, match.photo)):
            if match.box[2:].all() and all(_overlap(match.box, other.box) < _SAME for other in kept):
                kept.append(match)
        return kept

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The model as arrays, which `from_arrays` reads."""
        photos = self._photos
        keypoints = [photo.keypoints for photo in photos]
        return {
            "counts": np.array([len(one) for one in keypoints], np.int32),
            "points": np.concatenate([one.points for one in keypoints]),
            "scales": np.concatenate([one.scales for one in keypoints]).astype(np.float16),
            "angles": np.concatenate([one.angles for one in keypoints]).astype(np.float16),
            "descriptors": np.concatenate([one.descriptors for one in keypoints]),
            "weights": np.concatenate([photo.weights for photo in photos]).astype(np.float16),
            "corners": np.array([len(photo.outline) for photo in photos], np.int32),
            "outlines": np.concatenate([photo.outline for photo in photos]),
            "thumbnails": np.stack([photo.thumbnail for photo in photos]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> KeypointModel:
        """The model that `to_arrays` gave. Raises ValueError unless the arrays are such a model's."""
        counts = _checked(arrays, "counts", np.int32, (None,), 0, _PHOTO_KEYPOINTS)
        corners = _checked(arrays, "corners", np.int32, (len(counts),), 3, _MOST_CORNERS)
        if not 1 <= len(counts) <= MOST_PHOTOS or counts.sum() > MOST_KEYPOINTS:
            raise ValueError(
                f"keypoints of {len(counts)} photos, {counts.sum()} in all: more than a model has, or none"
            )
        total, all_corners = int(counts.sum()), int(corners.sum())
        points = _checked(arrays, "points", np.float32, (total, 2), 0, PHOTO_SIDE)
        scales = _checked(arrays, "scales", np.float16, (total,), 0.1, PHOTO_SIDE).astype(np.float32)
        angles = _checked(arrays, "angles", np.float16, (total,), -7, 7).astype(np.float32)
        descriptors = _checked(arrays, "descriptors", np.uint8, (total, 128), 0, 255)
        weights = _checked(arrays, "weights", np.float16, (total,), 0, 1 + MOST_PHOTOS).astype(np.float32)
        outlines = _checked(arrays, "outlines", np.float32, (all_corners, 2), 0, PHOTO_SIDE)
        shape = (len(counts), _THUMBNAIL, _THUMBNAIL, 3)
        thumbnails = _checked(arrays, "thumbnails", np.uint8, shape, 0, 255)
        photos = []
        for index, (end, corner_end) in enumerate(zip(counts.cumsum(), corners.cumsum(), strict=True)):
            part = slice(end - counts[index], end)
            outline = outlines[corner_end - corners[index] : corner_end]
            if (np.ptp(outline, axis=0) < 1).any():
                raise ValueError(f"keypoints: the outline on photo {index} is empty")
            keypoints = Keypoints(
                points[part], scales[part], angles[part], weights[part], descriptors[part], thumbnails[index], (1, 1)
            )
            photos.append(_Photo(keypoints, weights[part], outline, thumbnails[index]))
        return cls(photos)


def chosen_photos(count: int) -> np.ndarray:
    """Which of `count` photos a model keeps, in their order: evenly, at most `MOST_PHOTOS`."""
    return evenly(count, MOST_PHOTOS)


def published_keypoints(arrays: Mapping[str, np.ndarray]) -> KeypointModel | None:
    """The model among the arrays of a version, or None. Raises ValueError unless they are such a model's."""
    found = {name.removeprefix(PREFIX): value for name, value in arrays.items() if name.startswith(PREFIX)}
    return KeypointModel.from_arrays(found) if found else None


def witness_score(matches: Sequence[GeometricMatch]) -> float:
    """What a recognizer's witness "geometry" says of an image with these matches, the best first."""
    return math.log1p(matches[0].score) if matches else 0.0


@dataclass(frozen=True)
class _Photo:
    """A photo of the object: its keypoints and their `weights` (N,), the `outline` (V, 2) of the object in the same
    pixels, and a `thumbnail` (S, S, 3) uint8 of the outline's box."""

    keypoints: Keypoints
    weights: np.ndarray
    outline: np.ndarray
    thumbnail: np.ndarray

    @classmethod
    def of(cls, photo: np.ndarray, mask: np.ndarray | None) -> _Photo:
        if mask is not None and (mask.shape != photo.shape[:2] or not mask.any()):
            raise ValueError(f"a mask of shape {mask.shape} for a photo of shape {photo.shape}, or an empty mask")
        keypoints = _describe(photo, min(max(photo.shape[:2]), PHOTO_SIDE), _PHOTO_KEYPOINTS, mask)
        height, width = keypoints.image.shape[:2]
        if mask is None:
            outline = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        else:
            outline = _outline(mask) * np.array(keypoints.zoom, np.float32)
        weights = np.ones(len(keypoints), np.float32)
        return cls(keypoints, weights, outline, _thumbnail(keypoints.image, np.eye(3), outline))

    @property
    def shown(self) -> np.ndarray:
        """The pixels (S, S) bool of the thumbnail that show the object."""
        low, extent = self.outline.min(axis=0), np.ptp(self.outline, axis=0)
        filled = np.zeros((_THUMBNAIL, _THUMBNAIL), np.uint8)
        cv2.fillPoly(filled, [np.round((self.outline - low) / extent * _THUMBNAIL - 0.5).astype(np.int32)], 1)
        return filled.astype(bool)

    def instances(self, scene: Keypoints) -> list[Instance]:
        """What the photo's keypoints find in an image; the `rows` of an instance are keypoints of the photo."""
        theirs, ours = _nearest(scene.descriptors, self.keypoints.descriptors)
        zoom = scene.scales[theirs] / self.keypoints.scales[ours]
        turn = scene.angles[theirs] - self.keypoints.angles[ours]
        found = instances(self.keypoints.points[ours], scene.points[theirs], zoom, turn, self.outline)
        return [replace(instance, rows=ours[instance.rows]) for instance in found]


def _describe(image: np.ndarray, side: int, most: int, mask: np.ndarray | None = None) -> Keypoints:
    height, width = image.shape[:2]
    zoom = side / max(height, width)
    size = max(1, round(width * zoom)), max(1, round(height * zoom))
    if size != (width, height):
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC)
    where = None if mask is None else cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    sift = cv2.SIFT.create(nfeatures=most, contrastThreshold=_CONTRAST)
    found, descriptors = sift.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), where)
    found, descriptors = found[:most], (np.empty((0, 128), np.float32) if descriptors is None else descriptors[:most])
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1))
    return Keypoints(
        points=np.array([one.pt for one in found], np.float32).reshape(-1, 2),
        scales=np.array([one.size for one in found], np.float32),
        angles=np.radians(np.array([one.angle for one in found], np.float32)),
        responses=np.array([one.response for one in found], np.float32),
        descriptors=np.minimum(np.round(root * _LENGTH), 255).astype(np.uint8),
        image=image,
        zoom=(size[0] / width, size[1] / height),
    )


def _outline(mask: np.ndarray) -> np.ndarray:
    """The polygon (V, 2) float32 around the largest part of the mask (H, W), with at most `_MOST_CORNERS` corners."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    contour = max(contours, key=cv2.contourArea)
    tolerance = 0.005 * np.sqrt(mask.sum())
    polygon = cv2.approxPolyDP(contour, tolerance, True)
    while len(polygon) > _MOST_CORNERS:
        tolerance *= 1.5
        polygon = cv2.approxPolyDP(contour, tolerance, True)
    if len(polygon) < 3:  # a line or a dot
        left, top, width, height = cv2.boundingRect(contour)
        polygon = np.array([[left, top], [left + width, top], [left + width, top + height], [left, top + height]])
    return polygon.reshape(-1, 2).astype(np.float32)


def _weighted(photo: _Photo, same: Sequence[Keypoints], others: Sequence[Sequence[Keypoints]], most: int) -> _Photo:
    """The photo with its `most` best keypoints, weighed by how many photos of the object and other objects they fit."""

    def fits(scenes: Sequence[Keypoints]) -> np.ndarray:
        count = np.zeros((len(scenes), len(photo.keypoints)), dtype=bool)
        for row, scene in zip(count, scenes, strict=True):
            for instance in photo.instances(scene):
                row[instance.rows] = True
        return count

    repeated = fits(same).sum(axis=0)
    shared = np.sum([fits(scenes).any(axis=0) for scenes in others], axis=0) if others else 0
    weights = ((1 + repeated) / (1 + shared) ** 2).astype(np.float32)
    best = np.sort(np.lexsort((-photo.keypoints.responses, -weights))[:most])
    return replace(photo, keypoints=photo.keypoints.take(best), weights=weights[best])


def _nearest(scene: np.ndarray, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of descriptors that match: each of the scene and its nearest of the photo, if no other is as near."""
    if not len(scene) or len(photo) < 2:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    products = scene.astype(np.float32) @ photo.astype(np.float32).T
    rows, best = np.arange(len(scene)), products.argmax(axis=1)
    nearest = np.maximum(_LENGTH**2 - products[rows, best], 0)  # half the squared distance
    products[rows, best] = -1
    ratio = nearest / np.maximum(_LENGTH**2 - products.max(axis=1), 1)
    kept = np.argsort(ratio, kind="stable")[:_MOST_MATCHES]
    kept = np.sort(kept[ratio[kept] < _RATIO**2])
    return kept, best[kept]


def _match(instance: Instance, photo: _Photo, index: int, scene: Keypoints) -> GeometricMatch:
    outline, _ = project(instance.homography, photo.outline)
    height, width = scene.image.shape[:2]
    clipped = np.clip(outline, 0, [width, height]) / scene.zoom
    low, high = np.floor(clipped.min(axis=0)), np.ceil(clipped.max(axis=0))
    correlation = _correlation(instance.homography, photo, scene.image)
    return GeometricMatch(
        outline=(outline / scene.zoom).astype(np.float32),
        box=np.concatenate([low, high - low]).astype(np.int32),
        inliers=len(instance.rows),
        correlation=correlation,
        score=float(photo.weights[instance.rows].sum()) * max(correlation, 0.0),
        photo=index,
    )


def _correlation(homography: np.ndarray, photo: _Photo, image: np.ndarray) -> float:
    """The correlation of the photo's thumbnail with the same view of the image, over the object's pixels within it.

    Each colour channel is centred, so that the colour of the light does not matter.
    """
    inside = _thumbnail(np.full((*image.shape[:2], 1), 255, np.uint8), homography, photo.outline)
    shown = photo.shown & (inside > 250)
    if np.count_nonzero(shown) < _THUMBNAIL:
        return 0.0
    ours = photo.thumbnail[shown].astype(np.float64)
    seen = _thumbnail(image, homography, photo.outline)[shown].astype(np.float64)
    ours, seen = ours - ours.mean(axis=0), seen - seen.mean(axis=0)
    return float((ours * seen).sum() / max(np.sqrt((ours**2).sum() * (seen**2).sum()), 1e-9))


def _thumbnail(image: np.ndarray, homography: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """The box of the outline, which the homography lays into an image, as (S, S, C) uint8, black outside the image."""
    side = _THUMBNAIL * _OVERSAMPLED
    (left, top), (width, height) = outline.min(axis=0), np.ptp(outline, axis=0)
    to_photo = np.array([[width / side, 0, left], [0, height / side, top], [0, 0, 1]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    large = cv2.warpPerspective(image, homography @ to_photo, (side, side), flags=flags)
    return cv2.resize(large, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """The part that two boxes [x, y, width, height] share, as a share of the smaller box."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    return float(np.maximum(high - low, 0).prod() / max(min(one[2:].prod(), other[2:].prod()), 1))


def _checked(
    arrays: Mapping[str, np.ndarray],
    name: str,
    kind: type[np.generic],
    shape: tuple[int | None, ...],
    least: float,
    most: float,
) -> np.ndarray:
    """The array `name`, if its type, shape (None: any length) and values are right. Raises ValueError."""
    array = stored_array(arrays, "keypoints", name, kind, shape)
    if not ((array >= least) & (array <= most)).all():  # not a number is neither
        raise ValueError(f"keypoints.{name} has a value that is not within {least} and {most}")
    return array
