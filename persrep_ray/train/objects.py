"""Training one object of a run: its inputs come from the run folder, its adapter goes there. No Ray in here."""

from __future__ import annotations

import time

from persrep_ray.backbones.lora import LoraBackbone
from persrep_ray.config import RunConfig
from persrep_ray.data.distractors import choose_distractors
from persrep_ray.data.objects import Manifest
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.schedule import training_chunks
from persrep_ray.generate.shards import read_shards
from persrep_ray.train.batches import TrainInputs
from persrep_ray.train.trainer import Progress, Trainer


class ObjectTrainer:
    """Trains objects of one run, one after the other. With several ranks, all of them make the same calls."""

    def __init__(
        self,
        lora: LoraBackbone,
        config: RunConfig,
        manifest: Manifest,
        folder: RunFolder,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._lora = lora
        self._config = config
        self._folder = folder
        self._objects = {one.object_id: one for one in manifest.objects.values() if one.train}
        self._categories = {object_id: one.category for object_id, one in self._objects.items()}
        self._trainer = Trainer(lora, config, rank=rank, world_size=world_size)
        self._rank = rank

    def __call__(self, object_id: str, progress: Progress) -> None:
        """Trains the object. Rank 0 commits its adapter, whole or not at all."""
        started = time.monotonic()
        inputs, generate_seconds = self._inputs(object_id)
        trained = self._trainer.train(inputs, progress)
        if self._rank == 0:
            self._lora.load(trained.state)
            report = {
                "seconds": time.monotonic() - started,
                "generate_seconds": generate_seconds,
                "strength": trained.strength,
                "loss": trained.history,
                "cross_validation": trained.cross_validation,
            }
            self._folder.write_trained(object_id, self._lora.files(), report)

    def _inputs(self, object_id: str) -> tuple[TrainInputs, float]:
        """The inputs, and the seconds that the synthetic images took."""
        most, seed = self._config.generate.negative_objects, self._config.seed
        distractors = choose_distractors(object_id, self._categories, most, seed)
        shards = {
            role: read_shards(self._folder, chunks, self._config.data)
            for role, chunks in training_chunks(object_id, self._config).items()
        }
        inputs = TrainInputs(
            object_id=object_id,
            photos=self._objects[object_id].train,
            distractors=tuple(photo for other in distractors for photo in self._objects[other].train),
            positives=shards["positive"],
            negatives=shards["negative"],
        )
        return inputs, sum(report["seconds"] for rows in shards.values() for report in rows.reports)
