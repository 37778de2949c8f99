"""One interface over Hugging Face ViTs, split into a frozen prefix and an adaptable suffix.

`prefix` is the same for every object, so its output is computed once per image and shared: training caches the output
for each view, and in evaluation and serving all adapters start from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from persrep_ray.backbones.checkpoint import folder_or_snapshot
from persrep_ray.backbones.embedded import embedded_checkpoint
from persrep_ray.backbones.families import FAMILIES, PROJECTIONS, Family, unsupported
from persrep_ray.backbones.preprocessing import Normalization, read_normalization
from persrep_ray.config import BackboneConfig
from persrep_ray.data.images import resize_square


class BackboneError(ValueError):
    """The checkpoint cannot be used as a backbone; the message names it and the cause."""


class Features(NamedTuple):
    """The features of B images."""

    cls: torch.Tensor  # (B, D): the CLS token, or, in a family without one, the output of its pooling head
    patches: torch.Tensor  # (B, N, D), row-major over the patch grid

    def embedding(self) -> torch.Tensor:
        """CLS concatenated with the mean patch (B, 2D)."""
        return torch.cat([self.cls, self.patches.mean(dim=1)], dim=-1)


class KeptPatches(NamedTuple):
    """Which patches `hidden` still holds, if it does not hold all of them."""

    positions: torch.Tensor  # (B, N'), row-major over the patch grid
    of: int  # N, the number of patches in the grid


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16.

    A CPU that has none takes ten times as long as in float32 (docs/LOG.md).
    """
    if device.type != "cpu":
        return True
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # PyTorch for Macs has no oneDNN
    return supported is not None and bool(supported())


class Backbone:
    """A ViT in two halves: the first blocks are the frozen `prefix`, the last `adapted_blocks` the `suffix`, for LoRA.

    Args:
        model: a `transformers` model of one of `families.FAMILIES`. It is put in eval mode and frozen.
        adapted_blocks: K, the number of blocks in the suffix; "all" for the whole ViT.
        precision: the autocast type of both halves, if the device computes in it; "float32" switches autocast off.
        normalization: None for the normalization of the family.

    Raises:
        BackboneError: the model is of another family, or lacks a part that its family has.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        adapted_blocks: int | str = "all",
        precision: str = "float32",
        name: str = "model",
        normalization: Normalization | None = None,
    ) -> None:
        config: Any = model.config
        if config.model_type not in FAMILIES:
            raise BackboneError(f"backbone {name}: {unsupported(config.model_type)}")
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.family: Family = FAMILIES[config.model_type]
        self.patch_size: int = config.patch_size
        self.dim: int = config.hidden_size
        blocks = self._part(self.family.blocks)
        assert isinstance(blocks, nn.ModuleList)
        self.blocks = blocks
        if adapted_blocks != "all" and int(adapted_blocks) > len(self.blocks):
            raise BackboneError(
                f"backbone {name}: adapted_blocks is {adapted_blocks}, the model has {len(self.blocks)} blocks"
            )
        self.split = 0 if adapted_blocks == "all" else len(self.blocks) - int(adapted_blocks)
        self._norm = self._part(self.family.norm)
        self._rope = self._part(self.family.rope) if self.family.rope else None
        self._head = self._part(self.family.head) if self.family.head else None
        self.special_tokens = 0 if self.family.head else 1 + int(getattr(config, "num_register_tokens", 0) or 0)
        self._autocast = precision == "bfloat16"
        self._normalize = normalization or self.family.normalization

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def to(self, device: torch.device | str) -> Backbone:
        self.model.to(device)
        # On CPUs the fused attention kernel is slower for the few tokens of a training step (docs/LOG.md).
        attention: Any = self.model
        attention.set_attn_implementation("eager" if self.device.type == "cpu" else "sdpa")
        return self

    def lora_sites(self) -> tuple[str, ...]:
        """The names of the adapted projections, each D -> D, by block and then in the order of `PROJECTIONS`.

        Raises:
            BackboneError: a block has no separate linear query, key and value, but say a fused projection.
        """
        sites = []
        for index in range(self.split, len(self.blocks)):
            linear = {name: part for name, part in self.blocks[index].named_modules() if isinstance(part, nn.Linear)}
            for projection in PROJECTIONS:
                wanted = f"{self.family.attention}.{projection}"
                found = linear.get(wanted)
                if found is None or (found.in_features, found.out_features) != (self.dim, self.dim):
                    there = ", ".join(
                        f"{name} ({part.in_features} -> {part.out_features})" for name, part in linear.items()
                    )
                    raise BackboneError(
                        f"backbone {self.name}: LoRA needs the linear layers {', '.join(PROJECTIONS)} "
                        f"({self.dim} -> {self.dim}) in {self.family.attention} of every adapted block; "
                        f"{self.family.blocks}.{index} has {there or 'none'}"
                    )
                sites.append(f"{self.family.blocks}.{index}.{wanted}")
        return tuple(sites)

    def whole_patches(self, size: int) -> int:
        """`size` in pixels, rounded down to a whole number of patches, at least one patch."""
        return max(1, size // self.patch_size) * self.patch_size

    def pixels(self, images: Sequence[np.ndarray], size: int) -> torch.Tensor:
        """RGB images (H,W,3) uint8 -> normalised (B,3,size,size) float32, each image squashed to the square.

        `size` is rounded down to a whole number of patches. The checkpoint's image processor may crop or resize in
        another way. Only its normalisation is used, because caches, masks and boxes rely on this geometry.
        """
        side = self.whole_patches(size)
        batch = np.stack([resize_square(image, side) for image in images])
        return self._normalize(torch.from_numpy(batch).permute(0, 3, 1, 2).float()).to(self.device)

    @torch.no_grad()
    def prefix(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) -> hidden (B,T,D) after the frozen blocks, in the autocast type, which halves what caches hold."""
        with self._casting():
            hidden = self.family.embed(self.model, pixels)
            hidden = self._run(self.blocks[: self.split], hidden, None)
        return hidden.to(torch.bfloat16) if self._autocast else hidden

    def suffix(self, hidden: torch.Tensor, kept: KeptPatches | None = None) -> Features:
        """hidden (B,T,D) of `prefix` -> Features in float32. Gradients flow to parameters that require them.

        Args:
            kept: must be given if `hidden` holds only some of the patches, or in another order. The features then
                belong to these patches.
        """
        with self._casting():
            hidden = self._norm(self._run(self.blocks[self.split :], hidden.float(), kept))
            cls = hidden[:, 0] if self._head is None else self._head(hidden)
        return Features(cls=cls.float(), patches=hidden[:, self.special_tokens :].float())

    @contextmanager
    def full_precision(self) -> Iterator[None]:
        """Switches autocast off in the context, so that features are those that plain `transformers` computes."""
        before, self._autocast = self._autocast, False
        try:
            yield
        finally:
            self._autocast = before

    def _casting(self) -> torch.autocast:
        enabled = self._autocast and computes_bfloat16(self.device)
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _run(self, blocks: nn.ModuleList, hidden: torch.Tensor, kept: KeptPatches | None) -> torch.Tensor:
        extra: dict[str, Any] = {}
        if self._rope is not None:
            patches = kept.of if kept else hidden.shape[1] - self.special_tokens
            side = math.isqrt(patches)
            assert side**2 == patches, f"{patches} patches do not form a square grid"
            turns = self._rope(hidden.new_zeros(1, 3, side * self.patch_size, side * self.patch_size))  # (N, head) each
            extra["position_embeddings"] = [turn[kept.positions][:, None] for turn in turns] if kept else turns
        for block in blocks:
            hidden = block(hidden, attention_mask=None, **extra)
        return hidden

    def _part(self, path: str) -> nn.Module:
        try:
            return self.model.get_submodule(path)
        except AttributeError as error:
            there = ", ".join(name for name, _ in self.model.named_children())
            raise BackboneError(
                f"backbone {self.name}: no module {path} in the {type(self.model).__name__}, which has {there}"
            ) from error


def local_checkpoint(name: str, revision: str | None = None) -> Path:
    """The folder of the checkpoint, which is converted from the embedded one, local, or fetched from S3 or the hub.

    Raises:
        BackboneError: there is no such folder, and the hub does not have it or cannot be reached.
        StorageError: the bucket cannot be read.
    """
    try:
        location = str(embedded_checkpoint()) if name == "embedded" else name
    except RuntimeError as error:
        raise BackboneError(str(error)) from error
    try:
        return folder_or_snapshot(location, revision)
    except FileNotFoundError as error:
        raise BackboneError(f"backbone {name}: {error}") from error


def load_backbone(config: BackboneConfig) -> Backbone:
    """Loads the backbone that `config` names, strictly and from safetensors only.

    Raises:
        BackboneError: there is no such checkpoint, its type is not supported, or a file is damaged or lacks a tensor.
        StorageError: the bucket cannot be read.
    """
    folder = local_checkpoint(config.name, config.revision)
    try:
        declared, _ = transformers.PretrainedConfig.get_config_dict(folder)
        kind: Any = dict(declared).get("model_type")
        family = FAMILIES.get(kind)
    except (OSError, ValueError, TypeError) as error:  # JSON of another shape is a TypeError
        raise BackboneError(f"backbone {config.name}: cannot read its config: {error}") from error
    if family is None:
        if kind is None and "architecture" in declared:
            raise BackboneError(
                f"backbone {config.name}: these are timm's weights; name the repository of the same model in "
                "the format of transformers"
            )
        raise BackboneError(f"backbone {config.name}: {unsupported(kind)}")
    model_class: Any = getattr(transformers, family.model_class)
    try:
        architecture = model_class.config_class.from_pretrained(folder)
        normalization = read_normalization(folder, family.normalization)
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        raise BackboneError(f"backbone {config.name}: cannot read its config: {error}") from error
    _check_architecture(architecture, config)
    extra = {"add_pooling_layer": False} if family.model_class == "ViTModel" else {}
    try:
        model, info = model_class.from_pretrained(
            folder,
            config=architecture,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
            **extra,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BackboneError(f"backbone {config.name}: cannot load its weights: {error}") from error
    if info["missing_keys"]:
        raise BackboneError(f"backbone {config.name}: tensors missing: {', '.join(sorted(info['missing_keys'])[:5])}")
    return Backbone(
        model,
        adapted_blocks=config.adapted_blocks,
        precision=config.precision,
        name=Path(config.name).name,
        normalization=normalization,
    )


def _check_architecture(architecture: Any, config: BackboneConfig) -> None:
    """Refuses what `transformers` would refuse only later or with an unhelpful message."""
    for key in ("patch_size", "image_size"):
        size = getattr(architecture, key)
        if not isinstance(size, int) or size < 1:
            raise BackboneError(f"backbone {config.name}: {key} is {size}, but only squares are supported: one number")
    if architecture.num_channels != 3:
        raise BackboneError(f"backbone {config.name}: it takes {architecture.num_channels} channels, images have 3")
    if config.image_size < architecture.patch_size:
        raise BackboneError(
            f"backbone {config.name}: image_size is {config.image_size}, "
            f"less than one patch of {architecture.patch_size} pixels"
        )
    if not getattr(architecture, "vision_use_head", True):
        raise BackboneError(
            f"backbone {config.name}: saved without its pooling head (vision_use_head) and without a CLS token, so it "
            "gives no embedding of an image"
        )
