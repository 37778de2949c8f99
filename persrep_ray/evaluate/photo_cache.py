"""Features of photos under one adapter after another. What no adapter changes is computed once and kept.

A photo has two views: `standard` is its centre, for the global tasks, which use CLS; `dense` is the whole photo
squashed to a square, for the tasks that use patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch

from persrep_ray.backbones.backbone import Features
from persrep_ray.backbones.lora import LoraBackbone
from persrep_ray.config import RunConfig
from persrep_ray.data.images import (
    ImageError,
    capped_size,
    read_bounded,
    read_mask_of,
    resize_square,
    standard_view,
)
from persrep_ray.data.lru import Lru, nbytes
from persrep_ray.data.objects import Photo
from persrep_ray.data.tree import Problem
from persrep_ray.storage.files import File
from persrep_ray.tasks.dense import LONGEST_SIDE
from persrep_ray.tasks.keypoints import Keypoints, describe
from persrep_ray.tasks.metrics import SIDES, Side

View = Literal["standard", "dense"]


class ViewFeatures(NamedTuple):
    """The features of B images: `cls` (B, D) float32 and `patches` (B, h, w, D) float16."""

    cls: np.ndarray
    patches: np.ndarray


class PhotoCache:
    """Features of photos. It keeps outputs of the prefix and pretrained features, at most `budget` bytes of them.

    "Adapted" features are those of the adapter that `lora` holds at the time of the call. `problems` lists the photos
    that could not be read.
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
        self._kept: Lru[tuple[File, str], torch.Tensor] = Lru(budget, nbytes)
        self._keypoints: Lru[File, Keypoints] = Lru(budget // 4, lambda one: one.image.nbytes + one.descriptors.nbytes)
        self._decoded: dict[File, _Decoded] = {}  # of the present batch, so that both views share one decoding
        self._broken: set[File] = set()

    def holds(self, photo: Photo) -> bool:
        """Whether the photo's standard view is kept."""
        return (photo.path, "standard") in self._kept

    def readable(self, batch: Sequence[Photo], view: View | None) -> list[Photo]:
        """The photos of `batch` that can be read, for `cls` (view standard), `patches` (dense) or `exact` (None).

        Each of the rest is reported once in `problems` and is not tried again.
        """
        self._decoded = {photo.path: self._decoded[photo.path] for photo in batch if photo.path in self._decoded}
        return [photo for photo in batch if (view and (photo.path, view) in self._kept) or self._can_decode(photo)]

    def cls(self, photos: Sequence[Photo], *, adapted: bool) -> np.ndarray:
        """CLS (B, D) float32 of the standard views, adapted or pretrained."""
        return self._features(photos, "standard", adapted).numpy()

    def views(self, photos: Sequence[Photo], *, adapted: bool) -> ViewFeatures:
        """CLS and patches of the standard views, adapted or pretrained."""
        if adapted:
            with torch.no_grad():
                features = self._backbone.suffix(self._hidden(photos, "standard"))
            cls, patches = features.cls.cpu(), features.patches.half().cpu()
        else:
            cls = self._features(photos, "standard", False)
            patches = self._rows(photos, "pretrained standard patches", self._pretrained_patches)
        grid = self._side["standard"] // self._backbone.patch_size
        return ViewFeatures(cls.numpy(), patches.numpy().reshape(len(photos), grid, grid, -1))

    @torch.no_grad()
    def _pretrained_patches(self, photos: Sequence[Photo]) -> torch.Tensor:
        with self._lora.pretrained():
            return self._backbone.suffix(self._hidden(photos, "standard")).patches.half().cpu()

    def patches(self, photos: Sequence[Photo], *, adapted: bool) -> np.ndarray:
        """Patches (B, h, w, D) float16 of the dense views. Half precision changes a cosine by less than 1e-3."""
        patches = self._features(photos, "dense", adapted).numpy()
        return patches.reshape(len(photos), self._grid, self._grid, -1)

    @torch.no_grad()
    def of_images(self, images: Sequence[np.ndarray], sides: Sequence[Side] = SIDES) -> dict[Side, ViewFeatures]:
        """Features of the standard views of images (H, W, 3) uint8 that are no photos. Nothing is kept."""
        side = self._side["standard"]
        hidden = self._backbone.prefix(self._backbone.pixels([standard_view(image, side) for image in images], side))
        grid = side // self._backbone.patch_size

        def finish() -> ViewFeatures:
            features = self._backbone.suffix(hidden)
            patches = features.patches.half().cpu().numpy()
            return ViewFeatures(features.cls.cpu().numpy(), patches.reshape(len(images), grid, grid, -1))

        found: dict[Side, ViewFeatures] = {}
        for one in sides:
            with nullcontext() if one == "personalized" else self._lora.pretrained():
                found[one] = finish()
        return found

    def standard(self, image: np.ndarray) -> np.ndarray:
        """The standard view (S, S, 3) uint8 of an image or, as (H, W, 3) uint8, of a mask."""
        return standard_view(image, self._side["standard"])

    def covered(self, mask: np.ndarray | None, grid: tuple[int, int]) -> np.ndarray | None:
        """Which patches (h, w) bool of a photo's standard view its mask (H, W) bool covers by more than a half."""
        if mask is None:
            return None
        pixels = self.standard(np.repeat(mask[:, :, None].astype(np.uint8) * 255, 3, axis=2))[:, :, 0]
        share: np.ndarray = cv2.resize(pixels, grid[::-1], interpolation=cv2.INTER_AREA)
        return share > 127

    def image(self, photo: Photo) -> np.ndarray:
        """The photo (H, W, 3) uint8 as a `find.Finder` wants it."""
        image = self._kept.get((photo.path, "image"))
        if image is None:
            image = torch.from_numpy(self._decode(photo).image)
            self._kept.put((photo.path, "image"), image)
        return image.numpy()

    def keypoints(self, photo: Photo) -> Keypoints:
        """The keypoints of `image(photo)`."""
        return self._keypoints.get_or(photo.path, lambda: describe(self.image(photo)))

    def exact(self, photo: Photo) -> tuple[np.ndarray, np.ndarray]:
        """Adapted CLS (D,) of the standard view and patches (h, w, D) of the dense view, in float32 throughout."""
        return self.exact_cls(photo), self.exact_patches(photo, adapted=True)

    def exact_patches(self, photo: Photo, *, adapted: bool) -> np.ndarray:
        """Patches (h, w, D) of the dense view, as in `exact`, adapted or pretrained."""
        with nullcontext() if adapted else self._lora.pretrained():
            patches: np.ndarray = self._exact(photo, "dense").patches[0].cpu().numpy()
        return patches.reshape(self._grid, self._grid, -1)

    def exact_cls(self, photo: Photo) -> np.ndarray:
        """CLS (D,) of the standard view, as in `exact`."""
        cls: np.ndarray = self._exact(photo, "standard").cls[0].cpu().numpy()
        return cls

    def _exact(self, photo: Photo, view: View) -> Features:
        with torch.no_grad(), self._backbone.full_precision():
            return self._backbone.suffix(self._prefix([self._decode(photo)], view))

    def size(self, photo: Photo) -> tuple[int, int]:
        """The size (H, W) of dense predictions on `photo`."""
        kept = self._kept.get((photo.path, "size"))
        return self._decode(photo).size if kept is None else (int(kept[0]), int(kept[1]))

    def truth(self, photo: Photo) -> np.ndarray | None:
        """The mask of the object on `photo`, bool, of `size`. None if there is no mask; a broken mask is a problem."""
        if photo.mask is None or photo.mask in self._broken:
            return None
        try:
            mask = read_mask_of(photo.path, photo.mask, self._limits)
        except ImageError as error:
            self._report(photo, photo.mask, error)
            return None
        height, width = self.size(photo)
        share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        truth: np.ndarray = share >= min(0.5, float(share.max()))  # so that a speck is not lost
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
        """The prefix's outputs (B, T, D)."""

        def compute(missing: Sequence[Photo]) -> torch.Tensor:
            decoded = [self._decode(photo) for photo in missing]
            for photo, one in zip(missing, decoded, strict=True):
                self._kept.put((photo.path, "size"), torch.tensor(one.size))
            return self._prefix(decoded, view).cpu()

        return self._rows(photos, view, compute).to(self._backbone.device)

    def _rows(
        self, photos: Sequence[Photo], kind: str, compute: Callable[[Sequence[Photo]], torch.Tensor]
    ) -> torch.Tensor:
        """A row for each photo (B, ...). `compute` makes the rows that are not kept, and they are kept from then on."""
        found = {photo.path: row for photo in photos if (row := self._kept.get((photo.path, kind))) is not None}
        missing = [photo for photo in photos if photo.path not in found]
        if missing:
            for photo, row in zip(missing, compute(missing), strict=True):
                # A view of the row would hold the whole batch in memory, so it is copied.
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

    def _report(self, photo: Photo, path: File, error: ImageError) -> None:
        self._broken.add(path)
        self.problems.append(Problem(photo.object_id, path, str(error).removeprefix(f"{path}: ")))

    def _decode(self, photo: Photo) -> _Decoded:
        if photo.path in self._decoded:
            return self._decoded[photo.path]
        image = read_bounded(photo.path, self._limits)
        return _Decoded(
            image=image,
            standard=standard_view(image, self._side["standard"]),
            dense=resize_square(image, self._side["dense"]),
            size=capped_size((image.shape[0], image.shape[1]), LONGEST_SIDE),
        )


class _Decoded(NamedTuple):
    """A bounded photo (H, W, 3), its views (S, S, 3), all uint8, and the size (H, W) of dense predictions on it."""

    image: np.ndarray
    standard: np.ndarray
    dense: np.ndarray
    size: tuple[int, int]
