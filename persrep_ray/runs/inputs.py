"""What a run reads: the selected objects, folders of photos, and digests by which a resumed run knows its inputs."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

from persrep_ray.config import ConfigError, RunConfig
from persrep_ray.data.objects import Manifest, ObjectPhotos

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


def select_objects(manifest: Manifest, only: Sequence[str]) -> list[str]:
    """The ids of a run: all, or those of `only`. Raises ConfigError for an id that is not there."""
    for object_id in only:
        if object_id not in manifest.objects:
            near = difflib.get_close_matches(object_id, manifest.objects, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"--only: there is no object {object_id!r} in {manifest.root}{hint}")
    return sorted(set(only)) if only else list(manifest.objects)


def photos_in(folder: Path | None, option: str) -> list[Path]:
    """The photos directly in `folder`, absolute; none for None. Raises ConfigError, which names the option."""
    if folder is None:
        return []
    if not folder.is_dir():
        raise ConfigError(f"{option}: {folder} is no folder")
    photos = sorted(path.absolute() for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not photos:
        raise ConfigError(f"{option}: {folder} has no photos ({', '.join(sorted(_SUFFIXES))})")
    return photos


def check_generator(config: RunConfig) -> None:
    """Raises ConfigError where the generator or its filter needs a package that is not installed."""
    generate = config.generate
    if generate.generator == "cut_paste":
        return
    for package in ("diffusers", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"generate.generator: {generate.generator} needs the package {package}: "
                "pip install 'persrep-ray[dreambooth]'"
            )
    if generate.filter.metric == "dreamsim" and importlib.util.find_spec("dreamsim") is None:
        raise ConfigError("generate.filter.metric: dreamsim needs the package dreamsim: pip install dreamsim")


def input_digests(
    manifest: Manifest, backgrounds: Iterable[Path], negatives: Iterable[Path], config: RunConfig
) -> dict[str, str]:
    """A digest per object and folder: train photos, masks and prompts by content, the others by name and size.

    Raises ConfigError for a prompt file that cannot be read.
    """
    digests = {f"object {one.object_id}": _object_digest(one) for one in manifest.objects.values()}
    for name, paths in (("--backgrounds", backgrounds), ("--negatives", negatives)):
        digest = hashlib.sha256()
        for path in paths:
            _add_listing(digest, path)
        digests[name] = digest.hexdigest()[:16]
    prompts = config.generate.prompts.file
    if prompts is not None:
        try:
            digests["generate.prompts.file"] = hashlib.sha256(Path(prompts).read_bytes()).hexdigest()[:16]
        except OSError as error:
            raise ConfigError(f"generate.prompts.file: {prompts}: cannot be read: {error.strerror}") from error
    return digests


def _object_digest(one: ObjectPhotos) -> str:
    digest = hashlib.sha256((one.category or "").encode())
    for photo in one.train:
        for path in (photo.path, photo.mask):
            if path is not None:
                digest.update(path.name.encode() + b"\0" + path.read_bytes())
    for photo in one.test:
        for path in (photo.path, photo.mask):
            if path is not None:
                _add_listing(digest, path)
    return digest.hexdigest()[:16]


def _add_listing(digest: hashlib._Hash, path: Path) -> None:
    digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
