"""What differs between the ViTs we wrap: where their parts are, how pixels become tokens, what sums a picture up."""

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
"""What `transformers` calls query, key and value in all of these families: LoRA sits on them."""


@dataclass(frozen=True)
class Family:
    """One kind of ViT in `transformers`. Its parts are named by their paths in the model.

    `blocks` is also where PEFT finds the layers (`layers_pattern`); `attention` is the path, within a block, of the
    module with the `PROJECTIONS`.
    """

    model_class: str
    blocks: str
    attention: str
    norm: str
    embed: Callable[[Any, torch.Tensor], torch.Tensor]  # model, pixels (B,3,H,W) -> tokens (B,T,D)
    normalization: Normalization = IMAGENET  # where the checkpoint declares none
    rope: str | None = None  # makes the rotary position embeddings that every block needs
    head: str | None = None  # pools the patches (B,N,D) to (B,D); a family that has one has no CLS token


def unsupported(model_type: object) -> str:
    """Why a checkpoint of this type cannot be a backbone."""
    reason = f"model_type {model_type!r} is not supported, one of {', '.join(FAMILIES)} is"
    if str(model_type).startswith("siglip2"):
        reason += (
            " (SigLIP 2 with a fixed resolution says 'siglip'; this one, NaFlex, takes patches of any aspect ratio)"
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

# By `model_type` of the checkpoint's config.json.
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
    # An MAE encoder is a plain ViT; `ViTMAEModel` would drop and shuffle patches as in pre-training.
    "vit_mae": _VIT,
}
