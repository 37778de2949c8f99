"""What a run must know about `dreambooth`: two pools with a large model, the prompts, and what the filter rejects."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from persrep_ray.config import ConfigError
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.distributed.resources import Demand, PoolSize
from persrep_ray.generate.dreambooth.filter_report import FilterReport
from persrep_ray.generate.dreambooth.prompts.prompt_set import PromptSet, prompts_of_run
from persrep_ray.generate.dreambooth.workers import FineTuneWorker, SampleWorker
from persrep_ray.generate.shards import shard_report
from persrep_ray.generate.types import Chunk, Generator, GeneratorInputs, Package, Stage
from persrep_ray.storage.files import RemoteFile, file_at

if TYPE_CHECKING:
    from persrep_ray.distributed.streaming import Item

_MOST_AHEAD = 4  # objects whose weights of a full fine-tune wait in the run folder: gigabytes each
_FINE_TUNE, _SAMPLE = "fine-tune", "sample"


class DreamBooth(Generator):
    preparation = "fine-tune"

    def packages(self) -> Sequence[Package]:
        needed_by = f"generate.generator: {self.config.generate.generator}"
        packages = [
            Package(needed_by, name, "pip install 'persrep-ray[dreambooth]'") for name in ("diffusers", "accelerate")
        ]
        if self.config.generate.filter.metric == "dreamsim":
            packages.append(Package("generate.filter.metric: dreamsim", "dreamsim", "pip install dreamsim"))
        return packages

    def digests(self) -> dict[str, str]:
        name = self.config.generate.prompts.file
        if name is None:
            return {}
        try:
            file = file_at(name)
            content = file.tag.encode() if isinstance(file, RemoteFile) else file.read_bytes()
        except OSError as error:
            raise ConfigError(f"generate.prompts.file: {name}: cannot be read: {error.strerror or error}") from error
        return {"generate.prompts.file": hashlib.sha256(content).hexdigest()[:16]}

    def prepare(self, inputs: GeneratorInputs) -> PromptSet:
        return prompts_of_run(self.config, inputs.folder, inputs.categories, inputs.warn)

    def stages(self) -> Sequence[Stage]:
        tuning, sampling = self.config.generate.dreambooth, self.config.generate.sampling
        first = Demand(
            _FINE_TUNE,
            tuning.actors,
            tuning.cpus_per_actor,
            tuning.gpus_per_actor,
            holds_model=True,
            by_object=True,
        )
        second = Demand(_SAMPLE, sampling.actors, sampling.cpus_per_actor, sampling.gpus_per_actor, holds_model=True)
        return [Stage(first, FineTuneWorker), Stage(second, SampleWorker)]

    def items(self, chunks: Sequence[Chunk]) -> list[Item]:
        """Objects, each with its chunks. With full fine-tunes an object waits until an earlier one is finished."""
        by_object: dict[str, list[str]] = {}
        for chunk in chunks:
            by_object.setdefault(chunk.object_id, []).append(json.dumps(asdict(chunk)))
        is_bounded = self.config.generate.dreambooth.method == "full"
        earlier: deque[str] = deque(maxlen=_MOST_AHEAD)
        items = []
        for object_id, of_object in by_object.items():
            after = earlier[0] if is_bounded and len(earlier) == _MOST_AHEAD else ""
            earlier.append(object_id)
            items.append({"object_id": object_id, "chunks": of_object, "after": after})
        return items

    def warnings(self, pools: Mapping[str, PoolSize]) -> list[str]:
        if pools[_SAMPLE].gpus:
            return []
        return [
            "images are sampled on CPUs, which takes minutes for each with a model of the usual size: the cluster has "
            "no GPU now; if it will scale up to some, set generate.dreambooth.gpus_per_actor and "
            "generate.sampling.gpus_per_actor"
        ]

    def why_unusable(self, folder: RunFolder, object_id: str, positives: Sequence[Chunk]) -> str | None:
        """Says so if the filter rejected all images, and stores what it rejected."""
        report = FilterReport.merged(shard_report(folder, chunk)["filter"] for chunk in positives)
        folder.write_json(folder.filtered(object_id), report.summary())
        return report.why_no_image(self.config.generate.filter.threshold)

    def clean_up(self, folder: RunFolder, object_id: str) -> None:
        """Removes the weights of a full fine-tune, which are gigabytes. LoRAs stay for whoever wants them."""
        if self.config.generate.dreambooth.method == "full":
            folder.drop_weights(object_id)

    def seconds(self, folder: RunFolder, object_id: str) -> dict[str, float | None]:
        report = folder.fine_tuned(object_id)
        return {"fine_tune": folder.read_json(report)["seconds"] if folder.exists(report) else None}

    def summary(self, folder: RunFolder, object_id: str) -> dict[str, Any]:
        """How many sampled positives the filter rejected; `filtered/` has it by prompt."""
        report = folder.filtered(object_id)
        if not folder.exists(report):
            return {"filter": None}
        return {"filter": {name: value for name, value in folder.read_json(report).items() if name != "by_prompt"}}
