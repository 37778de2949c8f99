"""The backbone of a run with its LoRA slot: what every training and evaluation worker holds once."""

from __future__ import annotations

import torch

from persrep_ray.backbones.backbone import load_backbone
from persrep_ray.backbones.lora import LoraBackbone
from persrep_ray.config import RunConfig


def load_lora(config: RunConfig, device: torch.device | str = "cpu") -> LoraBackbone:
    """Loads the backbone that `config` names and puts a fresh LoRA on it. Raises `BackboneError`."""
    backbone = load_backbone(config.backbone).to(device)
    return LoraBackbone(backbone, config.train.lora, base_name=config.backbone.name)
