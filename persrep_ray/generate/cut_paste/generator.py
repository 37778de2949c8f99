"""What a run must know about `cut_paste`: one pool of cheap actors."""

from __future__ import annotations

from collections.abc import Sequence

from persrep_ray.distributed.resources import Demand
from persrep_ray.generate.cut_paste.worker import CutPasteWorker, UserPhotos
from persrep_ray.generate.types import Generator, GeneratorInputs, Stage


class CutPaste(Generator):
    uses_photos = True

    def stages(self) -> Sequence[Stage]:
        generate = self.config.generate
        return [Stage(Demand("cut_paste", generate.actors, generate.cpus_per_actor), CutPasteWorker)]

    def prepare(self, inputs: GeneratorInputs) -> UserPhotos:
        return UserPhotos(inputs.backgrounds, inputs.negatives)
