"""What differs between the text-to-image pipelines that can be fine-tuned: conditions, noising, the denoiser's call.

Each follows the training script of diffusers for it (examples/dreambooth).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

Conditions = Mapping[str, torch.Tensor]  # each (B, ...), so that rows can be selected and joined

_ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")


@dataclass(frozen=True)
class Noised:
    """Latents with noise, and what the denoiser should predict from them.

    `latents` and `target` (B, C, h, w); `times` (B,), as the denoiser takes them; `snr` (B,), the ratio of signal power
    to noise power, None for models without one.
    """

    latents: torch.Tensor
    times: torch.Tensor
    target: torch.Tensor
    snr: torch.Tensor | None = None
    predicts_velocity: bool = False


class Family(ABC):
    """A kind of pipeline. `text_encoders` are those that may be fine-tuned (T5 is not, as is usual)."""

    denoiser: ClassVar[str]
    text_encoders: ClassVar[tuple[str, ...]]
    lora_targets: ClassVar[tuple[str, ...]] = _ATTENTION

    @abstractmethod
    def unsupported(self, pipe: Any) -> str | None:
        """Says why a pipeline of this class cannot be fine-tuned; None if it can."""

    @abstractmethod
    def encode(self, pipe: Any, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """The conditions of B prompts. Gradients flow into text encoders whose parameters require them."""

    @abstractmethod
    def noised(self, pipe: Any, latents: torch.Tensor, noise: torch.Tensor, moments: torch.Tensor) -> Noised:
        """Mixes `latents` and `noise` (B, C, h, w) at `moments` (B,), uniform in 0..1 between image and noise."""

    @abstractmethod
    def predict(self, pipe: Any, noised: Noised, conditions: Conditions) -> torch.Tensor:
        """The prediction of the denoiser, (B, C, h, w)."""


class _Diffusion(Family):
    """A model that is trained on a schedule of noise levels and predicts the noise or the velocity."""

    denoiser = "unet"

    def unsupported(self, pipe: Any) -> str | None:
        config = pipe.scheduler.config
        if config.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction"):
            return f"it predicts {config['prediction_type']!r}; epsilon and v_prediction are supported"
        if "sigma_data" in config:
            return f"it uses the noise of EDM ({config['_class_name']})"
        return None

    def noised(self, pipe: Any, latents: torch.Tensor, noise: torch.Tensor, moments: torch.Tensor) -> Noised:
        scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        times = (moments * scheduler.config.num_train_timesteps).long()
        velocity = scheduler.config.prediction_type == "v_prediction"
        signal = scheduler.alphas_cumprod.to(times.device)[times]
        return Noised(
            latents=scheduler.add_noise(latents, noise, times),
            times=times,
            target=scheduler.get_velocity(latents, noise, times) if velocity else noise,
            snr=signal / (1 - signal),
            predicts_velocity=velocity,
        )


class StableDiffusion(_Diffusion):
    """Stable Diffusion 1 and 2."""

    text_encoders = ("text_encoder",)

    def encode(self, pipe: Any, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        text, _ = pipe.encode_prompt(list(prompts), pipe.text_encoder.device, 1, False)
        return {"text": text}

    def predict(self, pipe: Any, noised: Noised, conditions: Conditions) -> torch.Tensor:
        answer: torch.Tensor = pipe.unet(noised.latents, noised.times, conditions["text"], return_dict=False)[0]
        return answer


class StableDiffusionXL(_Diffusion):
    """Has two text encoders. The size and crop of the image are conditions, too: here it is uncropped at its size."""

    text_encoders = ("text_encoder", "text_encoder_2")

    def encode(self, pipe: Any, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        text, _, pooled, _ = pipe.encode_prompt(
            list(prompts), device=pipe.text_encoder.device, do_classifier_free_guidance=False
        )
        return {"text": text, "pooled": pooled}

    def predict(self, pipe: Any, noised: Noised, conditions: Conditions) -> torch.Tensor:
        height, width = (side * pipe.vae_scale_factor for side in noised.latents.shape[-2:])
        size = noised.latents.new_tensor([height, width, 0, 0, height, width]).expand(len(noised.latents), -1)
        added = {"text_embeds": conditions["pooled"], "time_ids": size}
        answer: torch.Tensor = pipe.unet(
            noised.latents, noised.times, conditions["text"], added_cond_kwargs=added, return_dict=False
        )[0]
        return answer


class _FlowMatching(Family):
    """A transformer that predicts the velocity along a straight path from image to noise (arXiv 2403.03206)."""

    denoiser = "transformer"
    lora_targets = (*_ATTENTION, "add_k_proj", "add_q_proj", "add_v_proj", "to_add_out")

    def unsupported(self, pipe: Any) -> str | None:
        name = type(pipe.scheduler).__name__
        return None if name.startswith("FlowMatch") else f"its scheduler {name} does no flow matching"

    def noised(self, pipe: Any, latents: torch.Tensor, noise: torch.Tensor, moments: torch.Tensor) -> Noised:
        config = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config).config
        # Logit-normal: the middle of the path, where there is most to learn, comes more often.
        levels = torch.special.ndtri(moments.clamp(1e-4, 1 - 1e-4)).sigmoid()
        shift = 1.0 if config.use_dynamic_shifting else config.shift
        levels = shift * levels / (1 + (shift - 1) * levels)
        share = levels.view(-1, 1, 1, 1)
        return Noised(
            latents=(1 - share) * latents + share * noise,
            times=levels * config.num_train_timesteps,
            target=noise - latents,
        )


class StableDiffusion3(_FlowMatching):
    text_encoders = ("text_encoder", "text_encoder_2")

    def encode(self, pipe: Any, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        text, _, pooled, _ = pipe.encode_prompt(
            list(prompts), None, None, device=pipe.text_encoder.device, do_classifier_free_guidance=False
        )
        return {"text": text, "pooled": pooled}

    def predict(self, pipe: Any, noised: Noised, conditions: Conditions) -> torch.Tensor:
        answer: torch.Tensor = pipe.transformer(
            hidden_states=noised.latents,
            timestep=noised.times,
            encoder_hidden_states=conditions["text"],
            pooled_projections=conditions["pooled"],
            return_dict=False,
        )[0]
        return answer


class Flux(_FlowMatching):
    """Packs latents two by two. A distilled model also takes the guidance scale, which is 1 in training."""

    text_encoders = ("text_encoder",)

    def encode(self, pipe: Any, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        text, pooled, _ = pipe.encode_prompt(list(prompts), None, device=pipe.text_encoder.device)
        return {"text": text, "pooled": pooled}

    def predict(self, pipe: Any, noised: Noised, conditions: Conditions) -> torch.Tensor:
        latents = noised.latents
        count, channels, height, width = latents.shape
        text = conditions["text"]
        answer = pipe.transformer(
            hidden_states=pipe._pack_latents(latents, count, channels, height, width),
            timestep=noised.times / 1000,
            guidance=latents.new_ones(count) if pipe.transformer.config.guidance_embeds else None,
            pooled_projections=conditions["pooled"],
            encoder_hidden_states=text,
            txt_ids=text.new_zeros(text.shape[1], 3),
            img_ids=pipe._prepare_latent_image_ids(count, height // 2, width // 2, latents.device, latents.dtype),
            return_dict=False,
        )[0]
        scale = pipe.vae_scale_factor
        unpacked: torch.Tensor = pipe._unpack_latents(answer, height * scale, width * scale, scale)
        return unpacked


# By the class that AutoPipelineForText2Image of diffusers chooses for a checkpoint.
FAMILIES: dict[str, Family] = {
    "StableDiffusionPipeline": StableDiffusion(),
    "StableDiffusionXLPipeline": StableDiffusionXL(),
    "StableDiffusion3Pipeline": StableDiffusion3(),
    "FluxPipeline": Flux(),
}
