"""The configuration of a run: one tree, one section per stage, validated once.

`RunConfig()` is the fast default for the embedded backbone on CPU. A YAML file, then `key=value` overrides are laid
over a preset; unknown keys and values out of range raise `ConfigError`, which names the key and what is allowed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class ConfigError(ValueError):
    """A configuration the user has to mend: the message is one line and names the key and the allowed values."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(_Section):
    """Limits on what is read from disk; inputs are treated as hostile."""

    max_pixels: int = Field(default=50_000_000, gt=0, description="a larger image is reported and skipped")
    max_bytes: int = Field(default=64 * 1024 * 1024, gt=0, description="a larger file is reported and skipped")


class BackboneConfig(_Section):
    """Which ViT, and how much of it is adapted."""

    name: str = Field(default="embedded", min_length=1, description="'embedded', a hub id or a local folder")
    revision: str | None = None
    adapted_blocks: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        default=4, description="K: LoRA sits on the last K blocks; what is before them is frozen and computed once"
    )
    image_size: int = Field(default=224, ge=14, le=2048, description="side of the square input, pixels")
    precision: Literal["bfloat16", "float32"] = "bfloat16"


class MaskConfig(_Section):
    """Foreground masks for photos that come without one."""

    method: Literal["embedded"] = "embedded"
    working_size: int = Field(default=448, ge=64, le=2048, description="longest side for GrabCut, pixels")
    grabcut_iterations: int = Field(default=4, ge=1, le=20)
    cpus_per_actor: float = Field(default=0.5, gt=0)


class GenerateConfig(_Section):
    """Synthetic images per object, and how the work is cut into chunks for the actors."""

    generator: Literal["cut_paste"] = "cut_paste"
    positives: int = Field(default=96, ge=1)
    negatives: int = Field(default=96, ge=1)
    image_size: int = Field(default=256, ge=32, le=1024, description="side of a synthetic image, pixels")
    object_area: tuple[float, float] = Field(
        default=(0.06, 0.6), description="share of the picture that the pasted object's box covers, smallest to largest"
    )
    rotation: float = Field(default=30.0, ge=0, le=180, description="largest rotation either way, degrees")
    occlusion: float = Field(default=0.25, ge=0, le=1, description="probability of an occluder over the object")
    same_category: float = Field(
        default=0.7, ge=0, le=1, description="share of the negatives drawn from objects of the same category, if any"
    )
    chunk_size: int = Field(default=16, ge=1, description="images per chunk: the unit of work and of resume")
    actors: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    cpus_per_actor: float = Field(default=0.5, gt=0)

    @model_validator(mode="after")
    def _area_is_a_range(self) -> GenerateConfig:
        low, high = self.object_area
        if not 0 < low <= high <= 1:
            raise ValueError(f"object_area must satisfy 0 < smallest <= largest <= 1, got {low}, {high}")
        return self


class LoraSection(_Section):
    """LoRA on the attention's query, key and value of the adapted blocks (Hu et al., arXiv 2106.09685)."""

    r: int = Field(default=16, ge=1, le=256)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class TrainConfig(_Section):
    """Contrastive LoRA training of one object, and how many objects train at a time."""

    lora: LoraSection = LoraSection()
    loss: Literal["info_nce", "info_nce_multi_positive", "hinge"] = "info_nce_multi_positive"
    temperature: float = Field(default=0.07, gt=0, description="of the InfoNCE losses")
    margin: float = Field(default=0.5, ge=0, description="of the hinge loss")
    steps: int = Field(default=100, ge=1)
    batch_size: int = Field(default=16, ge=1, description="triplets (anchor, positive, negative) a step, over all ranks")
    learning_rate: float = Field(default=3e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0)
    cells: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    workers_per_object: int = Field(default=1, ge=1)
    cpus_per_worker: float = Field(default=0.5, gt=0)
    gpus_per_worker: float = Field(default=0.0, ge=0)
    max_attempts: int = Field(default=3, ge=1, description="leases of an object before it is given up")


class EvaluateConfig(_Section):
    """The four tasks, pretrained beside personalized."""

    dense_size: int = Field(default=336, ge=14, le=2048, description="side of the input of the dense tasks, pixels")
    batch_size: int = Field(default=16, ge=1)
    actors: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    cpus_per_actor: float = Field(default=0.5, gt=0)


class RunConfig(_Section):
    """Everything that decides a run's result. Recorded in `summary.json` and in every adapter's card."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    data: DataConfig = DataConfig()
    backbone: BackboneConfig = BackboneConfig()
    masks: MaskConfig = MaskConfig()
    generate: GenerateConfig = GenerateConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
