"""Which objects to try on a picture: those whose photos look most alike to the pretrained backbone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from persrep_ray.evaluate.features import normalize
from persrep_ray.serving.answers import Target
from persrep_ray.serving.errors import AdapterUnusableError, VersionNotFoundError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Snapshot:
    """`rows` (P, D): the unit prototypes of all targets, `starts` (N,): where each target's rows begin."""

    targets: tuple[Target, ...]
    rows: np.ndarray
    starts: np.ndarray


class PrototypeIndex:
    """The pretrained prototypes of all live objects. `update` may run in a thread beside `shortlist`.

    Args:
        read: (T, D) float32 unit rows of an object's photos; raises `QueryError`.
    """

    def __init__(self, read: Callable[[Target], np.ndarray]) -> None:
        self._read = read
        self._rows: dict[Target, np.ndarray | None] = {}  # None: cannot be used, and versions never change
        self._snapshot = _Snapshot((), np.empty((0, 0), np.float32), np.empty(0, np.int64))

    def update(self, targets: Sequence[Target]) -> None:
        """Reads what is new, forgets what is gone. Raises `RegistryUnavailableError`; the index stays as it was."""
        rows: dict[Target, np.ndarray | None] = {}
        for target in targets:
            if target in self._rows:
                rows[target] = self._rows[target]
                continue
            try:
                rows[target] = self._read(target)
            except VersionNotFoundError:
                continue  # gone since the list was made
            except AdapterUnusableError as error:
                _log.warning("%s; identify leaves it out", error)
                rows[target] = None
        if rows.keys() == self._rows.keys():
            return
        self._rows = rows
        usable = {target: found for target, found in rows.items() if found is not None}
        if not usable:
            self._snapshot = _Snapshot((), np.empty((0, 0), np.float32), np.empty(0, np.int64))
            return
        counts = [len(found) for found in usable.values()]
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self._snapshot = _Snapshot(tuple(usable), np.concatenate(list(usable.values())), starts)

    def targets(self, prefixes: Sequence[str]) -> list[Target]:
        """All objects in the index whose id starts with one of `prefixes`."""
        return [target for target in self._snapshot.targets if target.object_id.startswith(tuple(prefixes))]

    def shortlist(self, cls: np.ndarray, prefixes: Sequence[str], most: int) -> list[Target]:
        """The `most` objects with the largest cosine of a photo to `cls` (D,), the pretrained CLS of the picture."""
        snapshot = self._snapshot
        if not snapshot.targets:
            return []
        cosines = np.maximum.reduceat(snapshot.rows @ normalize(cls), snapshot.starts)
        if "" not in prefixes:
            allowed = tuple(prefixes)
            hidden = [not target.object_id.startswith(allowed) for target in snapshot.targets]
            cosines[hidden] = -np.inf
        best = np.argsort(-cosines, kind="stable")[:most]
        return [snapshot.targets[index] for index in best if np.isfinite(cosines[index])]
