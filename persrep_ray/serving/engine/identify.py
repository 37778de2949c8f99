"""Which objects to try on an image, and which of those it shows.

Those are tried that have the photos most similar to it under the pretrained backbone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from persrep_ray.serving.engine.answers import AdapterRef, Candidate
from persrep_ray.serving.engine.catalog import matching
from persrep_ray.serving.engine.errors import AdapterUnusableError, RegistryUnavailableError, VersionNotFoundError
from persrep_ray.tasks.features import normalize
from persrep_ray.tasks.recognize import posterior

_log = logging.getLogger(__name__)

_MOST_WEIGHED = 100
"""Without a print, evidence seldom exceeds e⁸ to 1, so among thousands of objects few would outweigh "none of them"."""


def recognised(tried: Sequence[Candidate], known: int) -> list[Candidate]:
    """The candidates that the image shows, out of `known` objects, most probable first.

    The evidence of all candidates is weighed together. Their probabilities become those that the image shows this
    object and not another or none of them, and a candidate is recognised if it is at least as probable as none of them.
    Two objects that look the same share their probability, and both are recognised. A candidate without evidence, which
    was published before there were recognizers, is recognised if it matches.
    """
    found = [one for one in tried if one.classification.evidence is None and one.classification.match]
    weighed = [(one, one.classification.evidence) for one in tried if one.classification.evidence is not None]
    among = min(known, _MOST_WEIGHED)
    shares = posterior(np.array([evidence for _, evidence in weighed]), among) if weighed else np.empty(0)
    none = 1 - shares.sum()
    for (one, _), share in zip(weighed, shares, strict=True):
        if share >= none:
            found.append(replace(one, classification=replace(one.classification, probability=float(share))))
    return sorted(found, key=lambda one: -one.classification.probability)


@dataclass(frozen=True)
class _Snapshot:
    """N adapters and the ids of their objects, sorted; their unit prototypes `rows` (P, D), and where each's start."""

    refs: tuple[AdapterRef, ...]
    ids: tuple[str, ...]
    rows: np.ndarray
    starts: np.ndarray


_EMPTY = _Snapshot((), (), np.empty((0, 0), np.float32), np.empty(0, np.int64))


class PrototypeIndex:
    """The pretrained prototypes of all live objects. One thread may call `update` while other threads search.

    Args:
        read: returns the (T, D) float32 unit rows of an object's photos; raises `QueryError`.
    """

    def __init__(self, read: Callable[[AdapterRef], np.ndarray]) -> None:
        self._read = read
        self._rows: dict[AdapterRef, np.ndarray | None] = {}  # None: unusable, for ever
        self._snapshot = _EMPTY

    def update(self, refs: Sequence[AdapterRef]) -> None:
        """Makes `refs`, sorted by object id, the content of the index; only new ones are read.

        Raises `RegistryUnavailableError` if some of them cannot be read now; the index then lacks those.
        """
        known, self._rows = self._rows, {}
        failure: RegistryUnavailableError | None = None
        for ref in refs:
            try:
                self._rows[ref] = known[ref] if ref in known else self._read(ref)
            except VersionNotFoundError:
                continue  # it was deleted since the list was made
            except AdapterUnusableError as error:
                _log.warning("%s; identify skips it", error)
                self._rows[ref] = None
            except RegistryUnavailableError as error:
                failure = error
        self._snapshot = self._snapshot_of({ref: rows for ref, rows in self._rows.items() if rows is not None})
        if failure is not None:
            raise failure

    def count(self, prefixes: Iterable[str]) -> int:
        """The number of objects in the index whose id starts with one of `prefixes`."""
        return sum(part.stop - part.start for part in matching(self._snapshot.ids, prefixes))

    def refs(self, prefixes: Iterable[str]) -> list[AdapterRef]:
        """The adapters of all objects in the index whose id starts with one of `prefixes`."""
        snapshot = self._snapshot
        return [ref for part in matching(snapshot.ids, prefixes) for ref in snapshot.refs[part]]

    def shortlist(self, cls: np.ndarray, prefixes: Iterable[str], most: int) -> list[AdapterRef]:
        """The `most` adapters whose objects have the photo with the largest cosine to `cls` (D,), the image's CLS."""
        snapshot = self._snapshot
        parts = matching(snapshot.ids, prefixes)
        if not parts:
            return []
        best = np.maximum.reduceat(snapshot.rows @ normalize(cls), snapshot.starts)  # (N,)
        allowed = np.concatenate([np.arange(part.start, part.stop) for part in parts])
        order = np.argsort(-best[allowed], kind="stable")[:most]
        return [snapshot.refs[index] for index in allowed[order]]

    def _snapshot_of(self, usable: dict[AdapterRef, np.ndarray]) -> _Snapshot:
        if not usable:
            return _EMPTY
        rows = np.concatenate(list(usable.values()))
        starts = np.cumsum([0, *(len(found) for found in usable.values())])
        for ref, start, end in zip(usable, starts[:-1], starts[1:], strict=True):
            self._rows[ref] = rows[start:end]  # a view, so that prototypes are not held twice
        refs = tuple(usable)
        return _Snapshot(refs, tuple(ref.object_id for ref in refs), rows, starts[:-1])
