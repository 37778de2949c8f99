"""Loads SAM checkpoints from a folder or the hub, strictly and only from safetensors."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from persrep_ray.backbones.checkpoint import folder_or_snapshot
from persrep_ray.backbones.families import IMAGENET
from persrep_ray.backbones.preprocessing import Normalization, read_normalization
from persrep_ray.config import SamConfig


class SamError(ValueError):
    """A checkpoint cannot be used as SAM; the message names it and the cause, in one line."""


def load_sam(config: SamConfig) -> tuple[Any, Normalization]:
    """The frozen `transformers.SamModel` and the normalization of its pixels, by default that of ImageNet.

    Raises:
        SamError: there is no such checkpoint, it is not a SAM, a file is damaged, or tensors are missing.
    """
    try:
        folder = folder_or_snapshot(config.name, config.revision)
    except FileNotFoundError as error:
        raise SamError(f"SAM {config.name}: {error}") from error
    try:
        declared, _ = transformers.PretrainedConfig.get_config_dict(folder)
        kind = dict(declared).get("model_type")
        normalization = read_normalization(folder, IMAGENET)
    except (OSError, ValueError, TypeError) as error:  # a TypeError if the JSON has another shape
        raise SamError(f"SAM {config.name}: cannot read its config: {_first_line(error)}") from error
    if kind != "sam":
        raise SamError(f"SAM {config.name}: model_type {kind!r} is not supported, only 'sam'")
    try:
        model, info = transformers.SamModel.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError, StrictDataclassError) as error:
        raise SamError(f"SAM {config.name}: cannot be loaded: {_first_line(error)}") from error
    if info["missing_keys"]:
        raise SamError(f"SAM {config.name}: tensors missing: {', '.join(sorted(info['missing_keys'])[:5])}")
    return model.eval().requires_grad_(False), normalization


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
