"""What differs between the ViTs we wrap: where their blocks are, how pixels become tokens, which norm ends them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Family:
    """One kind of ViT in `transformers`. `blocks` is also where PEFT finds the layers (`layers_pattern`)."""

    model_class: str
    blocks: str
    norm: str
    embed: Callable[[Any, torch.Tensor], torch.Tensor]  # model, pixels (B,3,H,W) -> tokens (B,T,D)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    rope: str | None = None  # submodule that makes the rotary position embeddings every block needs

    def block_list(self, model: nn.Module) -> nn.ModuleList:
        blocks = model.get_submodule(self.blocks)
        assert isinstance(blocks, nn.ModuleList)
        return blocks


def _embed(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model.embeddings(pixels)


def _embed_interpolated(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model.embeddings(pixels, interpolate_pos_encoding=True)


def _embed_clip(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model.pre_layrnorm(model.embeddings(pixels, interpolate_pos_encoding=True))


_VIT = Family("ViTModel", blocks="layers", norm="layernorm", embed=_embed_interpolated)

# By `model_type` of the checkpoint's config.json.
FAMILIES: dict[str, Family] = {
    "dinov2": Family("Dinov2Model", blocks="encoder.layer", norm="layernorm", embed=_embed),
    "dinov2_with_registers": Family("Dinov2WithRegistersModel", blocks="encoder.layer", norm="layernorm", embed=_embed),
    "dinov3_vit": Family("DINOv3ViTModel", blocks="model.layer", norm="norm", embed=_embed, rope="rope_embeddings"),
    "clip": Family(
        "CLIPVisionModel",
        blocks="encoder.layers",
        norm="post_layernorm",
        embed=_embed_clip,
        mean=CLIP_MEAN,
        std=CLIP_STD,
    ),
    "vit": _VIT,
    # An MAE encoder is a plain ViT; `ViTMAEModel` would drop and shuffle patches as in pre-training.
    "vit_mae": _VIT,
}
FAMILIES["clip_vision_model"] = FAMILIES["clip"]
