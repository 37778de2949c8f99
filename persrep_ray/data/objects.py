"""A folder or S3 prefix of photos becomes a manifest of objects: photos, masks, and what is wrong with the rest.

Two layouts are read. The flat layout is `<root>/<object>/*.jpg`, and all its photos are train photos. The reference
layout (Sundaram, Chae et al., arXiv 2412.16156) has photos in `train/<object>/` and `test/<object>/`, masks with the
photos' stems in `train_masks/` and `test_masks/`, more test photos with masks in `test_dense/` and `test_dense_masks/`,
and test splits in `*_image_annos.json`. In both, `class_to_sc` of `*_info.json` gives the objects' categories.

A bad photo, mask or folder becomes a `Problem` and is left out; it never stops the rest.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from persrep_ray.config import DataConfig
from persrep_ray.data.duplicates import find_groups
from persrep_ray.data.images import (
    ImageError,
    NotAnImageError,
    check_header,
    check_pixels,
    read_mask_of,
    read_rgb,
)
from persrep_ray.data.metadata import read_categories, read_test_splits
from persrep_ray.data.tree import Problem, Tree, is_image, open_tree
from persrep_ray.storage.files import File, RemoteFile, read_file

_DECODE_ALL_UP_TO = 5_000  # photos; if there are more, only the headers of test photos without masks are checked
_CHECK_THREADS = 4  # decoding releases the GIL; few threads, since each may hold an image of `max_pixels`
_JSON_MASKS = "masks are read from images, one for each photo, and not from JSON (COCO, LabelMe); export them as PNG"
_SHOWN = 5  # names of files that are no images
_EXPECTED = "expected <object>/<photo>.jpg or train/<object>/<photo>.jpg below it"


@dataclass(frozen=True)
class Photo:
    """A checked photo. `mask` has the photo's size and at least one object pixel; `split` is a PODS test split."""

    object_id: str
    path: File
    mask: File | None
    split: str | None


@dataclass(frozen=True)
class ObjectPhotos:
    """An object's usable photos in the order of their names; `train` is empty if none of them can be used.

    Of more than `DataConfig.photos_per_object` train photos, an even draw is used.
    """

    object_id: str
    category: str | None
    train: tuple[Photo, ...]
    test: tuple[Photo, ...]


@dataclass(frozen=True)
class Manifest:
    """What a data folder holds. `objects` is sorted by id; all paths are absolute.

    `duplicates` are groups of photos that are the same and belong to several objects, or to train and test.
    """

    root: Path | str  # a local folder or an S3 URI
    objects: dict[str, ObjectPhotos]
    problems: tuple[Problem, ...]
    duplicates: tuple[tuple[Photo, ...], ...] = ()


def load_manifest(location: str | Path, limits: DataConfig) -> Manifest:
    """Finds and checks all photos below `location`, a folder or an `s3://` prefix.

    Train photos and photos with masks are decoded, so that bad photos are found early.

    Raises:
        ValueError: there is no object folder at all.
        StorageError: the bucket cannot be read.
    """
    tree = open_tree(location)
    if not tree.exists():
        raise ValueError(f"{tree.root}: no such folder; {_EXPECTED}")
    splits: dict[tuple[str, str], str] = {}
    if tree.is_reference_layout():
        train, test, dense = (_photos(tree, name, masks=f"{name}_masks") for name in ("train", "test", "test_dense"))
        for annotations in tree.metadata("*_image_annos.json"):
            with _reported(tree, annotations):
                splits.update(read_test_splits(annotations, limits))
    else:
        train, test, dense = _photos(tree, ""), {}, {}
    object_ids = sorted({*train, *test, *dense})
    if not object_ids:
        causes = "".join(f"; {problem.path}: {problem.cause}" for problem in tree.problems[:1])
        raise ValueError(f"{tree.root}: no object folder; {_EXPECTED}{causes}")

    categories: dict[str, str] = {}
    for info in tree.metadata("*_info.json"):
        with _reported(tree, info):
            for object_id, category in read_categories(info, limits).items():
                if categories.setdefault(object_id, category) != category:
                    raise ValueError(f"{info}: another category of {object_id!r} than in a file before it")

    good, hashes, problems = _check_all(train, [*test.values(), *dense.values()], limits)

    def usable(part: dict[str, list[Photo]], object_id: str) -> list[Photo]:
        return [good[photo.path] for photo in part.get(object_id, []) if photo.path in good]

    def drawn(photos: list[Photo]) -> tuple[Photo, ...]:
        most = limits.photos_per_object
        if len(photos) > most:
            cause = f"has {len(photos)} train photos, of which an even draw of {most} is used (data.photos_per_object)"
            problems.append(Problem(photos[0].object_id, f"object {photos[0].object_id}", cause))
        return _even_draw(photos, most)

    def with_split(photo: Photo) -> Photo:
        split = splits.get((photo.object_id, photo.path.name)) or splits.get((photo.object_id, photo.path.stem))
        return replace(photo, split=split)

    objects = {
        object_id: ObjectPhotos(
            object_id=object_id,
            category=categories.get(object_id),
            train=drawn(usable(train, object_id)),
            test=tuple(map(with_split, _merge_dense(usable(test, object_id), usable(dense, object_id), limits))),
        )
        for object_id in object_ids
    }
    duplicates = tuple(_duplicates(objects, hashes, limits))
    return Manifest(tree.root, objects, (*tree.problems, *problems), duplicates)


@contextmanager
def _reported(tree: Tree, file: File) -> Iterator[None]:
    """What is wrong with a metadata file is a problem; it ends no run."""
    try:
        yield
    except ValueError as error:
        tree.problems.append(Problem(None, file, str(error).removeprefix(f"{file}: ")))


def _even_draw(photos: list[Photo], most: int) -> tuple[Photo, ...]:
    """At most `most` of an object's photos, in their order. The draw depends on their names alone."""

    def rank(photo: Photo) -> bytes:
        return hashlib.blake2b(f"{photo.object_id}/{photo.path.name}".encode()).digest()

    chosen = {photo.path for photo in sorted(photos, key=rank)[:most]}
    return tuple(photo for photo in photos if photo.path in chosen)


def _duplicates(
    objects: Mapping[str, ObjectPhotos], hashes: Mapping[File, tuple[int, ...]], limits: DataConfig
) -> Iterator[tuple[Photo, ...]]:
    """The groups of equal photos that span objects, or train and test. Photos that were not decoded are left out."""
    parts = [(photo, part) for one in objects.values() for part in (one.train, one.test) for photo in part]
    known = [(photo, part) for photo, part in parts if photo.path in hashes]

    def read(index: int) -> NDArray[np.uint8] | None:
        try:
            return read_rgb(known[index][0].path, limits)
        except ImageError:  # it has changed since it was checked
            return None

    for group in find_groups([hashes[photo.path] for photo, _ in known], read):
        if len({(known[i][0].object_id, known[i][1] is objects[known[i][0].object_id].train) for i in group}) > 1:
            yield tuple(known[i][0] for i in group)


def _photos(tree: Tree, folder: str, masks: str | None = None) -> dict[str, list[Photo]]:
    """Object id to its photos in `folder`, not yet checked; masks are matched by stem in the folder `masks`."""
    mask_of: dict[tuple[str, str], File] = {}
    if masks is not None:
        for object_id, files in tree.files_by_object(masks).items():
            for file in files:
                if file.suffix.lower() == ".json":
                    tree.problems.append(Problem(object_id, file, _JSON_MASKS))
            # If several files have the same stem, a PNG wins, because it has no compression noise.
            for file in sorted(files, key=lambda file: file.suffix.lower() == ".png"):
                if file.suffix.lower() != ".json":
                    mask_of[object_id, file.stem] = file
    return {
        object_id: [Photo(object_id, file, mask_of.get((object_id, file.stem)), None) for file in files]
        for object_id, files in tree.files_by_object(folder).items()
    }


def _check_all(
    train: dict[str, list[Photo]], test: list[list[Photo]], limits: DataConfig
) -> tuple[dict[File, Photo], dict[File, tuple[int, ...]], list[Problem]]:
    """The usable photos by path, the perceptual hashes of those that were decoded, and what is wrong with the rest."""
    must_decode = [photo for photos in train.values() for photo in photos]
    test_photos = [photo for photos in test for photo in photos]
    decode_all = len(must_decode) + len(test_photos) <= _DECODE_ALL_UP_TO
    good: dict[File, Photo] = {}
    hashes: dict[File, tuple[int, ...]] = {}
    problems: list[Problem] = []
    others: defaultdict[tuple[str | None, str], list[Problem]] = defaultdict(list)
    with ThreadPoolExecutor(_CHECK_THREADS) as pool:
        checks = [
            *pool.map(lambda photo: _check(photo, True, limits), must_decode),
            *pool.map(lambda photo: _check(photo, decode_all, limits), test_photos),
        ]
    for checked in checks:
        if checked.photo:
            good[checked.photo.path] = checked.photo
            if checked.hashes:
                hashes[checked.photo.path] = checked.hashes
        if checked.passed_over:
            assert checked.problem is not None
            others[checked.problem.object_id, str(checked.problem.path).rpartition("/")[0]].append(checked.problem)
        elif checked.problem:
            problems.append(checked.problem)
    for (object_id, folder), passed_over in others.items():  # one line for each folder, not for each file
        names = ", ".join(Path(str(problem.path)).name for problem in passed_over[:_SHOWN])
        more = f" and {len(passed_over) - _SHOWN} more" if len(passed_over) > _SHOWN else ""
        where = Path(folder) if folder.startswith("/") else folder
        problems.append(Problem(object_id, where, f"passed over, because they are no images: {names}{more}"))
    return good, hashes, problems


class _Checked(NamedTuple):
    """A photo if it is usable (without its mask if only the mask is bad), what is wrong, and its perceptual hashes."""

    photo: Photo | None
    problem: Problem | None = None
    hashes: tuple[int, ...] = ()
    passed_over: bool = False  # neither the name nor the content is that of an image


def _check(photo: Photo, decode: bool, limits: DataConfig) -> _Checked:
    try:
        if photo.mask is None and not decode:
            check_header(photo.path, limits)
            return _Checked(photo)
        hashes = check_pixels(photo.path, limits).hashes
    except NotAnImageError as error:
        return _Checked(None, _problem(photo.object_id, photo.path, error), passed_over=not is_image(photo.path))
    except ImageError as error:
        return _Checked(None, _problem(photo.object_id, photo.path, error))
    if photo.mask is None:
        return _Checked(photo, None, hashes)
    try:
        if not read_mask_of(photo.path, photo.mask, limits).any():
            raise ImageError("the mask has no object pixel")
    except ImageError as error:
        return _Checked(replace(photo, mask=None), _problem(photo.object_id, photo.mask, error), hashes)
    return _Checked(photo, None, hashes)


def _problem(object_id: str, path: File, error: ImageError) -> Problem:
    return Problem(object_id, path, str(error).removeprefix(f"{path}: "))


def _merge_dense(test: list[Photo], dense: list[Photo], limits: DataConfig) -> list[Photo]:
    """Test photos, then dense photos; a dense photo that is a copy of a test photo only lends it its mask.

    A photo that is in the test set twice would count twice in every metric.
    """
    merged = list(test)
    by_size = defaultdict(list)
    for index, photo in enumerate(test):
        by_size[_size(photo.path)].append(index)
    for photo in dense:
        twins = (i for i in by_size[_size(photo.path)] if _is_copy(test[i].path, photo.path, limits))
        twin = next(twins, None)
        if twin is None:
            merged.append(photo)
        else:
            merged[twin] = replace(merged[twin], mask=merged[twin].mask or photo.mask)
    return merged


def _size(file: File) -> int:
    return file.size if isinstance(file, RemoteFile) else file.stat().st_size


def _is_copy(first: File, second: File, limits: DataConfig) -> bool:
    return read_file(first, limits.max_bytes) == read_file(second, limits.max_bytes)
