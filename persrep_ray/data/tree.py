"""The folder or S3 prefix that holds a user's photos, as far as it can be trusted.

Hidden entries are skipped, links that leave the folder are refused, and names that cannot be printed are reported.
"""

from __future__ import annotations

import fnmatch
import os
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from persrep_ray.storage.files import File
from persrep_ray.storage.store import is_remote, open_store

OBJECT_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

# The list has formats that cannot be decoded, so that they are reported: a .gif must not vanish silently.
_IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif"}
)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters and bytes that are not UTF-8


def check_object_id(object_id: str) -> str:
    """Returns `object_id` if it is safe as a part of a path; raises ValueError otherwise."""
    if not isinstance(object_id, str) or not OBJECT_ID.fullmatch(object_id) or object_id in (".", ".."):
        raise ValueError(f"bad object id {object_id!r}: expected 1 to 128 of the characters A-Z a-z 0-9 . _ -")
    return object_id


def is_image(file: File) -> bool:
    """Whether the name says that this is an image, readable or not."""
    return file.suffix.lower() in _IMAGE_SUFFIXES


@dataclass(frozen=True)
class Problem:
    """A file or folder that was left out, and why, in words for the user."""

    object_id: str | None
    path: File | str
    cause: str


class Listing(NamedTuple):
    """What lies directly in a folder, sorted by name: names of folders, files, and (path, cause) of what is refused."""

    folders: list[str]
    files: list[File]
    refused: list[tuple[File | str, str]]


class Tree(ABC):
    """The files below a root. `problems` lists what was refused on the way."""

    root: Path | str

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is such a folder, or anything below such a prefix."""

    @abstractmethod
    def listing(self, folder: str) -> Listing:
        """What lies directly in `folder` (relative to the root, "" for the root); a missing folder is empty."""

    @abstractmethod
    def path(self, folder: str) -> File | str:
        """The full name of a folder, for messages."""

    def is_reference_layout(self) -> bool:
        """Whether `train/` is a folder of objects, and not an object of that name."""
        inside = self.listing("train")
        return "train" in self.listing("").folders and (bool(inside.folders) or not any(map(is_image, inside.files)))

    def metadata(self, pattern: str) -> list[File]:
        """The files of this pattern. A refused link becomes a problem."""
        root = self.listing("")
        for path, cause in root.refused:
            problem = Problem(None, path, cause)
            if fnmatch.fnmatch(Path(str(path)).name, pattern) and problem not in self.problems:
                self.problems.append(problem)
        return [file for file in root.files if fnmatch.fnmatch(file.name, pattern)]

    def files_by_object(self, folder: str) -> dict[str, list[File]]:
        """Object id to the files in its folder below `folder`. Their content decides which of them are images."""
        found: dict[str, list[File]] = {}
        outer = self.listing(folder)
        self._report(None, outer)
        for file in filter(is_image, outer.files):
            self.problems.append(Problem(None, file, "is not inside an object's folder"))
        for name in outer.folders:
            inner = f"{folder}/{name}" if folder else name
            try:
                object_id = check_object_id(name)
            except ValueError as error:
                self.problems.append(Problem(None, self.path(inner), str(error)))
                continue
            listing = self.listing(inner)
            self._report(object_id, listing)
            found[object_id] = listing.files
            for nested in listing.folders:
                path = self.path(f"{inner}/{nested}")
                self.problems.append(Problem(object_id, path, "a folder inside an object's folder is not read"))
        return found

    def _report(self, object_id: str | None, listing: Listing) -> None:
        self.problems += [Problem(object_id, path, cause) for path, cause in listing.refused]


class _LocalTree(Tree):
    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root: Path = root.absolute()
        self._real_root = os.path.realpath(self.root)

    def exists(self) -> bool:
        return self.root.is_dir()

    def path(self, folder: str) -> Path:
        return self.root / folder

    def listing(self, folder: str) -> Listing:
        path = self.path(folder)
        found = Listing([], [], [])
        if cause := self._refused_link(path):
            found.refused.append((path, cause))
            return found
        try:
            names = sorted(name for name in os.listdir(path) if not name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return found
        except OSError as error:
            found.refused.append((path, error.strerror or str(error)))
            return found
        for name in names:
            entry = path / name
            if _UNPRINTABLE.search(name):
                found.refused.append((path, f"unprintable name {name!a}"))
            elif cause := self._refused_link(entry):
                found.refused.append((entry, cause))
            elif entry.is_dir():
                found.folders.append(name)
            else:
                found.files.append(entry)
        return found

    def _refused_link(self, path: Path) -> str | None:
        if path == self.root or not path.is_symlink():
            return None
        try:
            real = os.path.realpath(path, strict=True)
        except OSError as error:
            return f"a symbolic link to nowhere ({error.strerror})"
        inside = os.path.commonpath([real, self._real_root]) == self._real_root
        return None if inside else "a symbolic link that leaves the data folder"


class _RemoteTree(Tree):
    """A prefix in S3. Everything below it is listed once, with a thousand files per request."""

    def __init__(self, location: str) -> None:
        super().__init__()
        self._store = open_store(location)
        self.root: str = self._store.uri
        self._listings: dict[str, Listing] = {}
        for key, file in self._store.files("").items():
            *parents, name = key.split("/")
            if any(part.startswith(".") for part in (*parents, name)):
                continue
            if _UNPRINTABLE.search(key):
                self.problems.append(Problem(None, self._store.uri, f"unprintable name {key!a}"))
                continue
            folder = ""
            for parent in parents:
                folders = self._listing_of(folder).folders
                if parent not in folders[-1:]:  # the keys are sorted
                    folders.append(parent)
                folder = f"{folder}/{parent}" if folder else parent
            self._listing_of(folder).files.append(file)

    def exists(self) -> bool:
        return bool(self._listings)

    def path(self, folder: str) -> str:
        return self._store.url(folder)

    def listing(self, folder: str) -> Listing:
        return self._listings.get(folder, Listing([], [], []))

    def _listing_of(self, folder: str) -> Listing:
        return self._listings.setdefault(folder, Listing([], [], []))


def open_tree(location: str | Path) -> Tree:
    """The tree at a local path or an `s3://` URI. Raises ConfigError for other schemes, and StorageError."""
    return _RemoteTree(str(location)) if is_remote(str(location)) else _LocalTree(Path(location))
