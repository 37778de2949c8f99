"""Small versions in which every file carries one mark, and stores in which something happens at a chosen moment."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from persrep_ray.registry.registry import FILES, Registry
from persrep_ray.storage.store import Store


def version_files(mark: float) -> dict[str, bytes]:
    """A version in which every file carries `mark`."""
    tensors = save({"mark": np.full((4, 4), mark, np.float32)})
    text = json.dumps({"mark": mark}).encode()
    return {name: text if name.endswith(".json") else tensors for name in FILES}


def mark_of(registry: Registry, object_id: str, version: str | None = None) -> float:
    """The mark of a version; fails if the version is incomplete or mixed."""
    files = registry.files(object_id, version)
    marks = {json.loads(files[name])["mark"] for name in FILES if name.endswith(".json")}
    for name in FILES:
        if name.endswith(".safetensors"):
            marks |= set(load(files[name])["mark"].ravel().tolist())
    assert len(marks) == 1
    return float(marks.pop())


def write_earlier_registry(store: Store) -> Registry:
    """In the layout before format 2: `cup` v1 and v2 (live), `mug` v1, and what killed publishers and deleters left."""
    for object_id, version, mark in (("cup", "v1", 1), ("cup", "v2", 2), ("mug", "v1", 3)):
        for name, content in version_files(mark).items():
            store.write(f"objects/{object_id}/versions/{version}/{name}", content)
        store.write(f"objects/{object_id}/current.json", json.dumps({"version": version}).encode())
    store.write("objects/jar/incoming/v1.0a1b/version/card.json", b"{")
    store.write("trash/hat.0a1b/versions/v1/card.json", b"{}")
    return Registry(store)


class Interrupted:
    """A store that calls `meanwhile` once, before the first `operation` on a key with this ending."""

    def __init__(self, store: Store, operation: str, ending: str, meanwhile: Callable[[], object]) -> None:
        self._store = store
        self._operation = operation
        self._ending = ending
        self._meanwhile: Callable[[], object] | None = meanwhile

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._store, name)
        return self._interrupted if name == self._operation else attribute

    def _interrupted(self, key: str, *arguments: Any, **options: Any) -> Any:
        if key.endswith(self._ending) and self._meanwhile is not None:
            meanwhile, self._meanwhile = self._meanwhile, None
            meanwhile()
        return getattr(self._store, self._operation)(key, *arguments, **options)
