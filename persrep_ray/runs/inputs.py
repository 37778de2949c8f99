"""What a run reads: the selected objects, folders of photos, and digests by which a resumed run checks its inputs."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

from persrep_ray.backbones.checkpoint import check_hub
from persrep_ray.config import ConfigError, RunConfig
from persrep_ray.data.images import ImageError, check_pixels
from persrep_ray.data.objects import Manifest, ObjectPhotos
from persrep_ray.data.tree import is_image, open_tree
from persrep_ray.generate.generators import generators_of
from persrep_ray.storage.files import File, RemoteFile
from persrep_ray.storage.store import is_remote

_DUPLICATES_SHOWN = 20
_JOB_COPY = "/runtime_resources/working_dir_files/"


def check_kept(**locations: str | None) -> None:
    """Refuses local locations in Ray's copy of a job's working directory, which goes when the job ends.

    The keywords are the options that give the locations. Raises ConfigError.
    """
    for option, location in locations.items():
        if location and not is_remote(location) and _JOB_COPY in os.path.abspath(location):
            raise ConfigError(
                f"--{option}: {location} lies in Ray's copy of --working-dir, which is deleted after the job; give an "
                "absolute path that all nodes reach, or s3://bucket/prefix"
            )


def check_checkpoints(config: RunConfig, *, generates: bool) -> None:
    """Makes sure that the hub gives us what the run loads from it, before any worker asks. Raises ConfigError."""
    sam, base = config.masks.sam, config.generate.dreambooth
    wanted = [("backbone.name", config.backbone.name, config.backbone.revision, "config.json")]
    if config.masks.method == "sam" or config.evaluate.mode == "persam":
        wanted.append(("masks.sam.name", sam.name, sam.revision, "config.json"))
    if generates and config.generate.generator in ("dreambooth", "combined"):
        wanted.append(("generate.dreambooth.base", base.base, base.revision, "model_index.json"))
    for key, name, revision, file in wanted:
        try:
            check_hub(name, revision, file)
        except FileNotFoundError as error:
            raise ConfigError(f"{key} {name}: {error}") from error


def select_objects(manifest: Manifest, only: Sequence[str]) -> list[str]:
    """The ids of a run: all, or those in `only`. Raises ConfigError for an unknown id."""
    for object_id in only:
        if object_id not in manifest.objects:
            near = difflib.get_close_matches(object_id, manifest.objects, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"--only: there is no object {object_id!r} in {manifest.root}{hint}")
    return sorted(set(only)) if only else list(manifest.objects)


def photos_in(location: str | None, option: str) -> list[File]:
    """The photos directly in a folder or S3 prefix; [] for None. Raises ConfigError, which names the option."""
    if location is None:
        return []
    try:
        tree = open_tree(location)
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}") from None
    if not tree.exists():
        raise ConfigError(f"{option}: there is no folder {location}")
    photos = [file for file in tree.listing("").files if is_image(file) or not file.suffix]
    if not photos:
        raise ConfigError(f"{option}: {location} has no photos")
    return photos


def readable(files: Iterable[File], config: RunConfig) -> tuple[list[File], list[str]]:
    """The photos that can be decoded, and what is wrong with the rest."""
    good, problems = [], []
    for file in files:
        try:
            check_pixels(file, config.data)
            good.append(file)
        except ImageError as error:
            problems.append(str(error))
    return good, problems


class DuplicatesReport(NamedTuple):
    """Warnings that name pairs of files, and how many photos have a copy elsewhere, as `summary.json` says it."""

    warnings: list[str]
    counts: dict[str, int]


def duplicates_report(manifest: Manifest) -> DuplicatesReport:
    """What the user should know of photos that are in several objects' folders, or in train and test.

    Each group of copies is one warning, and at most 20 are shown.
    """
    between, train_test, warnings = 0, 0, []
    for group in manifest.duplicates:
        objects = {photo.object_id for photo in group}
        if len(objects) > 1:
            between += len(group)
            first, second = next(pair for pair in combinations(group, 2) if pair[0].object_id != pair[1].object_id)
            what = "the same photo in two objects; it is a negative of neither"
        else:
            train_test += len(group)
            first, second = group[0], group[-1]  # train photos come first
            what = "the same photo in train and test; the figures are too good"
        more = f" (and {len(group) - 2} more files)" if len(group) > 2 else ""
        warnings.append(f"{first.path} and {second.path}{more}: {what}")
    shown = warnings[:_DUPLICATES_SHOWN]
    if len(warnings) > len(shown):
        shown.append(f"{len(warnings) - len(shown)} more photos are in several places")
    return DuplicatesReport(shown, {"between_objects": between, "train_and_test": train_test})


def input_digests(
    manifest: Manifest, backgrounds: Iterable[File], negatives: Iterable[File], config: RunConfig
) -> dict[str, str]:
    """A digest per object, folder and file that the generators read.

    Train photos and masks count by content, other photos by name and size. Files on S3 count by their tags, so nothing
    is downloaded. Raises ConfigError for something that a generator cannot read.
    """
    digests = {f"object {photos.object_id}": _object_digest(photos) for photos in manifest.objects.values()}
    for name, files in (("--backgrounds", backgrounds), ("--negatives", negatives)):
        digest = hashlib.sha256()
        for file in files:
            _add(digest, file, content=False)
        digests[name] = digest.hexdigest()[:16]
    for generator in generators_of(config).values():
        digests |= generator.digests()
    return digests


def _object_digest(photos: ObjectPhotos) -> str:
    digest = hashlib.sha256((photos.category or "").encode())
    for part, content in ((photos.train, True), (photos.test, False)):
        for photo in part:
            for file in (photo.path, photo.mask):
                if file is not None:
                    _add(digest, file, content=content)
    return digest.hexdigest()[:16]


def _add(digest: hashlib._Hash, file: File, *, content: bool) -> None:
    if isinstance(file, RemoteFile):
        digest.update(f"{file.name}\0{file.tag}\0".encode())
    elif content:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    else:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
