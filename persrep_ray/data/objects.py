"""Photos on disk to a manifest of objects: which photos, which masks, and what is wrong with the rest.

Two layouts are read. Flat: `<root>/<object>/*.jpg`, all of them train photos. Reference (Sundaram, Chae et al., arXiv
2412.16156): `train/<object>/` and `test/<object>/`, masks with the photos' stems in `train_masks/` and `test_masks/`,
more test photos with masks in `test_dense/` and `test_dense_masks/`, test splits in `*_image_annos.json`. In both,
`class_to_sc` of `*_info.json` gives the objects' categories.

A bad photo, mask or folder becomes a `Problem` and is left out: it never stops the others.
"""

from __future__ import annotations

import filecmp
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from persrep_ray.config import DataConfig
from persrep_ray.data.images import ImageError, check_header, check_pixels, read_mask
from persrep_ray.data.metadata import read_categories, read_test_splits

OBJECT_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

# Formats we cannot decode are in the list so that they are reported: a phone's .heic must not vanish silently.
_IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif"}
)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters and bytes that are not UTF-8
_DECODE_ALL_UP_TO = 5_000  # photos; beyond, test photos without a mask only have their headers checked
_CHECK_THREADS = 4  # decoding releases the GIL; few, as each may hold an image of `max_pixels`
_EXPECTED = "expected <object>/<photo>.jpg or train/<object>/<photo>.jpg below it"


def check_object_id(object_id: str) -> str:
    """Gives `object_id` back if it is safe as one part of a path; `ValueError` otherwise."""
    if not isinstance(object_id, str) or not OBJECT_ID.fullmatch(object_id) or object_id in (".", ".."):
        raise ValueError(f"bad object id {object_id!r}: expected 1 to 128 of the characters A-Z a-z 0-9 . _ -")
    return object_id


@dataclass(frozen=True)
class Photo:
    """A checked photo. `mask` has the photo's size and at least one object pixel; `split` is a PODS test split."""

    object_id: str
    path: Path
    mask: Path | None
    split: str | None


@dataclass(frozen=True)
class ObjectPhotos:
    """An object's usable photos in the order of their names; `train` is empty if none of them can be used."""

    object_id: str
    category: str | None
    train: tuple[Photo, ...]
    test: tuple[Photo, ...]


@dataclass(frozen=True)
class Problem:
    """Something left out: the file or folder, and why. Worded for the user."""

    object_id: str | None
    path: Path
    cause: str


@dataclass(frozen=True)
class Manifest:
    """What a data folder holds. `objects` is sorted by id; all paths are absolute."""

    root: Path
    objects: dict[str, ObjectPhotos]
    problems: tuple[Problem, ...]


def load_manifest(root: Path, limits: DataConfig) -> Manifest:
    """Finds and checks all photos below `root`; train photos and photos with masks are decoded, so bad ones show early.

    Raises `ValueError` where there is no object folder at all or a metadata file is malformed.
    """
    root = root.absolute()
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; {_EXPECTED}")
    tree = _Tree(root)
    splits: dict[tuple[str, str], str] = {}
    if tree.is_reference_layout():
        train, test, dense = (tree.photos(name, masks=f"{name}_masks") for name in ("train", "test", "test_dense"))
        for annotations in tree.metadata("*_image_annos.json"):
            splits.update(read_test_splits(annotations, limits))
    else:
        train, test, dense = tree.photos("."), {}, {}
    object_ids = sorted({*train, *test, *dense})
    if not object_ids:
        causes = "".join(f"; {problem.path}: {problem.cause}" for problem in tree.problems[:1])
        raise ValueError(f"{root}: no object folder; {_EXPECTED}{causes}")

    categories: dict[str, str] = {}
    for info in tree.metadata("*_info.json"):
        categories.update(read_categories(info, limits))

    good, problems = _check_all(train, [*test.values(), *dense.values()], limits)

    def usable(part: dict[str, list[Photo]], object_id: str) -> list[Photo]:
        return [good[photo.path] for photo in part.get(object_id, []) if photo.path in good]

    def with_split(photo: Photo) -> Photo:
        split = splits.get((photo.object_id, photo.path.name)) or splits.get((photo.object_id, photo.path.stem))
        return replace(photo, split=split)

    objects = {
        object_id: ObjectPhotos(
            object_id=object_id,
            category=categories.get(object_id),
            train=tuple(usable(train, object_id)),
            test=tuple(map(with_split, _merge_dense(usable(test, object_id), usable(dense, object_id)))),
        )
        for object_id in object_ids
    }
    return Manifest(root, objects, (*tree.problems, *problems))


class _Tree:
    """The data folder as far as it may be trusted: hidden entries are passed over, links that leave it are refused."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.real_root = os.path.realpath(root)
        self.problems: list[Problem] = []

    def is_reference_layout(self) -> bool:
        """Whether `train/` is a folder of objects, and not an object of that name."""
        train = self.root / "train"
        if not train.is_dir():
            return False
        folders, images = _Tree(self.root)._list(train, None)  # a tree of its own: the problems are reported later
        return bool(folders) or not images

    def metadata(self, pattern: str) -> list[Path]:
        """The metadata file of this pattern, if there is one; several, or a link that leaves the root, are an error."""
        files = sorted(path for path in self.root.glob(pattern) if not path.name.startswith("."))
        if len(files) > 1:
            raise ValueError(f"{self.root}: several {pattern}: {', '.join(path.name for path in files)}; expected one")
        for path in files:
            if cause := self._refused_link(path):
                raise ValueError(f"{path}: {cause}")
        return files

    def photos(self, folder: str, masks: str | None = None) -> dict[str, list[Photo]]:
        """Object id to its photos, not yet checked, in `folder`; masks matched by stem in the folder `masks`."""
        mask_of: dict[tuple[str, str], Path] = {}
        if masks is not None:
            for object_id, paths in self._images_by_object(self.root / masks).items():
                # Of several files with one stem a PNG wins: it has no compression noise.
                for path in sorted(paths, key=lambda path: path.suffix.lower() == ".png"):
                    mask_of[object_id, path.stem] = path
        return {
            object_id: [Photo(object_id, path, mask_of.get((object_id, path.stem)), None) for path in paths]
            for object_id, paths in self._images_by_object(self.root / folder).items()
        }

    def _images_by_object(self, folder: Path) -> dict[str, list[Path]]:
        if cause := self._refused_link(folder):
            self._report(None, [folder], cause)
            return {}
        found: dict[str, list[Path]] = {}
        folders, strays = self._list(folder, None)
        self._report(None, strays, "lies beside the objects' folders, not in one")
        for path in folders:
            try:
                object_id = check_object_id(path.name)
            except ValueError as error:
                self._report(None, [path], str(error))
                continue
            nested, found[object_id] = self._list(path, object_id)
            self._report(object_id, nested, "a folder inside an object's folder is not read")
        return found

    def _list(self, folder: Path, object_id: str | None) -> tuple[list[Path], list[Path]]:
        """(folders, images by suffix) in `folder`, sorted by name; a missing folder is empty."""
        folders: list[Path] = []
        images: list[Path] = []
        try:
            names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
        except FileNotFoundError:
            names = []
        except OSError as error:
            self._report(object_id, [folder], error.strerror or str(error))
            names = []
        for name in names:
            path = folder / name
            if _UNPRINTABLE.search(name):
                self._report(object_id, [folder], f"unprintable name {name!a}")
            elif cause := self._refused_link(path):
                self._report(object_id, [path], cause)
            elif path.is_dir():
                folders.append(path)
            elif path.suffix.lower() in _IMAGE_SUFFIXES:
                images.append(path)
        return folders, images

    def _refused_link(self, path: Path) -> str | None:
        if not path.is_symlink():
            return None
        try:
            real = os.path.realpath(path, strict=True)
        except OSError as error:
            return f"a symbolic link to nowhere ({error.strerror})"
        inside = os.path.commonpath([real, self.real_root]) == self.real_root
        return None if inside else "a symbolic link that leaves the data folder"

    def _report(self, object_id: str | None, paths: Iterable[Path], cause: str) -> None:
        self.problems += [Problem(object_id, path, cause) for path in paths]


def _check_all(
    train: dict[str, list[Photo]], test: list[list[Photo]], limits: DataConfig
) -> tuple[dict[Path, Photo], list[Problem]]:
    """The usable photos by path, and what is wrong with the others."""
    must_decode = [photo for photos in train.values() for photo in photos]
    others = [photo for photos in test for photo in photos]
    decode_all = len(must_decode) + len(others) <= _DECODE_ALL_UP_TO
    good: dict[Path, Photo] = {}
    problems: list[Problem] = []
    with ThreadPoolExecutor(_CHECK_THREADS) as pool:
        checks = [
            *pool.map(lambda photo: _check(photo, True, limits), must_decode),
            *pool.map(lambda photo: _check(photo, decode_all, limits), others),
        ]
    for photo, problem in checks:
        if photo:
            good[photo.path] = photo
        if problem:
            problems.append(problem)
    return good, problems


def _check(photo: Photo, decode: bool, limits: DataConfig) -> tuple[Photo | None, Problem | None]:
    """The photo if it is usable, without its mask if only that is bad; and what was wrong."""
    try:
        if photo.mask is None and not decode:
            check_header(photo.path, limits)
            return photo, None
        size = check_pixels(photo.path, limits)
    except ImageError as error:
        return None, _problem(photo.object_id, photo.path, error)
    if photo.mask is None:
        return photo, None
    try:
        mask = read_mask(photo.mask, limits)
        if mask.shape != size:
            raise ImageError(f"the mask is {mask.shape[1]} x {mask.shape[0]} pixels, its photo {size[1]} x {size[0]}")
        if not mask.any():
            raise ImageError("the mask has no object pixel")
    except ImageError as error:
        return replace(photo, mask=None), _problem(photo.object_id, photo.mask, error)
    return photo, None


def _problem(object_id: str, path: Path, error: ImageError) -> Problem:
    return Problem(object_id, path, str(error).removeprefix(f"{path}: "))


def _merge_dense(test: list[Photo], dense: list[Photo]) -> list[Photo]:
    """Test photos, then dense ones; a dense photo that is a copy of a test photo only lends it its mask.

    The same photo twice in the test set would count twice in every metric.
    """
    merged = list(test)
    by_size = defaultdict(list)
    for index, photo in enumerate(test):
        by_size[photo.path.stat().st_size].append(index)
    for photo in dense:
        candidates = by_size[photo.path.stat().st_size]
        twin = next((i for i in candidates if filecmp.cmp(test[i].path, photo.path, shallow=False)), None)
        if twin is None:
            merged.append(photo)
        else:
            merged[twin] = replace(merged[twin], mask=merged[twin].mask or photo.mask)
    return merged
