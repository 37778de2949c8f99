"""Masks of many objects on Ray, an object per item. Generation waits for all: negatives show other objects."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from persrep_ray.config import RunConfig
from persrep_ray.data.objects import Manifest
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.distributed.outcome import Outcome, describe
from persrep_ray.distributed.streaming import Item, Pool, stream
from persrep_ray.masks.photos import PhotoMasker


class MaskWorker:
    """Makes the masks of an object per call and stores them in the run folder."""

    def __init__(self, config: RunConfig, manifest: Manifest, folder: RunFolder) -> None:
        self._masker = PhotoMasker(config)
        self._manifest = manifest
        self._folder = folder

    def __call__(self, item: Item) -> Item:
        object_id = item["object_id"]
        started = time.monotonic()
        error, problems = "", []
        try:
            made = self._masker(self._manifest.objects[object_id].train)
            problems = made.problems
            if all(mask is None for mask in made.masks):
                raise ValueError(f"no photo can be read; {'; '.join(problems)}")
            report = {"seconds": time.monotonic() - started, "problems": problems}
            self._folder.write_masks(object_id, made.masks, report)
        except Exception as cause:  # the failure of one object must not end the others
            error = describe(cause)
        return {"object_id": object_id, "error": error, "problems": problems}


def make_masks(object_ids: Sequence[str], shared: Sequence[Any], *, actors: int, cpus: float) -> Iterator[Outcome]:
    """Yields an outcome for each object when it ends. `shared` are references to the arguments of `MaskWorker`."""
    items = [{"object_id": object_id} for object_id in object_ids]
    for row in stream(items, Pool(MaskWorker, shared, actors, cpus)):
        yield Outcome(row["object_id"], row["error"] or None, {"problems": list(row["problems"])})
