"""What differs between the ViTs that we wrap: where their parts are, how pixels become tokens, what gives the CLS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from persrep_ray.backbones.preprocessing import Normalization

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET = Normalization(IMAGENET_MEAN, IMAGENET_STD)

PROJECTIONS = ("q_proj", "k_proj", "v_proj")
"""The names of query, key and value in all of these families of `transformers`; LoRA adapts them."""


@dataclass(frozen=True)
class Family:
    """A kind of ViT in `transformers`. Its parts are given by their paths in the model.

    PEFT finds the layers by the last name in `blocks` (`layers_pattern`). `attention` is the path, within a block, of
    the module that holds the `PROJECTIONS`.
    """

    model_class: str
    blocks: str
    attention: str
    norm: str
    embed: Callable[[Any, torch.Tensor], torch.Tensor]  # model, pixels (B,3,H,W) -> tokens (B,T,D)
    normalization: Normalization = IMAGENET  # used if the checkpoint declares none
    rope: str | None = None  # the module that makes the rotary position embeddings, which every block needs
    head: str | None = None  # pools the patches (B,N,D) to (B,D), in families without a CLS token


def unsupported(model_type: object) -> str:
    """Why a checkpoint of this type cannot be a backbone."""
    reason = f"model_type {model_type!r} is not supported; supported are {', '.join(FAMILIES)}"
    if str(model_type).startswith("siglip2"):
        reason += (
            " (SigLIP 2 with a fixed resolution says 'siglip'; this is NaFlex, which takes patches of any aspect ratio)"
        )
    return reason


def _embed(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model.embeddings(pixels)


def _embed_interpolated(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model.embeddings(pixels, interpolate_pos_encoding=True)


def _embed_clip(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model.pre_layrnorm(model.embeddings(pixels, interpolate_pos_encoding=True))


_CLIP = Family(
    "CLIPVisionModel",
    blocks="encoder.layers",
    attention="self_attn",
    norm="post_layernorm",
    embed=_embed_clip,
    normalization=Normalization(CLIP_MEAN, CLIP_STD),
)
_SIGLIP = Family(
    "SiglipVisionModel",
    blocks="encoder.layers",
    attention="self_attn",
    norm="post_layernorm",
    embed=_embed_interpolated,
    normalization=Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    head="head",
)
_VIT = Family("ViTModel", blocks="layers", attention="attention", norm="layernorm", embed=_embed_interpolated)

# The keys are the `model_type` in a checkpoint's config.json.
FAMILIES: dict[str, Family] = {
    "dinov2": Family("Dinov2Model", blocks="encoder.layer", attention="attention", norm="layernorm", embed=_embed),
    "dinov2_with_registers": Family(
        "Dinov2WithRegistersModel", blocks="encoder.layer", attention="attention", norm="layernorm", embed=_embed
    ),
    "dinov3_vit": Family(
        "DINOv3ViTModel",
        blocks="model.layer",
        attention="attention",
        norm="norm",
        embed=_embed,
        rope="rope_embeddings",
    ),
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "vit": _VIT,
    # An MAE encoder is a plain ViT. `ViTMAEModel` would drop and shuffle patches, as in pre-training.
    "vit_mae": _VIT,
}
