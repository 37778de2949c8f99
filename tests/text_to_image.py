"""What the tests of DreamBooth share: a slot with something in it, and the picture of a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from persrep_ray.config_generate import DreamBoothConfig
from persrep_ray.generate.diffusion.model import DiffusionModel

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
    """Something in the slot that changes pictures: random weights of a LoRA, or the base's with noise."""
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
def picture(pipe: Any, prompt: str = PROMPT, seed: int = 0) -> NDArray[np.float32]:
    """(S, S, 3) in 0..1, as any user of diffusers draws it."""
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
