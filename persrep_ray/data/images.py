"""Converts image files to arrays and back. `data/decoding.py` has the limits that are checked before."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from persrep_ray.config import DataConfig
from persrep_ray.data import decoding
from persrep_ray.data.decoding import FORMATS, ImageError, ImageTooLargeError, NotAnImageError, image_errors
from persrep_ray.data.duplicates import perceptual_hashes
from persrep_ray.data.labels import foreground
from persrep_ray.storage.files import File, read_file

__all__ = [
    "FORMATS",
    "IMAGE_SIDE",
    "BoundedImage",
    "CheckedImage",
    "ImageError",
    "ImageTooLargeError",
    "NotAnImageError",
    "bounded",
    "bounded_mask",
    "capped_size",
    "check_header",
    "check_pixels",
    "decode_bounded",
    "decode_mask",
    "decode_rgb",
    "encode_jpeg",
    "encode_png",
    "encode_png_mask",
    "read_bounded",
    "read_mask",
    "read_mask_of",
    "read_rgb",
    "resize_square",
    "standard_view",
]

IMAGE_SIDE = 1280
"""The longest side, in pixels, of the images that objects are looked for on, in evaluation and in serving."""

_LONGEST_STRIP = 8  # length over width, of which a standard view needs 7/8
_STRIP_ROWS = 256


def read_rgb(file: File, limits: DataConfig) -> NDArray[np.uint8]:
    """Reads the photo in `file`, upright: (H, W, 3) uint8. Raises `ImageError`."""
    return decode_rgb(_read(file, limits), limits, str(file))


def decode_rgb(data: bytes, limits: DataConfig, source: str, formats: tuple[str, ...] = FORMATS) -> NDArray[np.uint8]:
    """Decodes bytes in one of `formats` to an upright image: (H, W, 3) uint8.

    EXIF orientation and colour profiles are applied, and transparency is laid over white. Grey, palette, CMYK and
    16-bit images become 8-bit RGB. A JPEG of more than `max_pixels` is decoded at a half, a quarter or an eighth of its
    size. Raises `ImageError`, which names `source`.
    """
    with image_errors(source):
        return _rgb(decoding.open_image(data, limits, formats))


class BoundedImage(NamedTuple):
    """An upright image (h, w, 3) uint8 whose longest side is bounded, and the size (H, W) that it has in its file."""

    pixels: NDArray[np.uint8]
    size: tuple[int, int]


def read_bounded(file: File, limits: DataConfig, longest: int = IMAGE_SIDE) -> NDArray[np.uint8]:
    """Reads the photo in `file` as `decode_bounded` does. Raises `ImageError`."""
    return decode_bounded(_read(file, limits), limits, str(file), longest=longest).pixels


def decode_bounded(
    data: bytes, limits: DataConfig, source: str, formats: tuple[str, ...] = FORMATS, longest: int = IMAGE_SIDE
) -> BoundedImage:
    """What `bounded` makes of `decode_rgb`, but large images are divided while they are decoded or soon after.

    That takes less time and memory. Each pixel of the result still is the mean of the area that it covers.
    """
    with image_errors(source):
        opened = decoding.open_image(data, limits, formats)
        width, height = opened.image.size
        pixels = bounded(_rgb(opened, longest), longest)
        return BoundedImage(pixels, decoding.upright_size((height, width), opened.orientation))


def _rgb(opened: decoding.Opened, longest: int | None = None) -> NDArray[np.uint8]:
    """An opened image as (H, W, 3) uint8. With `longest`, its longest side may come down to that many pixels."""
    image = decoding.load(opened, longest)
    profile, orientation = image.info.get("icc_profile"), opened.orientation
    image = decoding.eight_bit(image)
    if longest is not None and max(image.size) >= 2 * longest:
        # An axis shorter than the factor would come out as one pixel of less than the factor: Pillow takes their mean.
        image = image.reduce(max(image.size) // longest)
    image = decoding.in_srgb(decoding.upright(image, orientation), profile)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _STRIP_ROWS):  # in one piece, numpy would hold a second copy of all pixels
        bottom = min(top + _STRIP_ROWS, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def read_mask(file: File, limits: DataConfig) -> NDArray[np.bool_]:
    """Reads the foreground mask in `file`, upright: (H, W) bool. Raises `ImageError`."""
    return decode_mask(_read(file, limits), limits, str(file))


def decode_mask(data: bytes, limits: DataConfig, source: str) -> NDArray[np.bool_]:
    """Decodes bytes to an upright foreground mask: (H, W) bool, divided as a photo of its size is by `decode_rgb`.

    `labels.foreground` says what is the object. Raises `ImageError`, which names `source`.
    """
    with image_errors(source):
        return _mask(decoding.open_image(data, limits, one_byte_pixels=True))


def _mask(opened: decoding.Opened) -> NDArray[np.bool_]:
    width, height = opened.image.size
    image = decoding.upright(decoding.load(opened), opened.orientation)
    mask = foreground(image, lossy=opened.lossy)
    size = decoding.divided_size(decoding.upright_size((height, width), opened.orientation), opened.divided)
    if mask.shape != size:
        mask = cv2.resize(mask.astype(np.uint8) * 255, size[::-1], interpolation=cv2.INTER_AREA) > 127
    return mask


def read_mask_of(photo: File, file: File, limits: DataConfig) -> NDArray[np.bool_]:
    """Reads the mask that a user gave for a photo: (H, W) bool, as `read_rgb` reads the photo.

    A mask that was drawn on the pixels as they are stored, before the photo's EXIF orientation turns them, is turned
    along. Raises `ImageError` if the mask has another size than the photo, or if it cannot be told which way is up.
    """
    data = _read(photo, limits)
    with image_errors(str(photo)):
        opened = decoding.open_image(data, limits)
        orientation = opened.orientation
        stored = decoding.divided_size((opened.image.height, opened.image.width), opened.divided)
    data = _read(file, limits)
    with image_errors(str(file)):
        opened = decoding.open_image(data, limits, one_byte_pixels=True)
        mask, size = _mask(opened), decoding.upright_size(stored, orientation)
        if orientation != 1 and opened.orientation == 1 and mask.shape == stored:
            if stored == size:
                raise ValueError(
                    f"the photo is turned by its EXIF orientation ({orientation}), and the mask does not say whether "
                    "it was drawn before or after; save the photo upright, or the mask with the same orientation"
                )
            turned = decoding.upright(Image.fromarray(mask), orientation)
            mask = np.array(turned)
        if mask.shape != size:
            raise ValueError(
                f"the mask has {mask.shape[1]} x {mask.shape[0]} pixels, but its photo {size[1]} x {size[0]}"
            )
        return mask


def check_header(file: File, limits: DataConfig) -> None:
    """Raises `ImageError` unless `file` looks like an image within the limits. Decodes no pixel."""
    data = _read(file, limits)
    with image_errors(str(file)):
        decoding.open_image(data, limits)


class CheckedImage(NamedTuple):
    """The size (H, W) in which `read_rgb` reads an image that can be decoded, and its perceptual hashes."""

    size: tuple[int, int]
    hashes: tuple[int, ...]


def check_pixels(file: File, limits: DataConfig) -> CheckedImage:
    """Decodes the image in `file`. Raises `ImageError` where `read_rgb` would, at about half its cost."""
    data = _read(file, limits)
    with image_errors(str(file)):
        opened = decoding.open_image(data, limits)
        width, height = opened.image.size
        size = decoding.divided_size((height, width), opened.divided)
        # A JPEG is still read to its end, but decoded at an eighth of its size.
        image = decoding.eight_bit(decoding.load(opened, longest=max(max(size) // 8, 1)))
        grey = decoding.upright(image.convert("L"), opened.orientation)
        return CheckedImage(decoding.upright_size(size, opened.orientation), perceptual_hashes(np.asarray(grey)))


def capped_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """`size` (H, W) scaled so that its longest side is at most `longest`; at least one pixel either way."""
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def bounded(image: NDArray[np.uint8], longest: int = IMAGE_SIDE) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 shrunk so that its longest side is at most `longest`; a smaller image is returned as it is.

    Each pixel is the mean of the area that it covers, so nothing aliases.
    """
    height, width = capped_size((image.shape[0], image.shape[1]), longest)
    if (height, width) == image.shape[:2]:
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def bounded_mask(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask (H, W) bool of the `bounded` image of its photo."""
    size = capped_size((mask.shape[0], mask.shape[1]), IMAGE_SIDE)
    if size == mask.shape:
        return mask
    share = cv2.resize(mask.astype(np.uint8) * 255, size[::-1], interpolation=cv2.INTER_AREA)
    small: NDArray[np.bool_] = share >= min(128, max(1, int(share.max())))  # so that a speck is not lost
    return small


def resize_square(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 to (size, size, 3) uint8: the whole image, without keeping its aspect ratio.

    Cropping to a square would lose objects near the border, and a dense map of the square maps back to the photo by a
    plain resize. It is bicubic and anti-aliased on each axis, after an area reduction if the image is much larger.
    """
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.array(resized)


def standard_view(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 to (size, size, 3) uint8: scales the shorter side to 8/7 of `size`, then crops the centre.

    The aspect ratio is kept. DINOv2 and CLIP are evaluated with this view (256, then 224), and the global tasks use it.
    Of a strip, only the middle is scaled: all of it, a thousand times as long as it is wide, would fill the memory.
    """
    rows, columns = (_middle(length, _LONGEST_STRIP * min(image.shape[:2])) for length in image.shape[:2])
    image = image[rows, columns]
    height, width = image.shape[:2]
    scale = size * 8 / 7 / min(height, width)
    resized = Image.fromarray(image).resize(
        (max(size, round(width * scale)), max(size, round(height * scale))), Image.Resampling.BICUBIC, reducing_gap=3.0
    )
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return np.array(resized.crop((left, top, left + size, top + size)))


def _middle(length: int, most: int) -> slice:
    """The middle of an axis, at most `most` pixels."""
    start = max(0, length - most) // 2
    return slice(start, start + min(length, most))


def encode_jpeg(image: NDArray[np.uint8], quality: int = 92) -> bytes:
    """(H, W, 3) uint8 to JPEG bytes."""
    return _encode(image, "JPEG", quality=quality)


def encode_png_mask(mask: NDArray[np.bool_]) -> bytes:
    """(H, W) bool to the bytes of a one-bit PNG, from which `decode_mask` restores the same mask."""
    return _encode(mask, "PNG")


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """(H, W, 3) or grey (H, W) uint8 to PNG bytes."""
    return _encode(image, "PNG")


def _encode(array: NDArray[Any], image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, image_format, **options)
    return buffer.getvalue()


def _read(file: File, limits: DataConfig) -> bytes:
    with image_errors(str(file)):
        return read_file(file, limits.max_bytes)
