"""Fine-tunes the text-to-image model to the objects of a run and stores what it learned in the run folder."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from persrep_ray.config.versions import versions
from persrep_ray.generate.dreambooth.class_images import ClassImages
from persrep_ray.generate.dreambooth.diffusion.examples import make_examples
from persrep_ray.generate.dreambooth.diffusion.fine_tuning import Task, fine_tune
from persrep_ray.generate.dreambooth.diffusion.loading import DiffusionError
from persrep_ray.generate.dreambooth.diffusion.model import DiffusionModel
from persrep_ray.generate.dreambooth.diffusion.sampling import Sampler
from persrep_ray.generate.dreambooth.run import DreamBoothRun
from persrep_ray.generate.types import seed_of

_CROPS = 4  # of each photo


class ObjectFineTuner:
    """Fine-tunes to one object per call; the model is loaded once."""

    def __init__(self, run: DreamBoothRun) -> None:
        self._run = run
        generate = run.config.generate
        self._model = DiffusionModel(generate.dreambooth, run.device, trains=True)
        # A size that cannot be sampled must be noticed before hours of fine-tuning.
        self._model.latent_side(generate.sampling.size or generate.dreambooth.resolution)
        sampling = generate.sampling.model_copy(update={"size": generate.dreambooth.resolution})
        self._class_images = ClassImages(run.config, run.folder, self._model, Sampler(self._model, sampling, run.warn))

    def __call__(self, object_id: str) -> None:
        """Stores the object's weights and how they were made, whole or not at all; weights that exist are kept.

        Raises ValueError, which names the object: no category, no photo with a mask, a loss that is not finite.
        """
        config, folder, prompts = self._run.config, self._run.folder, self._run.prompts
        if folder.has_weights(object_id):
            return
        started = time.monotonic()
        photos, seed = self._run.manifest.objects[object_id], seed_of(config.seed, object_id, "dreambooth")
        prompts.positives(object_id, photos.category)  # fails now if sampling would fail later
        prompt, class_prompt = prompts.instance(photos.category), prompts.class_prompt(photos.category)
        dreambooth = config.generate.dreambooth
        masked = [
            (image, mask if dreambooth.masked_loss else None) for image, mask in self._run.masked_photos(object_id)
        ]
        if not masked:
            raise DiffusionError(f"object {object_id}: generate: no photo has a mask")
        class_latents = self._class_images.latents(class_prompt, begin_at=seed)
        examples = make_examples(self._model, masked, crops=_CROPS, seed=seed)
        task = Task(f"object {object_id}", examples, prompt, class_latents, class_prompt, seed)
        result = fine_tune(self._model, task, self._run.warn)
        report = {
            "object_id": object_id,
            "photos": [photo.path.name for photo in folder.masked_photos(photos) if photo.mask is not None],
            "commit": self._model.commit,
            "prompt": prompt,
            "class_prompt": class_prompt,
            "seed": seed,
            "seconds": time.monotonic() - started,
            **asdict(result),
            "config": dreambooth.model_dump(mode="json"),
            "versions": versions(),
        }
        with TemporaryDirectory() as scratch:
            self._model.save(Path(scratch))
            folder.write_weights(object_id, Path(scratch), report)
