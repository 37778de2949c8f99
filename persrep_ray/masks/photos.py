"""The foreground masks of an object's train photos: those of the user, or made as `masks.method` says."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from persrep_ray.config import RunConfig
from persrep_ray.data.images import ImageError, encode_png_mask, read_mask_of, read_rgb
from persrep_ray.data.objects import Photo
from persrep_ray.masks.grabcut import MaskError
from persrep_ray.masks.images import ImageMasker

if TYPE_CHECKING:
    from persrep_ray.masks.sam import SamReference


@dataclass(frozen=True)
class PhotoMasks:
    """`masks[i]`, a PNG, belongs to photo i; it is None if it could not be made, and `problems` says why.

    Only if they are encoded do the masks of hundreds of large photos fit into memory.
    """

    masks: list[bytes | None]
    problems: list[str]


WHOLE_PHOTO = "no foreground was found on any photo, so the whole photos are taken for the object"
FILLED = "taken to be filled by the object, so the mask is the whole photo"


class PhotoMasker:
    """Makes masks for the photos of an object per call. Where no photo has a foreground, the whole photos are masks.

    SAM learns from the first photo with a mask by the user what to look for in the other photos. If no photo has one,
    the saliency prompts it.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._masker = ImageMasker(config)

    def __call__(self, photos: Sequence[Photo]) -> PhotoMasks:
        """Raises `SamError` if SAM is needed and cannot be loaded."""
        reference = self._reference(photos)
        masks: list[bytes | None] = []
        problems: list[str] = []
        for photo in photos:
            try:
                mask = self._mask(photo, reference)
                masks.append(encode_png_mask(mask))
                if photo.mask is None and mask.all():
                    problems.append(f"{photo.path}: {FILLED}; provide a mask if it does not")
            except (ImageError, MaskError) as error:
                masks.append(None)
                problems.append(f"{photo.path}: {str(error).removeprefix(f'{photo.path}: ')}")
        if photos and all(mask is None for mask in masks):
            masks = [self._whole(photo) for photo in photos]
            problems.append(f"object {photos[0].object_id}: {WHOLE_PHOTO}; provide masks if it does not fill them")
        return PhotoMasks(masks, problems)

    def _mask(self, photo: Photo, reference: SamReference | None) -> NDArray[np.bool_]:
        if photo.mask is not None:
            return read_mask_of(photo.path, photo.mask, self._config.data)
        return self._masker.mask(read_rgb(photo.path, self._config.data), reference)

    def _whole(self, photo: Photo) -> bytes | None:
        """A mask of all pixels; None for a photo that cannot be read."""
        try:
            return encode_png_mask(np.ones(read_rgb(photo.path, self._config.data).shape[:2], np.bool_))
        except ImageError:
            return None

    def _reference(self, photos: Sequence[Photo]) -> SamReference | None:
        """None if SAM has nothing to learn from or nothing to do."""
        given = [photo for photo in photos if photo.mask is not None]
        if self._config.masks.method != "sam" or len(given) == len(photos):
            return None
        for photo in given:
            assert photo.mask is not None
            with suppress(ImageError, MaskError):  # a broken mask is reported with its photo
                mask = read_mask_of(photo.path, photo.mask, self._config.data)
                return self._masker.refer(read_rgb(photo.path, self._config.data), mask)
        return None
