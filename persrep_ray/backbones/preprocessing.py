"""Normalises pixel values as a ViT was trained: as its checkpoint declares, else as is usual in its family.

Size, crop and interpolation are ours and the same for all backbones (`Backbone.pixels`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Normalization:
    """(value * factor - mean) / std of values in 0..255, for each of the channels R, G and B."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    factor: float = 1 / 255

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) float32 -> the same shape."""
        mean, std = (torch.tensor(three, device=values.device).view(1, 3, 1, 1) for three in (self.mean, self.std))
        return (values * self.factor - mean) / std


class _Declared(BaseModel):
    """The keys of an image processor that we use. As in `transformers`, null means absent."""

    model_config = ConfigDict(strict=True)

    do_rescale: bool | None = None
    rescale_factor: _Positive | None = None
    do_normalize: bool | None = None
    image_mean: Annotated[list[_Finite], Field(min_length=3, max_length=3)] | None = None
    image_std: Annotated[list[_Positive], Field(min_length=3, max_length=3)] | None = None


def read_normalization(folder: Path, default: Normalization) -> Normalization:
    """The normalization that the checkpoint in `folder` declares. Values that it leaves open come from `default`.

    It is declared in `preprocessor_config.json`, or under `image_processor` in `processor_config.json`, where recent
    versions of `transformers` write it. If there are both, the latter wins, as in `transformers`.

    Raises:
        ValueError: a file is damaged or a value is invalid; the message names the file and the key.
    """
    declared: Any = None
    path = folder / "processor_config.json"
    if path.exists():
        declared = _object(path).get("image_processor")
    if declared is None:
        path = folder / "preprocessor_config.json"
        if not path.exists():
            return default
        declared = _object(path)
    try:
        found = _Declared.model_validate(declared)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "image_processor"
        raise ValueError(f"{path}: {key}: {first['msg']}") from error
    factor = 1.0 if found.do_rescale is False else found.rescale_factor or default.factor
    if found.do_normalize is False:
        return Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), factor)
    return Normalization(tuple(found.image_mean or default.mean), tuple(found.image_std or default.std), factor)


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    return found
