"""Features of photos under one adapter after another; what no adapter changes is computed once and kept.

A photo has two views: `standard` (its centre, for the global tasks, which use CLS) and `dense` (the whole photo
squashed to a square, for the tasks that use patches).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch

from persrep_ray.backbones.backbone import Features
from persrep_ray.backbones.lora import LoraBackbone
from persrep_ray.config import RunConfig
from persrep_ray.data.images import ImageError, capped_size, read_mask, read_rgb, resize_square, standard_view
from persrep_ray.data.lru import ByteLru
from persrep_ray.data.objects import Photo, Problem

View = Literal["standard", "dense"]

LONGEST_SIDE = 640
"""Dense predictions and truths are at most this large: far finer than the patch grid that they come from."""


class PhotoCache:
    """Features of photos, by path. It keeps the prefix's output and the pretrained features, `budget` bytes at most.

    "Adapted" features are those of whatever `lora` holds at the time of the call. `problems` lists the photos that
    could not be read.
    """

    def __init__(self, lora: LoraBackbone, config: RunConfig, budget: int) -> None:
        self.problems: list[Problem] = []
        self._lora = lora
        self._backbone = lora.backbone
        self._limits = config.data
        self._side: dict[View, int] = {
            "standard": self._backbone.whole_patches(config.backbone.image_size),
            "dense": self._backbone.whole_patches(config.evaluate.dense_size),
        }
        self._kept: ByteLru[torch.Tensor] = ByteLru(budget)
        self._decoded: dict[Path, _Decoded] = {}  # the present batch, so that its two views share one decoding
        self._broken: set[Path] = set()

    def holds(self, photo: Photo) -> bool:
        """Whether anything of the photo is kept. Photos that are, scanned first: a full cache then never thrashes."""
        return (photo.path, "standard") in self._kept

    def readable(self, batch: Sequence[Photo], view: View | None) -> list[Photo]:
        """Those of `batch` that can be read, for `cls` (view standard), `patches` (dense) or `exact` (None) to use.

        The others go to `problems`, once, and are not tried again.
        """
        self._decoded = {photo.path: self._decoded[photo.path] for photo in batch if photo.path in self._decoded}
        return [photo for photo in batch if (view and (photo.path, view) in self._kept) or self._can_decode(photo)]

    def cls(self, photos: Sequence[Photo], *, adapted: bool) -> np.ndarray:
        """(B, D) float32: CLS of the standard views, adapted or pretrained."""
        return self._features(photos, "standard", adapted).numpy()

    def patches(self, photos: Sequence[Photo], *, adapted: bool) -> np.ndarray:
        """(B, h, w, D) float16: patches of the dense views. Half precision moves a cosine by less than 1e-3."""
        patches = self._features(photos, "dense", adapted).numpy()
        return patches.reshape(len(photos), self._grid, self._grid, -1)

    @torch.no_grad()
    def cls_of_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """(B, D) float32: as `cls`, adapted, of pictures (H, W, 3) uint8 that are no photos; none is kept."""
        side = self._side["standard"]
        views = [standard_view(image, side) for image in images]
        return self._backbone.suffix(self._backbone.prefix(self._backbone.pixels(views, side))).cls.cpu().numpy()

    def exact(self, photo: Photo) -> tuple[np.ndarray, np.ndarray]:
        """(D,) CLS of the standard view and (h, w, D) patches of the dense one, adapted, in float32 throughout."""
        patches = self._exact(photo, "dense").patches[0].cpu().numpy()
        return self.exact_cls(photo), patches.reshape(self._grid, self._grid, -1)

    def exact_cls(self, photo: Photo) -> np.ndarray:
        """(D,) CLS of the standard view alone, as `exact`."""
        cls: np.ndarray = self._exact(photo, "standard").cls[0].cpu().numpy()
        return cls

    def _exact(self, photo: Photo, view: View) -> Features:
        with torch.no_grad(), self._backbone.full_precision():
            return self._backbone.suffix(self._prefix([self._decode(photo)], view))

    def size(self, photo: Photo) -> tuple[int, int]:
        """(H, W) of the dense predictions of `photo`."""
        kept = self._kept.get((photo.path, "size"))
        return self._decode(photo).size if kept is None else (int(kept[0]), int(kept[1]))

    def truth(self, photo: Photo) -> np.ndarray | None:
        """(H, W) bool of `size`: where the object is on `photo`. None without a mask; a broken one is a problem."""
        if photo.mask is None or photo.mask in self._broken:
            return None
        try:
            mask = read_mask(photo.mask, self._limits)
        except ImageError as error:
            self._report(photo, photo.mask, error)
            return None
        height, width = self.size(photo)
        share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        truth: np.ndarray = share >= min(0.5, float(share.max()))  # a speck is not lost
        return truth if mask.any() else None

    @property
    def _grid(self) -> int:
        return self._side["dense"] // self._backbone.patch_size

    @torch.no_grad()
    def _features(self, photos: Sequence[Photo], view: View, adapted: bool) -> torch.Tensor:
        def finish(wanted: Sequence[Photo]) -> torch.Tensor:
            features = self._backbone.suffix(self._hidden(wanted, view))
            return features.cls.cpu() if view == "standard" else features.patches.half().cpu()

        def finish_pretrained(wanted: Sequence[Photo]) -> torch.Tensor:
            with self._lora.pretrained():
                return finish(wanted)

        return finish(photos) if adapted else self._rows(photos, f"pretrained {view}", finish_pretrained)

    def _hidden(self, photos: Sequence[Photo], view: View) -> torch.Tensor:
        """(B, T, D) of the prefix."""

        def compute(missing: Sequence[Photo]) -> torch.Tensor:
            decoded = [self._decode(photo) for photo in missing]
            for photo, one in zip(missing, decoded, strict=True):
                self._kept.put((photo.path, "size"), torch.tensor(one.size))
            return self._prefix(decoded, view).cpu()

        return self._rows(photos, view, compute).to(self._backbone.device)

    def _rows(
        self, photos: Sequence[Photo], kind: str, compute: Callable[[Sequence[Photo]], torch.Tensor]
    ) -> torch.Tensor:
        """(B, ...): a row for each photo; `compute` makes those that are not kept, which then are."""
        found = {photo.path: row for photo in photos if (row := self._kept.get((photo.path, kind))) is not None}
        missing = [photo for photo in photos if photo.path not in found]
        if missing:
            for photo, row in zip(missing, compute(missing), strict=True):
                # a copy: a view would hold its whole batch in memory
                found[photo.path] = row.clone()
                self._kept.put((photo.path, kind), found[photo.path])
        return torch.stack([found[photo.path] for photo in photos])

    def _prefix(self, decoded: Sequence[_Decoded], view: View) -> torch.Tensor:
        images = [one.standard if view == "standard" else one.dense for one in decoded]
        return self._backbone.prefix(self._backbone.pixels(images, self._side[view]))

    def _can_decode(self, photo: Photo) -> bool:
        if photo.path in self._broken:
            return False
        try:
            self._decoded[photo.path] = self._decode(photo)
        except ImageError as error:
            self._report(photo, photo.path, error)
            return False
        return True

    def _report(self, photo: Photo, path: Path, error: ImageError) -> None:
        self._broken.add(path)
        self.problems.append(Problem(photo.object_id, path, str(error).removeprefix(f"{path}: ")))

    def _decode(self, photo: Photo) -> _Decoded:
        if photo.path in self._decoded:
            return self._decoded[photo.path]
        image = read_rgb(photo.path, self._limits)
        return _Decoded(
            standard=standard_view(image, self._side["standard"]),
            dense=resize_square(image, self._side["dense"]),
            size=capped_size((image.shape[0], image.shape[1]), LONGEST_SIDE),
        )


class _Decoded(NamedTuple):
    """The views (S, S, 3) uint8 of a photo, and the (H, W) of its dense predictions: small, however large it was."""

    standard: np.ndarray
    dense: np.ndarray
    size: tuple[int, int]
