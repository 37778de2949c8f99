"""What the tests of DreamBooth share: a slot with weights in it, an image by a pipeline, and an object to learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers.tiny import COLOURS, shape
from numpy.typing import NDArray

from persrep_ray.config import DreamBoothConfig
from persrep_ray.generate.dreambooth.diffusion.examples import Examples, make_examples
from persrep_ray.generate.dreambooth.diffusion.families import Conditions, Noised
from persrep_ray.generate.dreambooth.diffusion.fine_tuning import FineTuneResult, Task, fine_tune
from persrep_ray.generate.dreambooth.diffusion.model import DiffusionModel

SIDE = 32  # pixels: four latents
PROMPT = "a photo of <new1> mug"


def settings(base: Path, **changes: Any) -> DreamBoothConfig:
    return DreamBoothConfig(
        **{"base": str(base), "resolution": SIDE, "precision": "float32", "rank": 2, "alpha": 2.0, **changes}
    )


def model(base: Path, *, trains: bool = False, **changes: Any) -> DiffusionModel:
    return DiffusionModel(settings(base, **changes), trains=trains)


@torch.no_grad()
def personalize(one: DiffusionModel, seed: int) -> None:
    """Puts weights into the slot that change images: a random LoRA, or the base weights with noise."""
    generator = torch.Generator().manual_seed(seed)
    one.reset(seed)
    for name in sorted(one.parameters):
        value = one.parameters[name]
        value += torch.randn(value.shape, generator=generator) * (0.3 if one.config.method == "lora" else 0.03)


def slot(one: DiffusionModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in one.parameters.items()}


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


@torch.no_grad()
def sampled(pipe: Any, prompt: str = PROMPT, seed: int = 0) -> NDArray[np.float32]:
    """An image (S, S, 3) in 0..1, as any user of diffusers would sample it."""
    pipe.set_progress_bar_config(disable=True)
    drawn: NDArray[np.float32] = pipe(
        prompt=prompt,
        height=SIDE,
        width=SIDE,
        num_inference_steps=2,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    ).images[0]
    return drawn


def trainee(base: Path, **changes: Any) -> DiffusionModel:
    return model(base, trains=True, **{"steps": 3, "learning_rate": 1e-2, **changes})


def examples(one: DiffusionModel, *, crops: int = 1) -> Examples:
    return make_examples(one, [shape(COLOURS["red"], index) for index in range(3)], crops=crops, seed=0)


def task(one: DiffusionModel, *, prior: int = 0, seed: int = 0, **changes: Any) -> Task:
    generator = torch.Generator().manual_seed(9)
    photos = examples(one)
    others = torch.randn((prior, *photos.latents.shape[1:]), generator=generator) if prior else None
    return Task(
        **{
            "name": "object mug",
            "photos": photos,
            "prompt": PROMPT,
            "class_latents": others,
            "class_prompt": "a mug",
            "seed": seed,
            **changes,
        }
    )


def unexpected(text: str) -> None:
    raise AssertionError(text)


def fine_tuned(one: DiffusionModel, **changes: Any) -> FineTuneResult:
    return fine_tune(one, task(one, **changes), unexpected)


def wrap(one: DiffusionModel, change: Callable[[Noised, torch.Tensor], torch.Tensor]) -> None:
    """Applies `change` to the prediction of the denoiser in training; the probe sees the true prediction."""
    predict = one.predict

    def changed(noised: Noised, conditions: Conditions) -> torch.Tensor:
        answer = predict(noised, conditions)
        return change(noised, answer) if torch.is_grad_enabled() else answer

    one.predict = changed  # type: ignore[method-assign]
