"""The registry as serving reads it: what went wrong is told apart into absent, damaged and unreachable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from persrep_ray.data.images import read_regular
from persrep_ray.registry.local import FILES, NotPublishedError, Registry, RegistryError
from persrep_ray.serving.answers import Target
from persrep_ray.serving.errors import AdapterUnusableError, RegistryUnavailableError, VersionNotFoundError

_MAX_FILE_BYTES = 256 * 1024 * 1024


class Source:
    """Reads of the registry in the folder `root`. All methods block; `RegistryUnavailableError` from any of them.

    An absent folder is a registry out of reach (a share that is not mounted), not an empty one.
    """

    def __init__(self, root: str | Path) -> None:
        self._registry = Registry(Path(root).absolute())

    def live(self, known: dict[str, str]) -> dict[str, str]:
        """The live version of every object; a pointer that is damaged leaves what `known` has."""
        self._check()
        versions = {}
        for object_id in self._registry.objects():
            try:
                version = self._registry.current(object_id)
            except RegistryError:
                version = known.get(object_id)
            if version is not None:
                versions[object_id] = version
        self._check()  # gone meanwhile: the list would look as if everything was deleted
        return versions

    def versions(self, object_id: str) -> list[str]:
        versions = self._registry.versions(object_id)
        self._check()
        return versions

    def card(self, target: Target) -> dict[str, Any]:
        """Raises also `VersionNotFoundError`, `AdapterUnusableError`."""
        try:
            return self._registry.card(target.object_id, target.version)
        except RegistryError as error:
            raise self._explained(error, target) from error

    def file(self, target: Target, name: str) -> bytes:
        """The content of one of `registry.local.FILES`. Raises also `VersionNotFoundError`, `AdapterUnusableError`."""
        try:
            folder = self._registry.path(target.object_id, target.version)
            return read_regular(folder / name, _MAX_FILE_BYTES)
        except (OSError, ValueError) as error:
            raise self._explained(error, target) from error

    def files(self, target: Target) -> dict[str, bytes]:
        """All files of a version. Raises as `file`."""
        return {name: self.file(target, name) for name in FILES}

    def delete(self, object_id: str) -> None:
        self._check()
        try:
            self._registry.delete(object_id)
        except RegistryError as error:
            raise RegistryUnavailableError(f"object {object_id} cannot be deleted now") from error

    def _check(self) -> None:
        if not (self._registry.root / "objects").is_dir():
            raise RegistryUnavailableError("the registry cannot be reached")

    def _explained(self, error: Exception, target: Target) -> Exception:
        """`error` in terms of the client. An absent file of a present version is damage: versions appear whole."""
        self._check()
        named = f"object {target.object_id}, version {target.version}"
        try:
            self._registry.path(target.object_id, target.version)
        except NotPublishedError:
            return VersionNotFoundError(f"{named}: no such version")
        except (RegistryError, OSError):
            pass
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            return RegistryUnavailableError(f"{named}: the registry cannot be read")
        return AdapterUnusableError(f"{named}: its files are damaged; publish it anew")
