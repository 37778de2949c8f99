"""Coloured shapes as objects, and a ViT that is small enough to train in a second."""

from __future__ import annotations

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from persrep_ray.backbones.backbone import Backbone

COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 200)}


def shape(colour: tuple[int, int, int], seed: int, size: int = 64) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A coloured disc on noise, and its mask."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 160, (size, size, 3)).astype(np.uint8)
    y, x = np.mgrid[:size, :size]
    cy, cx = rng.uniform(0.4, 0.6, 2) * size
    mask = (y - cy) ** 2 + (x - cx) ** 2 < (size / 4) ** 2
    image[mask] = colour
    return image, mask


def tiny_backbone(adapted_blocks: int = 2) -> Backbone:
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=14
    )
    model = transformers.Dinov2Model(config)
    return Backbone(model, adapted_blocks=adapted_blocks)
