"""Loads a text-to-image pipeline, only from safetensors, and refuses pipelines that would be trained wrongly."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoPipelineForText2Image, DiffusionPipeline
from diffusers.utils.logging import disable_progress_bar
from safetensors import SafetensorError

from persrep_ray.config import DreamBoothConfig
from persrep_ray.generate.dreambooth.diffusion.families import FAMILIES, Family


class DiffusionError(ValueError):
    """A text-to-image model, or an object's weights for it, cannot be used; the message names it and the cause."""


def load_pipeline(config: DreamBoothConfig, dtype: torch.dtype) -> tuple[Any, Family, str | None]:
    """The pipeline that `config.base` names, its family, and the commit of a hub's model.

    Raises:
        DiffusionError: no such folder or hub id, no safetensors, a pipeline of another kind or for another task, or
            settings that do not apply to this kind.
    """
    disable_progress_bar()  # that of diffusers; the run shows its progress itself
    try:
        declared = DiffusionPipeline.load_config(config.base, revision=config.revision)
        # The images are training data and not shown to anyone; a false alarm would give a black image.
        unchecked = {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in declared else {}
        folder, commit = Path(config.base), None
        if not folder.is_dir():
            folder = Path(DiffusionPipeline.download(config.base, revision=config.revision, use_safetensors=True))
            commit = folder.name
        pipe: Any = AutoPipelineForText2Image.from_pretrained(folder, dtype=dtype, use_safetensors=True, **unchecked)
    except (OSError, ValueError, RuntimeError, TypeError, AttributeError, SafetensorError) as error:
        logging.getLogger(__name__).debug("loading failed", exc_info=error)
        raise DiffusionError(f"generator {config.base}: cannot be loaded: {one_line(error)}") from error
    name = type(pipe).__name__
    if name not in FAMILIES:
        raise DiffusionError(
            f"generator {config.base}: a {name} cannot be fine-tuned; supported are {', '.join(FAMILIES)}"
        )
    family = FAMILIES[name]
    if cause := _why_not(pipe, family):
        raise DiffusionError(f"generator {config.base}: {cause}")
    if config.min_snr_gamma is not None and family.denoiser != "unet":
        raise DiffusionError(
            f"generate.dreambooth.min_snr_gamma: {config.base} is trained by flow matching, which has no such weighting"
        )
    return pipe, family, commit


def _why_not(pipe: Any, family: Family) -> str | None:
    """Says why a pipeline of a supported class cannot be fine-tuned; None if it can."""
    names = (family.denoiser, *family.text_encoders)
    if missing := [name for name in names if getattr(pipe, name, None) is None]:
        return f"it has no {', '.join(missing)}"
    config = getattr(pipe, family.denoiser).config
    takes, gives = config["in_channels"], config.get("out_channels")
    if gives not in (None, takes):
        return (
            f"its {family.denoiser} takes {takes} channels and returns {gives}: it edits images; a model "
            "that draws them from text alone is needed"
        )
    if getattr(pipe.vae.config, "latents_mean", None) is not None:
        return "its VAE shifts each channel of the latents (latents_mean), which is not supported"
    return family.unsupported(pipe)


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
