"""Adapters in a folder: complete versions that appear and are replaced atomically, whenever their publisher is killed.

    <root>/objects/<object_id>/current.json             {"version": ...}: the live version
    <root>/objects/<object_id>/versions/<version>/      exactly the files of `FILES`
    <root>/objects/<object_id>/incoming/                what publishers are still writing; no reader looks here
    <root>/trash/                                       deleted objects on their way out

All must lie on one file system. Readers take no lock: they see the old state or the new one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from persrep_ray.data.files import sync
from persrep_ray.data.images import read_regular
from persrep_ray.data.objects import OBJECT_ID, check_object_id

FILES = ("adapter_config.json", "adapter_model.safetensors", "prototypes.safetensors", "card.json")
VERSION = re.compile(r"[A-Za-z0-9._-]{1,64}")

_LEFTOVER_AGE_S = 3600  # a publisher that wrote nothing for so long is dead
_MAX_JSON_BYTES = 16 * 1024 * 1024


class RegistryError(ValueError):
    """The registry cannot do what was asked; the message names the object and the cause."""


class NotPublishedError(RegistryError, LookupError):
    """There is no such object or version."""


@dataclass(frozen=True)
class Registry:
    """The registry in the folder `root`, which is created by the first `publish`.

    Bad object ids and versions raise `RegistryError` everywhere, before any path is formed from them.
    """

    root: Path

    def publish(self, object_id: str, version: str, files: Mapping[str, bytes | Path]) -> Path:
        """Makes `files` (contents, or files to copy) the version `version` and the live one; returns its folder.

        Idempotent: an existing version keeps its files and becomes live (again), so a killed publisher is just run once
        more and an old version can be rolled back to. Of two publishers of one version the first wins. Raises
        `RegistryError` if a file is missing, unexpected or unreadable as what its name says; nothing changes then.
        """
        folder = self._object_folder(object_id)
        target = self._version_folder(object_id, version)
        if set(files) != set(FILES):
            raise RegistryError(
                f"object {object_id}, version {version}: missing files {sorted(set(FILES) - set(files))}, "
                f"unexpected files {sorted(map(str, set(files) - set(FILES)))}"
            )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _scratch(folder, version) as scratch:
                if not target.is_dir():
                    _write_version(scratch / "version", files)
                    _rename_unless_exists(scratch / "version", target)
                _point(folder, version, scratch / "current.json")
            for changed in (folder.parent, self.root):  # the names of new folders are kept in their parents
                sync(changed)
        except (OSError, ValueError, SafetensorError) as error:
            raise RegistryError(f"object {object_id}, version {version}: publishing failed: {error}") from error
        return target

    def make_live(self, object_id: str, version: str) -> None:
        """Makes a published version the live one (again). Raises `NotPublishedError`, `RegistryError`."""
        self.path(object_id, version)
        folder = self._object_folder(object_id)
        try:
            with _scratch(folder, version) as scratch:
                _point(folder, version, scratch / "current.json")
        except OSError as error:
            raise RegistryError(f"object {object_id}, version {version}: cannot be made live: {error}") from error

    def current(self, object_id: str) -> str | None:
        """The live version, None if the object is not published. Raises `RegistryError` if the pointer is damaged."""
        pointer = self._object_folder(object_id) / "current.json"
        try:
            return _check_version(_read_json(pointer).get("version"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RegistryError(f"object {object_id}: {pointer}: {error}") from error

    def versions(self, object_id: str) -> list[str]:
        """All complete versions, sorted by name."""
        try:
            names = os.listdir(self._object_folder(object_id) / "versions")
        except FileNotFoundError:
            return []
        return sorted(name for name in names if VERSION.fullmatch(name))

    def path(self, object_id: str, version: str | None = None) -> Path:
        """The folder of a version, of the live one by default. Raises `NotPublishedError`."""
        if version is None:
            version = self.current(object_id)
            if version is None:
                raise NotPublishedError(f"object {object_id}: not published in {self.root}")
        folder = self._version_folder(object_id, version)
        if not folder.is_dir():
            raise NotPublishedError(f"object {object_id}: no version {version} in {self.root}")
        return folder

    def objects(self) -> list[str]:
        """The ids of all published objects, sorted."""
        folder = self.root / "objects"
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return []
        ids = [name for name in names if OBJECT_ID.fullmatch(name)]
        return sorted(object_id for object_id in ids if (folder / object_id / "current.json").is_file())

    def card(self, object_id: str, version: str | None = None) -> dict[str, Any]:
        """The card of a version, of the live one by default. Raises `RegistryError`."""
        file = self.path(object_id, version) / "card.json"
        try:
            return _read_json(file)
        except (OSError, ValueError) as error:
            raise RegistryError(f"object {object_id}: {file}: {error}") from error

    def delete(self, object_id: str) -> None:
        """Removes an object with all its versions, for readers at one instant. Absent already: nothing happens."""
        folder = self._object_folder(object_id)
        trash = self.root / "trash"
        try:
            if folder.is_dir():
                trash.mkdir(exist_ok=True)
                folder.rename(trash / f"{object_id}.{uuid.uuid4().hex}")
                sync(folder.parent)
        except FileNotFoundError:
            pass  # another deleter was faster
        except OSError as error:
            raise RegistryError(f"object {object_id}: deleting failed: {error}") from error
        for leftover in trash.glob("*"):  # of killed deleters, too
            shutil.rmtree(leftover, ignore_errors=True)

    def _object_folder(self, object_id: str) -> Path:
        try:
            folder = self.root / "objects" / check_object_id(object_id)
        except ValueError as error:
            raise RegistryError(str(error)) from None
        return _refuse_link(folder, object_id)

    def _version_folder(self, object_id: str, version: str) -> Path:
        folder = self._object_folder(object_id)
        try:
            folder = folder / "versions" / _check_version(version)
        except ValueError as error:
            raise RegistryError(f"object {object_id}: {error}") from None
        return _refuse_link(folder, object_id)


def _check_version(version: object) -> str:
    if not isinstance(version, str) or not VERSION.fullmatch(version) or version in (".", ".."):
        raise ValueError(f"bad version {version!r:.100}: expected 1 to 64 of the characters A-Z a-z 0-9 . _ -")
    return version


def _refuse_link(folder: Path, object_id: str) -> Path:
    if folder.is_symlink():
        raise RegistryError(f"object {object_id}: {folder} is a symbolic link; a registry has none")
    return folder


def _write_version(folder: Path, files: Mapping[str, bytes | Path]) -> None:
    """Writes, checks and flushes a version: what gets its name must survive a power cut and be readable."""
    folder.mkdir()
    for name, content in files.items():
        file = folder / name
        if isinstance(content, bytes):
            file.write_bytes(content)
        elif content.is_file():
            shutil.copyfile(content, file)
        else:
            raise ValueError(f"{name}: {content} is not a file")
        try:
            if file.suffix == ".json":
                _read_json(file)
            else:
                with safe_open(file, "np"):  # parses the header and compares the length; a pickle fails here
                    pass
        except (ValueError, SafetensorError) as error:
            raise ValueError(f"{name}: {error}") from error
        sync(file)
    sync(folder)


@contextmanager
def _scratch(folder: Path, version: str) -> Iterator[Path]:
    """A folder of one publisher's own; what dead publishers left is removed on the way."""
    incoming = folder / "incoming"
    incoming.mkdir(exist_ok=True)
    _remove_leftovers(incoming)
    scratch = incoming / f"{version}.{uuid.uuid4().hex}"
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _point(folder: Path, version: str, scratch: Path) -> None:
    """Makes `version` the live one of the object in `folder`, for readers at one instant."""
    scratch.write_text(json.dumps({"version": version}))
    sync(scratch)
    os.replace(scratch, folder / "current.json")
    sync(folder)


def _rename_unless_exists(folder: Path, target: Path) -> None:
    try:
        os.rename(folder, target)  # refuses a target that is not empty, and versions never are
    except OSError:
        if not target.is_dir():
            raise
    sync(target.parent)


def _remove_leftovers(incoming: Path) -> None:
    """Removes what publishers left that were killed long ago; younger ones may still be at work."""
    for leftover in incoming.iterdir():
        try:
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_AGE_S:
                shutil.rmtree(leftover, ignore_errors=True)
        except FileNotFoundError:
            continue  # its publisher was alive, or another one cleaned up


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_regular(path, _MAX_JSON_BYTES))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value
