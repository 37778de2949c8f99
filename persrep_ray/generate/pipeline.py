"""Generation on Ray: chunks stream through pools of actors, and an object is handed on with its last chunk.

    chunks of cut_paste   → ChunkWorker                        → shards
    objects of dreambooth → FineTuneWorker → chunks → SampleWorker → shards

The actors of a pool share the chunks of one object, and one actor serves many objects.
"""

from __future__ import annotations

import json
import queue
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from persrep_ray.config import RunConfig
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.distributed.outcome import Outcome, describe
from persrep_ray.distributed.resources import Plan
from persrep_ray.distributed.streaming import Item, Pool, stream
from persrep_ray.generate.dreambooth.filter_report import FilterReport, sampled_shards, why_no_positive
from persrep_ray.generate.shards import ShardError
from persrep_ray.generate.types import Chunk
from persrep_ray.generate.workers import ChunkWorker, FineTuneWorker, SampleWorker, drained

# Objects whose fully fine-tuned weights wait on the disk to be used up: gigabytes each.
_MOST_AHEAD = 4


class Generation:
    """Chunks being generated; `poll` hands over the objects whose last chunk has landed.

    Args:
        requests: the chunks, object by object, so that objects are done one after the other.
        shared: references to the RunConfig, Manifest and RunFolder.
        backgrounds, negatives, book: references to what cut-and-paste and DreamBooth need beside those.
    """

    def __init__(
        self,
        requests: Sequence[Chunk],
        config: RunConfig,
        folder: RunFolder,
        shared: Sequence[Any],
        *,
        backgrounds: Any,
        negatives: Any,
        book: Any,
        plan: Plan,
    ) -> None:
        self.images = 0
        self.tuned = 0
        self._warnings: list[str] = []
        self.requests = requests
        self._config, self._folder = config, folder
        self._missing = Counter(request.object_id for request in requests)
        self._not_fine_tuned = {request.object_id for request in requests if request.generator == "dreambooth"}
        self._rows: queue.SimpleQueue[Item | Exception] = queue.SimpleQueue()
        generate = config.generate
        cut_paste = [asdict(request) for request in requests if request.generator == "cut_paste"]
        pasting = Pool(
            ChunkWorker, [*shared, backgrounds, negatives], plan.generate_actors, cpus=generate.cpus_per_actor
        )
        arguments = [*shared, book]
        tuning = Pool(
            FineTuneWorker,
            arguments,
            plan.fine_tune_actors,
            cpus=generate.dreambooth.cpus_per_actor,
            gpus=plan.fine_tune_gpus,
        )
        sampling = Pool(
            SampleWorker, arguments, plan.sample_actors, cpus=generate.sampling.cpus_per_actor, gpus=plan.sample_gpus
        )
        for items, pools in ((cut_paste, (pasting,)), (list(self._objects_to_fine_tune()), (tuning, sampling))):
            # A daemon: iterating the stream blocks, and must not keep an interrupted run alive.
            threading.Thread(target=self._run, args=(items, pools), name="generation", daemon=True).start()

    @property
    def to_fine_tune(self) -> int:
        """How many objects the text-to-image model is fine-tuned to; `tuned` of them have been."""
        return self.tuned + len(self._not_fine_tuned)

    def new_warnings(self) -> list[str]:
        """What the user should know, since the last call."""
        return drained(self._warnings)

    def _objects_to_fine_tune(self) -> Iterator[Mapping[str, Any]]:
        """Objects in their order, each with its chunks; fully fine-tuned ones wait for an earlier one to be used up."""
        chunks: dict[str, list[str]] = {}
        for request in self.requests:
            if request.generator == "dreambooth":
                chunks.setdefault(request.object_id, []).append(json.dumps(asdict(request)))
        bounded = self._config.generate.dreambooth.method == "full"
        earlier: deque[str] = deque(maxlen=_MOST_AHEAD)
        for object_id, own in chunks.items():
            after = earlier[0] if bounded and len(earlier) == _MOST_AHEAD else ""
            earlier.append(object_id)
            yield {"object_id": object_id, "chunks": own, "after": after}

    def _run(self, items: Sequence[Mapping[str, Any]], pools: Sequence[Pool]) -> None:
        try:
            for row in stream(items, *pools):
                self._rows.put(row)
        except Exception as error:
            self._rows.put(error)

    def poll(self) -> list[Outcome]:
        """The objects that ended since the last call; never waits. An object fails with its first bad chunk."""
        outcomes = []
        while not self._rows.empty():
            row = self._rows.get()
            if isinstance(row, Exception):  # a pool itself: nothing more will come of it
                outcomes += [Outcome(object_id, describe(row)) for object_id in self._missing]
                self._missing.clear()
                continue
            object_id = row["object_id"]
            self.images += row["images"]
            self._warnings.extend(row["warnings"])
            if row["generator"] == "dreambooth" and object_id in self._not_fine_tuned:
                self._not_fine_tuned.remove(object_id)
                self.tuned += 1
            if object_id not in self._missing:  # it has failed elsewhere, and was fine-tuned nevertheless
                self.drop_weights(object_id)
                continue
            self._missing[object_id] -= 1
            if row["error"] or not self._missing[object_id]:
                del self._missing[object_id]
                outcomes.append(Outcome(object_id, row["error"] or self.why_unusable(object_id)))
                self.drop_weights(object_id)
        return outcomes

    def drop_weights(self, object_id: str) -> None:
        """Full fine-tunes are gigabytes each; LoRAs stay for who wants them."""
        if self._config.generate.dreambooth.method == "full":
            self._folder.drop_generator(object_id)

    def why_unusable(self, object_id: str) -> str | None:
        """The cause if an object cannot be trained on what has been generated for it. Writes what was filtered."""
        shards = sampled_shards(self._folder, self._config, object_id)
        if not shards:
            return None
        try:
            report = FilterReport.of_shards(shards)
        except ShardError as error:
            return str(error)
        self._folder.write_json(self._folder.filtered(object_id), report.summary())
        cause = why_no_positive(report, self._config)
        if cause and self._config.generate.generator == "combined":
            self._warnings.append(f"object {object_id}: generate: {cause}; it is trained on cut-and-paste alone")
            return None
        return cause
