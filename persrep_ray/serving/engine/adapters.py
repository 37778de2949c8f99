"""A published version in memory, strictly checked, with its LoRA stacked into two tensors.

An adapter that is silently not applied, or applied to another backbone, is the worst bug of this field
(huggingface/peft issue 2699), so everything that does not fit exactly is refused.
"""

from __future__ import annotations

import json
import logging
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
from persrep_ray.serving.engine.errors import AdapterUnusableError
from persrep_ray.tasks.dense import DenseReference
from persrep_ray.tasks.features import normalize
from persrep_ray.tasks.keypoints import GeometricMatch
from persrep_ray.tasks.logistic import sigmoid
from persrep_ray.tasks.model import ObjectModel

PRETRAINED_FILES = ("card.json", "prototypes.safetensors")
_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_PEFT_PREFIX = "base_model.model."
_PLAIN = LoraConfig().to_dict()
_FREE = {  # these do not change what a loaded adapter does, or are checked one by one
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
    """The files of a version are damaged or do not fit this backbone; the message says why."""


def unusable(ref: AdapterRef, cause: object) -> AdapterUnusableError:
    """The error for the client. The cause goes to the log: it may name paths, which the client must not see."""
    named = f"object {ref.object_id}, version {ref.version}"
    _log.error("%s: %s", named, cause)
    return AdapterUnusableError(f"{named}: its files are damaged or made for another backbone")


@dataclass(frozen=True)
class Layout:
    """Where LoRA sits on a backbone.

    `sites` are the names of the L adapted projections (width -> width) in the order of `Backbone.lora_sites`, and
    `blocks` the indices of the adapted blocks.
    """

    backbone: BackboneConfig
    sites: tuple[str, ...]
    blocks: tuple[int, ...]
    width: int

    def names(self, part: str) -> list[str]:
        """The names of the L tensors `part` ("lora_A" or "lora_B") in `adapter_model.safetensors`."""
        return [f"{_PEFT_PREFIX}{site}.{part}.weight" for site in self.sites]


@dataclass(frozen=True)
class Adapter:
    """A version's LoRA, prototypes, threshold and calibration.

    `a` (L, r, D) and `b` (L, D, r) have the encoder's dtype and device, and `b` includes LoRA's scale alpha / r. `cls`
    (T, D) float32 are the unit features of the object's photos. `dense` is None for an object without masks, and
    `model` for an object that was published before there were any.
    """

    ref: AdapterRef
    a: torch.Tensor
    b: torch.Tensor
    cls: np.ndarray
    dense: DenseReference | None
    model: ObjectModel | None
    threshold: float
    slope: float
    intercept: float

    @property
    def nbytes(self) -> int:
        dense = 0 if self.dense is None else self.dense.target.nbytes + self.dense.box_means.nbytes
        model = 0 if self.model is None else self.model.nbytes
        return self.a.nbytes + self.b.nbytes + self.cls.nbytes + dense + model

    def classification(self, score: float) -> Classification:
        """The classification by a cosine alone: of two images, or of an image to the object's photos."""
        probability = sigmoid(self.slope * score + self.intercept)
        return Classification(score=score, probability=probability, threshold=self.threshold)

    def classify(
        self, cls: np.ndarray, patches: np.ndarray, matches: Sequence[GeometricMatch] | None = None
    ) -> Classification:
        """The classification of an image by its standard view's CLS (D,) and patches (h, w, D) under this adapter.

        `matches` are what the object's keypoints find on it; without them, geometry says nothing.

        Raises `AdapterUnusableError` if the model's values make the evidence overflow.
        """
        score = float((self.cls @ normalize(cls)).max())
        if self.model is None:
            return self.classification(score)
        with np.errstate(over="ignore", invalid="ignore"):
            evidence = float(self.model.evidence(cls[None], patches[None])[0])
            evidence += 0.0 if matches is None else self.model.geometric_evidence(matches)
        if not math.isfinite(evidence):
            raise unusable(self.ref, "the evidence of its recognizer is not finite")
        return weighed(score, evidence)


def weighed(score: float, evidence: float) -> Classification:
    return Classification(score=score, probability=sigmoid(evidence), evidence=evidence)


def parse_adapter(
    ref: AdapterRef,
    files: Mapping[str, bytes],
    layout: Layout,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Adapter:
    """The adapter in the files of a version (`registry.FILES`).

    Raises:
        AdapterMisfitError: it is damaged, not finite, or made for another backbone or another kind of LoRA.
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
    try:
        model = ObjectModel.from_arrays(prototypes, layout.width)
    except ValueError as error:
        raise AdapterMisfitError(f"prototypes.safetensors: {error}") from error
    calibration = card.get("calibration")
    if not isinstance(calibration, dict):
        raise AdapterMisfitError("card.json has no calibration: publish the object again")
    return Adapter(
        ref=ref,
        a=_stacked([tensors[name] for name in layout.names("lora_A")], dtype).to(device),
        b=_stacked([tensors[name].float() * scale for name in layout.names("lora_B")], dtype).to(device),
        cls=normalize(cls),
        dense=dense,
        model=model,
        threshold=_number(card, "threshold"),
        slope=_number(calibration, "slope"),
        intercept=_number(calibration, "intercept"),
    )


def pretrained_prototypes(files: Mapping[str, bytes], layout: Layout) -> np.ndarray:
    """The pretrained unit features of the object's photos, (T, D) float32.

    Args:
        files: at least the `PRETRAINED_FILES` of a version.

    Raises:
        AdapterMisfitError: as `parse_adapter`. Features of another backbone are refused even if their size fits.
    """
    _check_backbone(_json(files, "card.json"), layout)
    prototypes = _loaded(files, "prototypes.safetensors", load_arrays)
    return normalize(_prototype(prototypes, "pretrained_cls", layout.width))


def _check_backbone(card: Mapping[str, Any], layout: Layout) -> None:
    """Refuses a version that was made for a backbone other than the served one."""
    run = card.get("config")
    made_for = run.get("backbone") if isinstance(run, dict) else None
    served = layout.backbone.model_dump(mode="json")
    for key in ("name", "revision", "adapted_blocks", "image_size"):
        theirs = made_for.get(key) if isinstance(made_for, dict) else None
        if theirs != served[key]:
            raise AdapterMisfitError(f"made for a backbone with {key} {theirs!r:.80}, {served[key]!r} is served")


def _check_config(config: Mapping[str, Any], layout: Layout) -> tuple[int, float]:
    """Returns the rank r and the scale alpha / r of plain LoRA on the layout's sites; refuses everything else."""
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
        if key not in _FREE and key not in wanted and found and found != _PLAIN.get(key) and not _is_idle(key, config):
            raise AdapterMisfitError(f"adapter_config.json: {key} is {found!r:.80}; plain LoRA is served")
    r = config.get("r")
    if not isinstance(r, int) or isinstance(r, bool) or not 1 <= r <= layout.width:
        raise AdapterMisfitError(f"adapter_config.json: r is {r!r:.80}, not within 1..{layout.width}")
    return r, _number(config, "lora_alpha", "adapter_config.json") / r


def _is_idle(key: str, config: Mapping[str, Any]) -> bool:
    """Whether `key` belongs to something that a newer peft knows and that `config` itself has switched off.

    `qalora_group_size` is 16 even where `use_qalora` is false.
    """
    return key not in _PLAIN and config.get(f"use_{key.partition('_')[0]}") is False


def _check_tensors(tensors: Mapping[str, torch.Tensor], layout: Layout, r: int, scale: float) -> None:
    """Refuses missing and unexpected tensors, wrong shapes, and values that are not finite."""
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
            raise AdapterMisfitError(f"{name} has a value that is not a finite number")


def _stacked(tensors: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """The L tensors stacked, (L, …), in memory pages that hold nothing else.

    With malloc, a thousand adapters took 1.5 times their bytes, because loading leaves holes (docs/LOG.md).
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
        raise AdapterMisfitError(f"prototypes.safetensors has no {name}: publish the object again")
    fits = array.ndim == (2 if rows else 1) and array.shape[-1] == width and array.size > 0
    if not fits or not np.issubdtype(array.dtype, np.floating):
        wanted = f"(T, {width})" if rows else f"({width},)"
        raise AdapterMisfitError(f"prototypes.safetensors: {name} is {array.dtype} {array.shape}, not {wanted} floats")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
        squares = np.square(array).sum(axis=-1)  # `normalize` divides by them
    if not np.isfinite(squares).all():
        raise AdapterMisfitError(f"prototypes.safetensors: {name} has a value that is not a finite number")
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
    except OverflowError:  # an integer that is too large for a float
        pass
    raise AdapterMisfitError(f"{file}: {key} is {value!r:.80}, not a finite number")


def _is_names(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(name, str) for name in value)
