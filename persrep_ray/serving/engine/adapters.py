"""A published version as the engine holds it: checked, its LoRA stacked into two tensors.

An adapter that is silently not applied, or applied to another backbone, is the worst bug of this field
(huggingface/peft issue 2699): whatever does not fit exactly is refused.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.torch import load as load_tensors

from persrep_ray.backbones.families import PROJECTIONS
from persrep_ray.config import BackboneConfig
from persrep_ray.serving.engine.answers import AdapterRef, Classification
from persrep_ray.tasks.dense import DenseReference
from persrep_ray.tasks.features import normalize

PRETRAINED_FILES = ("card.json", "prototypes.safetensors")
_T = TypeVar("_T")
_PEFT_PREFIX = "base_model.model."
_PLAIN = LoraConfig().to_dict()
_FREE = {  # these say nothing of what a loaded adapter does, or are checked one by one
    "auto_mapping",
    "inference_mode",
    "layers_pattern",
    "lora_alpha",
    "lora_dropout",
    "peft_version",
    "r",
    "revision",
    "task_type",
}


class AdapterMisfitError(ValueError):
    """The files of a version are damaged or made for something else; the message says what."""


@dataclass(frozen=True)
class Layout:
    """Where LoRA sits on a backbone: the names of the L adapted projections, all (width -> width).

    In the order of `Backbone.lora_sites`. `blocks` are the indices of the adapted blocks.
    """

    backbone: BackboneConfig
    sites: tuple[str, ...]
    blocks: tuple[int, ...]
    width: int

    def names(self, part: str) -> list[str]:
        """Of the L tensors `part` ("lora_A" or "lora_B") in `adapter_model.safetensors`."""
        return [f"{_PEFT_PREFIX}{site}.{part}.weight" for site in self.sites]


@dataclass(frozen=True)
class Adapter:
    """What a version does (LoRA) and knows (prototypes, threshold, calibration).

    `a` (L, r, D) and `b` (L, D, r) in the encoder's type and on its device; LoRA's scale alpha / r is in `b`.
    `cls` (T, D) float32, unit rows: the object's photos. `dense` is None for an object without masks.
    """

    ref: AdapterRef
    a: torch.Tensor
    b: torch.Tensor
    cls: np.ndarray
    dense: DenseReference | None
    threshold: float
    slope: float
    intercept: float

    @property
    def nbytes(self) -> int:
        dense = 0 if self.dense is None else self.dense.target.nbytes + self.dense.box_means.nbytes
        return self.a.nbytes + self.b.nbytes + self.cls.nbytes + dense

    def classification(self, score: float) -> Classification:
        """What a cosine to one of the object's photos means."""
        logit = self.slope * score + self.intercept
        probability = 1 / (1 + math.exp(-logit)) if logit > 0 else math.exp(logit) / (1 + math.exp(logit))
        return Classification(score=score, probability=probability, threshold=self.threshold)

    def classify(self, cls: np.ndarray) -> Classification:
        """Of an image's CLS (D,) under this adapter."""
        return self.classification(float((self.cls @ normalize(cls)).max()))


def parse_adapter(
    ref: AdapterRef,
    files: Mapping[str, bytes],
    layout: Layout,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Adapter:
    """The adapter in the files of a version (`registry.local.FILES`), strictly.

    Raises:
        AdapterMisfitError: damaged, not finite, or made for another backbone or another kind of LoRA.
    """
    config = _json(files, "adapter_config.json")
    card = _json(files, "card.json")
    tensors = _loaded(files, "adapter_model.safetensors", load_tensors)
    prototypes = _loaded(files, "prototypes.safetensors", load_arrays)
    _check_backbone(card, layout)
    r, scale = _check_config(config, layout)
    _check_tensors(tensors, layout, r, scale)
    cls = _prototype(prototypes, "cls", layout.width)
    dense = None
    if "target" in prototypes:
        feature = normalize(_prototype(prototypes, "target", layout.width, rows=False))
        dense = DenseReference(feature, _prototype(prototypes, "box_means", layout.width))
    calibration = card.get("calibration")
    if not isinstance(calibration, dict):
        raise AdapterMisfitError("card.json has no calibration: publish the object anew")
    return Adapter(
        ref=ref,
        a=_stacked([tensors[name] for name in layout.names("lora_A")], dtype).to(device),
        b=_stacked([tensors[name].float() * scale for name in layout.names("lora_B")], dtype).to(device),
        cls=normalize(cls),
        dense=dense,
        threshold=_number(card, "threshold"),
        slope=_number(calibration, "slope"),
        intercept=_number(calibration, "intercept"),
    )


def pretrained_prototypes(files: Mapping[str, bytes], layout: Layout) -> np.ndarray:
    """(T, D) float32, unit rows: the object's photos as the pretrained backbone sees them.

    Args:
        files: the `PRETRAINED_FILES` of a version, at least.

    Raises:
        AdapterMisfitError: as `parse_adapter`; another backbone's features mean nothing here, though they may fit.
    """
    _check_backbone(_json(files, "card.json"), layout)
    prototypes = _loaded(files, "prototypes.safetensors", load_arrays)
    return normalize(_prototype(prototypes, "pretrained_cls", layout.width))


def _check_backbone(card: Mapping[str, Any], layout: Layout) -> None:
    """Compares what the version was made for with what is served."""
    run = card.get("config")
    made_for = run.get("backbone") if isinstance(run, dict) else None
    served = layout.backbone.model_dump(mode="json")
    for key in ("name", "revision", "adapted_blocks", "image_size"):
        theirs = made_for.get(key) if isinstance(made_for, dict) else None
        if theirs != served[key]:
            raise AdapterMisfitError(f"made for a backbone with {key} {theirs!r:.80}, {served[key]!r} is served")


def _check_config(config: Mapping[str, Any], layout: Layout) -> tuple[int, float]:
    """Refuses all but plain LoRA on the sites of the layout; gives its rank r and its scale alpha / r."""
    wanted = {
        "peft_type": "LORA",
        "base_model_name_or_path": layout.backbone.name,
        "target_modules": sorted(PROJECTIONS),
        "layers_to_transform": list(layout.blocks),
    }
    for key, value in wanted.items():
        found: Any = config.get(key)
        if (sorted(found) if key == "target_modules" and _is_names(found) else found) != value:
            raise AdapterMisfitError(f"adapter_config.json: {key} is {found!r:.80}, {value!r} is served")
    for key, found in config.items():
        if key not in _FREE and key not in wanted and found and found != _PLAIN.get(key):
            raise AdapterMisfitError(f"adapter_config.json: {key} is {found!r:.80}; plain LoRA is served")
    r = config.get("r")
    if not isinstance(r, int) or isinstance(r, bool) or not 1 <= r <= layout.width:
        raise AdapterMisfitError(f"adapter_config.json: r is {r!r:.80}, not within 1..{layout.width}")
    return r, _number(config, "lora_alpha", "adapter_config.json") / r


def _check_tensors(tensors: Mapping[str, torch.Tensor], layout: Layout, r: int, scale: float) -> None:
    """Whether all that is expected is there, and nothing else."""
    shapes = dict.fromkeys(layout.names("lora_A"), (r, layout.width))
    shapes |= dict.fromkeys(layout.names("lora_B"), (layout.width, r))
    for what, odd in (("lacks", shapes.keys() - tensors.keys()), ("has unknown", tensors.keys() - shapes.keys())):
        if odd:
            raise AdapterMisfitError(f"the adapter {what} tensors: {', '.join(sorted(odd)[:3])} ({len(odd)} in all)")
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise AdapterMisfitError(f"{name} is {tuple(tensor.shape)}, not {shape}")
        if not tensor.is_floating_point() or not (tensor.float() * max(1.0, abs(scale))).isfinite().all():
            raise AdapterMisfitError(f"{name} has a value that is no finite number")


def _stacked(tensors: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """(L, …), in memory pages of its own.

    From malloc, a thousand adapters took half as much again as their bytes: holes that loading leaves (docs/LOG.md).
    """
    shape = (len(tensors), *tensors[0].shape)
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    stacked = torch.frombuffer(pages, dtype=dtype).view(shape)
    for slot, tensor in zip(stacked, tensors, strict=True):
        slot.copy_(tensor)
    return stacked


def _prototype(arrays: Mapping[str, np.ndarray], name: str, width: int, *, rows: bool = True) -> np.ndarray:
    array = arrays.get(name)
    if array is None:
        raise AdapterMisfitError(f"prototypes.safetensors has no {name}: publish the object anew")
    fits = array.ndim == (2 if rows else 1) and array.shape[-1] == width and array.size > 0
    if not fits or not np.issubdtype(array.dtype, np.floating):
        wanted = f"(T, {width})" if rows else f"({width},)"
        raise AdapterMisfitError(f"prototypes.safetensors: {name} is {array.dtype} {array.shape}, not {wanted} floats")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
        squares = np.square(array).sum(axis=-1)  # `normalize` divides by them
    if not np.isfinite(squares).all():
        raise AdapterMisfitError(f"prototypes.safetensors: {name} has a value that is no finite number")
    return array


def _loaded(files: Mapping[str, bytes], name: str, load: Callable[[bytes], dict[str, _T]]) -> dict[str, _T]:
    try:
        return load(files[name])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise AdapterMisfitError(f"{name} is not in safetensors: {error}") from error


def _json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        value = json.loads(files[name])
    except (KeyError, ValueError, RecursionError) as error:
        raise AdapterMisfitError(f"{name}: {error}") from error
    if not isinstance(value, dict):
        raise AdapterMisfitError(f"{name} does not hold an object")
    return value


def _number(values: Mapping[str, Any], key: str, file: str = "card.json") -> float:
    value = values.get(key)
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer that no float can hold
        pass
    raise AdapterMisfitError(f"{file}: {key} is {value!r:.80}, not a finite number")


def _is_names(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(one, str) for one in value)
