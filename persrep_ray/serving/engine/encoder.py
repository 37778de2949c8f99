"""Features of a batch in which every row may want a different adapter, in one pass.

The prefix is computed once for each distinct image and the suffix once for all rows. Batched matrix products add each
row's LoRA to query, key and value (multi-LoRA serving as in S-LoRA, arXiv 2311.03285, for a ViT).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from persrep_ray.backbones.backbone import Backbone, Features, computes_bfloat16
from persrep_ray.config import BackboneConfig
from persrep_ray.data.lru import Lru, nbytes
from persrep_ray.serving.engine.adapters import Adapter, Layout

_PREFIX_BYTES = 64 * 1024 * 1024  # of recent images: each has 0.2 MB at 224 pixels in bfloat16, 16 MB at 2048


@dataclass(frozen=True)
class ImageInput:
    """An RGB image (S, S, 3) uint8 at the size that the backbone gets. Equal images have equal digests."""

    pixels: np.ndarray
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", digest_of(self.pixels))


def digest_of(image: np.ndarray) -> bytes:
    """The digest of an image (H, W, 3) uint8."""
    return hashlib.blake2b(image.tobytes(), digest_size=16, salt=str(image.shape[0]).encode()).digest()


@dataclass(frozen=True)
class Row:
    """One image under one adapter; None is the pretrained backbone."""

    image: ImageInput
    adapter: Adapter | None


class MultiAdapterEncoder:
    """A backbone whose suffix applies a different LoRA to each row of a batch. Only one thread may use it at a time.

    Args:
        backbone: changed in place: the adapted projections are wrapped.
        config: what `backbone` was loaded from, and what the adapters must be made for.

    Raises:
        BackboneError: the backbone's blocks have no query, key and value to adapt.
    """

    def __init__(self, backbone: Backbone, config: BackboneConfig) -> None:
        self.backbone = backbone
        casts = config.precision == "bfloat16" and computes_bfloat16(backbone.device)
        self.dtype = torch.bfloat16 if casts else torch.float32
        sites = backbone.lora_sites()
        self._projections: list[_RowLinear] = []
        for site in sites:
            parent, _, child = site.rpartition(".")
            wrapped = _RowLinear(backbone.model.get_submodule(site))
            setattr(backbone.model.get_submodule(parent), child, wrapped)
            self._projections.append(wrapped)
        blocks = tuple(range(backbone.split, len(backbone.blocks)))
        self.layout = Layout(config, sites, blocks, backbone.dim)
        self._prefixes: Lru[bytes, torch.Tensor] = Lru(_PREFIX_BYTES, size=nbytes)

    @torch.inference_mode()
    def encode(self, rows: Sequence[Row]) -> Features:
        """Features of B rows whose images have the same side: cls (B, D) and patches (B, N, D), float32."""
        hidden = self._hidden([row.image for row in rows])
        self._adapt([row.adapter for row in rows])
        try:
            return self.backbone.suffix(hidden)
        finally:
            for projection in self._projections:
                projection.rows = None

    def _hidden(self, images: Sequence[ImageInput]) -> torch.Tensor:
        """The prefix's output (B, T, D), computed once for each image that no recent batch had."""
        distinct = {image.digest: image for image in images}
        kept = {digest: self._prefixes.get(digest) for digest in distinct}
        found = {digest: hidden for digest, hidden in kept.items() if hidden is not None}
        missing = [image for digest, image in distinct.items() if digest not in found]
        if missing:
            pixels = self.backbone.pixels([image.pixels for image in missing], missing[0].pixels.shape[0])
            for image, hidden in zip(missing, self.backbone.prefix(pixels), strict=True):
                found[image.digest] = hidden.clone()  # a view would keep its whole batch in memory
                self._prefixes.put(image.digest, found[image.digest])
        return torch.stack([found[image.digest] for image in images])

    def _adapt(self, adapters: Sequence[Adapter | None]) -> None:
        """Gives each projection the matrices of all rows: (B, r, D) and (B, D, r)."""
        present = [adapter for adapter in adapters if adapter is not None]
        if not present:
            return
        rank = max(adapter.a.shape[1] for adapter in present)
        none = present[0].a.new_zeros(len(self._projections), rank, self.backbone.dim)
        a = torch.stack([none if one is None else _padded(one.a, rank, 1) for one in adapters], dim=1)  # (L, B, r, D)
        b = torch.stack([none.mT if one is None else _padded(one.b, rank, 2) for one in adapters], dim=1)
        for projection, rows in zip(self._projections, zip(a, b, strict=True), strict=True):
            projection.rows = rows


class _RowLinear(nn.Module):
    """The linear layer `base`, to which each row's LoRA is added while `rows` is set."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.rows: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> (B, T, D)"""
        projected: torch.Tensor = self.base(hidden)
        if self.rows is None:
            return projected
        a, b = self.rows
        return torch.baddbmm(projected, torch.bmm(hidden, a.mT), b.mT)


def _padded(matrices: torch.Tensor, rank: int, axis: int) -> torch.Tensor:
    """`matrices` with zeros up to `rank` on `axis`, which do not change their product."""
    missing = rank - matrices.shape[axis]
    if not missing:
        return matrices
    shape = list(matrices.shape)
    shape[axis] = missing
    return torch.cat([matrices, matrices.new_zeros(shape)], dim=axis)
