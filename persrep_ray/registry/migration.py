"""Registries of the layout before format 2: pointers lay in `objects/<object_id>/current.json`."""

from __future__ import annotations

import re

from persrep_ray.registry.pointers import ABSENT, Pointers, check_version, parsed
from persrep_ray.registry.registry import CARD, MARKER, Registry, RegistryError

_LEFTOVER = re.compile(r"objects/[^/]+/(current\.json|incoming/.*)|trash/.*")


def migrate(registry: Registry) -> int:
    """Brings a registry of the earlier layout into the present one, in place; returns the number of its objects.

    The files of the versions stay where they are. The registry is marked after all pointers are written, so until then
    whoever reads it is told to migrate it. The migration can be killed at any moment and run again; nothing may publish
    in the earlier layout meanwhile. Raises `RegistryError`, `StorageError`, and
    ConfigError if an S3 store ignores conditional writes.
    """
    store = registry.store
    if store.stat(MARKER) is None:
        earlier = list(registry.earlier_pointers())
        if not earlier:
            raise RegistryError(f"there is no registry in {store.uri}")
        store.check_writable()
        for object_id, key in earlier:
            try:
                version = check_version(parsed(store.read(key)).get("version"))
                if store.stat(f"objects/{object_id}/versions/{version}/{CARD}") is None:
                    raise ValueError(f"version {version} is incomplete")
            except ValueError as error:
                raise RegistryError(f"object {object_id}: {store.url(key)}: {error}; fix or delete it") from error
            Pointers(store).swap(object_id, ABSENT, version, 0)  # is refused where a killed migration has been
        registry.mark()
    for entry in list(store.list()):
        if _LEFTOVER.fullmatch(entry.key):
            store.delete(entry.key)
    return len(registry.objects())
