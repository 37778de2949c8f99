"""Training one object of a run: its inputs come from the run folder, its adapter goes there. No Ray in here."""

from __future__ import annotations

import time
from collections.abc import Sequence

from persrep_ray.backbones.lora import LoraBackbone
from persrep_ray.config import RunConfig
from persrep_ray.data.distractors import Neighbours
from persrep_ray.data.objects import Manifest, Photo
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.schedule import training_chunks
from persrep_ray.generate.shards import read_shards
from persrep_ray.storage.files import File
from persrep_ray.train.batches import TrainInputs
from persrep_ray.train.trainer import Progress, Trainer


class ObjectTrainer:
    """Trains objects of one run, one after the other. With several ranks, all of them make the same calls.

    Args:
        negatives: the user's photos of other things that check the adapters; they were not trained on.
    """

    def __init__(
        self,
        lora: LoraBackbone,
        config: RunConfig,
        manifest: Manifest,
        folder: RunFolder,
        negatives: Sequence[File] = (),
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._lora = lora
        self._config = config
        self._folder = folder
        self._neighbours = Neighbours(manifest, config.generate.negative_objects, config.seed)
        self._negatives = [Photo("negatives:", file, None, None) for file in negatives]
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
        objects = self._neighbours.objects
        chosen = [(other, i) for other, indices in self._neighbours.of(object_id).items() for i in indices]
        shards = {
            role: read_shards(self._folder, chunks, self._config.data)
            for role, chunks in training_chunks(object_id, self._config).items()
        }
        inputs = TrainInputs(
            object_id=object_id,
            photos=objects[object_id].train,
            distractors=tuple(objects[other].train[i] for other, i in chosen),
            distractor_photo=tuple(i for _, i in chosen),
            positives=shards["positive"],
            negatives=shards["negative"],
            checks=(*self._neighbours.checks(object_id), *self._negatives),
        )
        return inputs, sum(report["seconds"] for rows in shards.values() for report in rows.reports)
