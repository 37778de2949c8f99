"""One interface over Hugging Face ViTs, split into a frozen prefix and an adaptable suffix.

`prefix` is the same for every object, so its output is computed once per image and shared: at training each view's
prefix output is cached, at evaluation and serving all adapters start from it.
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
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import nn

from persrep_ray.backbones.embedded import embedded_checkpoint
from persrep_ray.backbones.families import FAMILIES, Family
from persrep_ray.config import BackboneConfig
from persrep_ray.data.images import resize_square


class BackboneError(ValueError):
    """The checkpoint cannot be used as a backbone; the message names it and the cause."""


class Features(NamedTuple):
    """What a ViT says of B images."""

    cls: torch.Tensor  # (B, D)
    patches: torch.Tensor  # (B, N, D), row-major over the patch grid

    def embedding(self) -> torch.Tensor:
        """(B, 2D): CLS concatenated with the mean patch, the embedding that training uses."""
        return torch.cat([self.cls, self.patches.mean(dim=1)], dim=-1)


class Backbone:
    """A ViT whose first blocks are `prefix` (frozen) and whose last `adapted_blocks` are `suffix` (LoRA may sit there).

    Args:
        model: the `transformers` model, one of `families.FAMILIES`; it is put in eval mode and frozen.
        adapted_blocks: K, how many blocks belong to the suffix; "all" for the whole ViT.
        precision: autocast type of both halves; "float32" switches autocast off.
    """

    def __init__(
        self, model: nn.Module, *, adapted_blocks: int | str = "all", precision: str = "float32", name: str = "model"
    ) -> None:
        config: Any = model.config
        if config.model_type not in FAMILIES:
            raise BackboneError(
                f"backbone {name}: model_type {config.model_type!r} is not supported, one of {', '.join(FAMILIES)} is"
            )
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.family: Family = FAMILIES[config.model_type]
        self.patch_size: int = config.patch_size
        self.dim: int = config.hidden_size
        self.blocks = self.family.block_list(model)
        if adapted_blocks != "all" and int(adapted_blocks) > len(self.blocks):
            raise BackboneError(
                f"backbone {name}: adapted_blocks is {adapted_blocks}, the model has {len(self.blocks)} blocks"
            )
        self.split = 0 if adapted_blocks == "all" else len(self.blocks) - int(adapted_blocks)
        self.special_tokens = 1 + int(getattr(config, "num_register_tokens", 0) or 0)
        self._norm = model.get_submodule(self.family.norm)
        self._autocast = precision == "bfloat16"
        self._mean = torch.tensor(self.family.mean).view(1, 3, 1, 1)
        self._std = torch.tensor(self.family.std).view(1, 3, 1, 1)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def to(self, device: torch.device | str) -> Backbone:
        self.model.to(device)
        # On CPUs the fused attention kernel is the slower one at the few tokens of a training step (docs/LOG.md).
        attention: Any = self.model
        attention.set_attn_implementation("eager" if self.device.type == "cpu" else "sdpa")
        return self

    def whole_patches(self, size: int) -> int:
        """`size`, pixels, rounded down to a whole number of patches, at least one."""
        return max(1, size // self.patch_size) * self.patch_size

    def pixels(self, images: Sequence[np.ndarray], size: int) -> torch.Tensor:
        """RGB images (H,W,3) uint8 -> normalised (B,3,size,size) float32, each image squashed to the square.

        `size` is rounded down to a whole number of patches.
        """
        side = self.whole_patches(size)
        batch = np.stack([resize_square(image, side) for image in images])
        tensor = torch.from_numpy(batch).permute(0, 3, 1, 2).float().div_(255)
        return ((tensor - self._mean) / self._std).to(self.device)

    @torch.no_grad()
    def prefix(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) -> hidden (B,T,D) after the frozen blocks; in the autocast type, to halve what caches hold."""
        with self._casting():
            hidden = self.family.embed(self.model, pixels)
            hidden = self._run(self.blocks[: self.split], hidden)
        return hidden.to(torch.bfloat16) if self._autocast else hidden

    def suffix(self, hidden: torch.Tensor) -> Features:
        """hidden (B,T,D) of `prefix` -> Features in float32; gradients flow where parameters ask for them."""
        with self._casting():
            hidden = self._norm(self._run(self.blocks[self.split :], hidden.float()))
        hidden = hidden.float()
        return Features(cls=hidden[:, 0], patches=hidden[:, self.special_tokens :])

    @contextmanager
    def full_precision(self) -> Iterator[None]:
        """Within, no autocast: what a plain `transformers` user of the adapter would compute."""
        before, self._autocast = self._autocast, False
        try:
            yield
        finally:
            self._autocast = before

    def _casting(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._autocast)

    def _run(self, blocks: nn.ModuleList, hidden: torch.Tensor) -> torch.Tensor:
        extra: dict[str, Any] = {}
        if self.family.rope is not None:
            side = math.isqrt(hidden.shape[1] - self.special_tokens) * self.patch_size
            blank = hidden.new_zeros(1, 3, side, side)
            extra["position_embeddings"] = self.model.get_submodule(self.family.rope)(blank)
        for block in blocks:
            hidden = block(hidden, attention_mask=None, **extra)
        return hidden


def checkpoint_folder(name: str) -> str:
    """What `from_pretrained` gets: `name` itself, or the folder of the embedded checkpoint, converted on first use."""
    return str(embedded_checkpoint()) if name == "embedded" else name


def local_checkpoint(name: str) -> Path:
    """The folder that holds the checkpoint: converted, local, or fetched from the hub.

    Raises:
        BackboneError: there is no such folder, and the hub does not have it or cannot be reached.
    """
    folder = Path(checkpoint_folder(name))
    if folder.is_dir():
        return folder.absolute()
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, ValueError) as error:
        cause = str(error).strip().splitlines()[0]
        raise BackboneError(f"backbone {name}: neither a local folder nor to be had from the hub: {cause}") from error


def load_backbone(config: BackboneConfig) -> Backbone:
    """Load the backbone that `config` names, strictly and from safetensors only.

    Raises:
        BackboneError: no such checkpoint, an unsupported kind, or tensors missing from it.
    """
    try:
        source = checkpoint_folder(config.name)
    except RuntimeError as error:
        raise BackboneError(str(error)) from error
    try:
        declared, _ = transformers.PretrainedConfig.get_config_dict(source, revision=config.revision)
        kind = dict(declared).get("model_type")
    except (OSError, ValueError, TypeError) as error:  # a TypeError where the JSON is no mapping
        raise BackboneError(f"backbone {config.name}: cannot read its config: {error}") from error
    if kind not in FAMILIES:
        raise BackboneError(
            f"backbone {config.name}: model_type {kind!r} is not supported, one of {', '.join(FAMILIES)} is"
        )
    family = FAMILIES[kind]
    extra = {"add_pooling_layer": False} if family.model_class == "ViTModel" else {}
    try:
        model, info = getattr(transformers, family.model_class).from_pretrained(
            source,
            revision=config.revision,
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
        model, adapted_blocks=config.adapted_blocks, precision=config.precision, name=Path(config.name).name
    )
