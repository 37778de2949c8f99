"""The training step of each family is compared with what its pipeline does in sampling."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.text_to_image import SIDE, model
from helpers.tiny_diffusion import SAVERS

from persrep_ray.generate.dreambooth.diffusion.families import Noised
from persrep_ray.generate.dreambooth.diffusion.model import DiffusionModel

PROMPTS = ["a photo of <new1> mug", "a dog on grass"]
Base = Callable[[str], Path]
every_family = pytest.mark.parametrize("family", SAVERS)


def latents_and_noise(one: DiffusionModel, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (2, count, one.pipe.vae.config.latent_channels, one.latent_side(SIDE), one.latent_side(SIDE))
    latents, noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return latents, noise


class Recorder:
    """Wraps a denoiser and records its arguments, by the names of its parameters, and its predictions."""

    def __init__(self, denoiser: torch.nn.Module) -> None:
        self.calls: list[dict[str, Any]] = []
        self.answers: list[torch.Tensor] = []
        forward, signature = denoiser.forward, inspect.signature(denoiser.forward)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(dict(signature.bind(*args, **kwargs).arguments))
            answer = forward(*args, **kwargs)
            self.answers.append(answer[0])
            return answer

        denoiser.forward = recorded  # type: ignore[method-assign]


def tensors(call: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All tensors that the denoiser got, flat, with a time for each row even if all rows share a time."""
    flat: dict[str, torch.Tensor] = {}
    for name, value in call.items():
        if isinstance(value, dict):
            flat |= {key: part for key, part in value.items() if part is not None}
        elif isinstance(value, torch.Tensor):
            flat[name] = value
    flat["timestep"] = flat["timestep"].float().expand(len(PROMPTS))
    if "guidance" in flat:
        flat["guidance"] = flat["guidance"].expand(len(PROMPTS))
    return flat


@torch.no_grad()
@every_family
def test_the_denoiser_is_called_as_the_pipeline_calls_it(base: Base, family: str) -> None:
    one = model(base(family))
    recorder = Recorder(getattr(one.pipe, one.family.denoiser))
    one.pipe(
        prompt=PROMPTS,
        height=2 * SIDE,
        width=2 * SIDE,
        num_inference_steps=3,
        guidance_scale=1.0,  # no guidance, and for the distilled Flux the same scale as in training
        output_type="latent",
        generator=torch.Generator().manual_seed(0),
    )
    theirs, answer = recorder.calls[1], recorder.answers[1]  # the second step: a time within the schedule
    hidden = theirs["sample"] if "sample" in theirs else theirs["hidden_states"]
    times = theirs["timestep"].expand(len(PROMPTS))
    if family == "flux":
        times = times * 1000
        hidden, answer = (one.pipe._unpack_latents(x, 2 * SIDE, 2 * SIDE, 8) for x in (hidden, answer))
    ours = one.predict(Noised(hidden, times, target=hidden), one.encode_prompts(PROMPTS))

    wanted, got = tensors(theirs), tensors(recorder.calls[-1])
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=0 if name != "timestep" else 1e-6, msg=name)
    assert ours.shape == hidden.shape
    torch.testing.assert_close(ours, answer, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@every_family
def test_prompts_differ_and_each_row_belongs_to_its_prompt(base: Base, family: str) -> None:
    one = model(base(family))
    both, second = one.encode_prompts(PROMPTS), one.encode_prompts(PROMPTS[1:])
    for name, value in both.items():
        assert len(value) == 2 and not torch.allclose(value[0], value[1])
        torch.testing.assert_close(value[1:], second[name])
    latents, noise = latents_and_noise(one, 2)
    noised = one.noised(latents, noise, torch.tensor([0.5, 0.5]))
    same = Noised(noised.latents[:1].expand(2, -1, -1, -1), noised.times, noised.target)
    answers = one.predict(same, both)
    assert answers.shape == latents.shape and not torch.equal(answers[0], answers[1])


@every_family
def test_moments_lead_from_the_image_to_noise(base: Base, family: str) -> None:
    one = model(base(family))
    latents, noise = latents_and_noise(one, 5)
    noised = one.noised(latents, noise, torch.tensor([0.0, 0.25, 0.5, 0.75, 0.999]))
    away = (noised.latents - latents).flatten(1).norm(dim=1)
    assert (away.diff() > 0).all()
    # Flow matching stays 0.024 away from both ends; the schedule of Stable Diffusion ends with 0.07 of signal.
    assert away[0] < 0.1 * (noise - latents)[0].norm()
    assert (noised.latents[4] - noise[4]).norm() < 0.15 * (noise - latents)[4].norm()
    assert noised.times.shape == (5,) and (noised.times.diff() > 0).all()
    assert noised.times[0] >= 0 and noised.times[-1] < 1000


@pytest.mark.parametrize("family", ["sd", "sd_v", "sdxl"])
def test_diffusion_is_noised_as_the_pipelines_scheduler_does(base: Base, family: str) -> None:
    one = model(base(family))
    latents, noise = latents_and_noise(one, 3)
    noised = one.noised(latents, noise, torch.tensor([0.1, 0.5, 0.9]))
    assert noised.times.tolist() == [100, 500, 900]
    scheduler = one.pipe.scheduler
    theirs = scheduler.add_noise(latents, noise, noised.times)
    signal = scheduler.alphas_cumprod[noised.times]
    if family == "sdxl":  # Euler uses another scale until the denoiser is called
        theirs = theirs * signal.sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(noised.latents, theirs)
    velocity = scheduler.get_velocity(latents, noise, noised.times) if family == "sd_v" else None
    torch.testing.assert_close(noised.target, noise if velocity is None else velocity)
    assert noised.predicts_velocity is (family == "sd_v")
    assert noised.snr is not None
    torch.testing.assert_close(noised.snr, signal / (1 - signal))


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_flow_is_noised_as_the_pipelines_scheduler_does(base: Base, family: str) -> None:
    one = model(base(family))
    latents, noise = latents_and_noise(one, 3)
    noised = one.noised(latents, noise, torch.tensor([0.1, 0.5, 0.9]))
    share = (noised.times / 1000).view(-1, 1, 1, 1)
    torch.testing.assert_close(noised.latents, (1 - share) * latents + share * noise)
    torch.testing.assert_close(noised.target, noise - latents)
    assert noised.snr is None and not noised.predicts_velocity
    # The median of the logit-normal is the middle; the shift of Stable Diffusion 3 moves it to 3/4, Flux has none.
    assert noised.times[1].item() == pytest.approx(750 if family == "sd3" else 500)


@torch.no_grad()
@every_family
def test_latents_are_what_the_pipeline_decodes(base: Base, family: str) -> None:
    one = model(base(family))
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = one.encode_images(image)
    vae = one.pipe.vae
    decoded = vae.decode(latents / vae.config.scaling_factor + (vae.config.shift_factor or 0)).sample
    torch.testing.assert_close(decoded, vae(image).sample)
