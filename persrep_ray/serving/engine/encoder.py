"""Features of a batch in which every row may want a different adapter, in one pass.

The prefix is computed once for each distinct image, the suffix once for all rows, with each row's own LoRA added to
query, key and value by batched matrix products (the idea of multi-LoRA serving, S-LoRA, arXiv 2311.03285, on a ViT).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from persrep_ray.backbones.backbone import Backbone, Features, computes_bfloat16
from persrep_ray.config import BackboneConfig
from persrep_ray.serving.engine.adapters import Adapter, Layout

_PREFIX_BYTES = 64 * 1024 * 1024  # of recent images: 0.2 MB each at 224 pixels in bfloat16, 16 MB at 2048


@dataclass(frozen=True)
class ImageInput:
    """An RGB image (S, S, 3) uint8 in the size that the backbone is to see it in. Equal images share a digest."""

    pixels: np.ndarray
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.blake2b(
            self.pixels.tobytes(), digest_size=16, salt=str(self.pixels.shape[0]).encode()
        ).digest()
        object.__setattr__(self, "digest", digest)


@dataclass(frozen=True)
class Row:
    """One image under one adapter; None: the pretrained backbone."""

    image: Image
    adapter: Adapter | None


class MultiAdapterEncoder:
    """A backbone whose suffix applies another LoRA to every row of a batch. Not for several threads at once.

    Args:
        backbone: is changed in place: the adapted projections are wrapped.
        config: what `backbone` was loaded from; adapters must be made for the same.

    Raises:
        BackboneError: the backbone's blocks have no query, key and value that LoRA could sit on.
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
        self._prefixes: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    @torch.inference_mode()
    def encode(self, rows: Sequence[Row]) -> Features:
        """Features of B rows, whose images have all one side: cls (B, D) and patches (B, N, D), float32."""
        hidden = self._hidden([row.image for row in rows])
        self._adapt([row.adapter for row in rows])
        try:
            return self.backbone.suffix(hidden)
        finally:
            for projection in self._projections:
                projection.rows = None

    def _hidden(self, images: Sequence[ImageInput]) -> torch.Tensor:
        """(B, T, D) of the prefix: computed for images that no recent batch had, once each."""
        distinct = {image.digest: image for image in images}
        found = {digest: self._prefixes[digest] for digest in distinct if digest in self._prefixes}
        missing = [image for digest, image in distinct.items() if digest not in found]
        if missing:
            pixels = self.backbone.pixels([image.pixels for image in missing], missing[0].pixels.shape[0])
            for image, hidden in zip(missing, self.backbone.prefix(pixels), strict=True):
                found[image.digest] = hidden.clone()  # a view would keep its whole batch in memory
        for digest, hidden in found.items():
            self._prefixes[digest] = hidden
            self._prefixes.move_to_end(digest)
        used = sum(hidden.nbytes for hidden in self._prefixes.values())
        while used > _PREFIX_BYTES:
            used -= self._prefixes.popitem(last=False)[1].nbytes
        return torch.stack([found[image.digest] for image in images])

    def _adapt(self, adapters: Sequence[Adapter | None]) -> None:
        """Puts each row's matrices where the projections find them: (B, r, D) and (B, D, r) for each."""
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
    """`base`, with LoRA matrices of its own for each row where there are any."""

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
    """`matrices` with zeros up to `rank` on `axis`, which changes nothing of what they do."""
    missing = rank - matrices.shape[axis]
    if not missing:
        return matrices
    shape = list(matrices.shape)
    shape[axis] = missing
    return torch.cat([matrices, matrices.new_zeros(shape)], dim=axis)
