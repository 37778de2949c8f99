"""Tiny random ViTs of every family, and their features by nothing but `transformers`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from persrep_ray.backbones.backbone import Features

DIM, BLOCKS, PATCH, REGISTERS = 32, 3, 14, 3
SIDE = 4 * PATCH  # pixels, of the position tables
SMALL: dict[str, Any] = {
    "hidden_size": DIM,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "patch_size": PATCH,
    "image_size": SIDE,
}
_TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 50,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Kind:
    """How a model of this kind is made, and how a user of plain `transformers` computes its features."""

    make: Callable[[], Any]
    features: Callable[[Any, torch.Tensor], Features]
    plain: str = "AutoModel"  # the class that loads the saved model as the ViT alone


def _dino(model: Any, pixels: torch.Tensor) -> Features:
    hidden = model(pixel_values=pixels).last_hidden_state
    return Features(hidden[:, 0], hidden[:, 1:])


def _dino_with_registers(model: Any, pixels: torch.Tensor) -> Features:
    hidden = model(pixel_values=pixels).last_hidden_state
    return Features(hidden[:, 0], hidden[:, 1 + REGISTERS :])


def _clip(model: Any, pixels: torch.Tensor) -> Features:
    found = model(pixel_values=pixels, interpolate_pos_encoding=True)
    return Features(found.pooler_output, model.post_layernorm(found.last_hidden_state)[:, 1:])


def _siglip(model: Any, pixels: torch.Tensor) -> Features:
    found = model(pixel_values=pixels, interpolate_pos_encoding=True)
    return Features(found.pooler_output, found.last_hidden_state)


def _vit(model: Any, pixels: torch.Tensor) -> Features:
    hidden = model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
    return Features(hidden[:, 0], hidden[:, 1:])


def _vit_or_mae(model: Any, pixels: torch.Tensor) -> Features:
    if not isinstance(model, hf.ViTMAEModel):
        return _vit(model, pixels)
    # Nothing is masked, and the noise is sorted so that no patch moves.
    model.config.mask_ratio = 0.0
    noise = torch.arange((pixels.shape[-1] // PATCH) ** 2, dtype=torch.float32).repeat(len(pixels), 1)
    hidden = model(pixels, noise=noise, interpolate_pos_encoding=True).last_hidden_state
    return Features(hidden[:, 0], hidden[:, 1:])


def _two_towers(config: Any, model: Any, **options: Any) -> Any:
    return model(config(vision_config=SMALL, text_config=_TEXT, **options))


# By the `model_type` that is saved.
KINDS: dict[str, Kind] = {
    "dinov2": Kind(lambda: hf.Dinov2Model(hf.Dinov2Config(**SMALL)), _dino),
    "dinov2_with_registers": Kind(
        lambda: hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**SMALL, num_register_tokens=REGISTERS)),
        _dino_with_registers,
    ),
    "dinov3_vit": Kind(
        lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**SMALL, num_register_tokens=REGISTERS)), _dino_with_registers
    ),
    "clip": Kind(lambda: _two_towers(hf.CLIPConfig, hf.CLIPModel, projection_dim=8), _clip, "CLIPVisionModel"),
    "clip_vision_model": Kind(lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**SMALL)), _clip),
    "siglip": Kind(lambda: _two_towers(hf.SiglipConfig, hf.SiglipModel), _siglip, "SiglipVisionModel"),
    "siglip_vision_model": Kind(lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**SMALL)), _siglip),
    "vit": Kind(lambda: hf.ViTModel(hf.ViTConfig(**SMALL), add_pooling_layer=False), _vit),
    "vit_mae": Kind(lambda: hf.ViTMAEForPreTraining(hf.ViTMAEConfig(**SMALL)), _vit_or_mae, "ViTModel"),
}


def make(kind: str) -> Any:
    """A model of this kind in which all parameters are random, so that a skipped bias, scale or norm shows."""
    torch.manual_seed(0)
    model = KINDS[kind].make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def save(kind: str, folder: Path) -> Any:
    """Saves `make(kind)` in `folder` and returns it."""
    model = make(kind)
    model.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == kind
    return model


def tower(model: Any) -> Any:
    """The ViT inside a larger model: the vision tower of two towers, or the encoder of an MAE."""
    return getattr(model, "vision_model", getattr(model, "vit", model))


def load_plain(kind: str, folder: Path) -> Any:
    """The ViT in the saved checkpoint, as a user of plain `transformers` loads it."""
    return getattr(hf, KINDS[kind].plain).from_pretrained(folder).eval()


def random_pixels(side: int = SIDE, seed: int = 0, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))
