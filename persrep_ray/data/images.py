"""Converts image files to arrays and back.

Inputs may be hostile, so every limit is checked before a pixel is decoded. Colour profiles are ignored. Only the first
image of an animation, or of a file with several images, is read.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from persrep_ray.config import DataConfig
from persrep_ray.data.duplicates import perceptual_hashes
from persrep_ray.storage.files import File, read_file
from persrep_ray.storage.store import NotFoundError, StorageError

IMAGE_SIDE = 1280
"""The longest side, in pixels, of the images that objects are looked for on, in evaluation and in serving."""

FORMATS = ("JPEG", "PNG", "WebP", "BMP")  # recognised by content: a wrong suffix is common and harmless

# A progressive JPEG can repeat scans endlessly. Each takes a few bytes and a pass over all pixels; real files have ~10.
_MAX_JPEG_SCANS = 256
_MAX_SCANNED_PIXELS = 1_000_000_000  # of all scans together; they take about a second

_EXIF_ORIENTATION = 0x0112
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)

_LONGEST_STRIP = 8  # length over width, of which a standard view needs 7/8


class ImageError(ValueError):
    """An image that cannot be used; the message names the file and the cause."""


class ImageTooLargeError(ImageError):
    """The image has more pixels or bytes than the limits allow."""


class _OverLimitError(ValueError):
    """An error that becomes an `ImageTooLargeError` where the name of the file is known."""


def read_rgb(file: File, limits: DataConfig) -> NDArray[np.uint8]:
    """Reads the photo in `file`, upright: (H, W, 3) uint8. Raises `ImageError`."""
    return decode_rgb(_read(file, limits), limits, str(file))


def decode_rgb(data: bytes, limits: DataConfig, source: str, formats: tuple[str, ...] = FORMATS) -> NDArray[np.uint8]:
    """Decodes bytes in one of `formats` to an upright image: (H, W, 3) uint8.

    EXIF orientation is applied and transparency laid over white. Grey, palette, CMYK and 16-bit images become 8-bit
    RGB. Raises `ImageError`, which names `source`.
    """
    with _image_errors(source):
        image = _decode(data, limits, formats)
        if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips at 255
            grey = (_sixteen_bit(image) // 257).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        if image.mode != "RGB":  # a needless conversion would be a needless copy
            image = image.convert("RGB")
        return np.array(image)


def read_mask(file: File, limits: DataConfig) -> NDArray[np.bool_]:
    """Reads the foreground mask in `file`, upright: (H, W) bool. Raises `ImageError`."""
    return decode_mask(_read(file, limits), limits, str(file))


def decode_mask(data: bytes, limits: DataConfig, source: str) -> NDArray[np.bool_]:
    """Decodes bytes to an upright foreground mask: (H, W) bool. Raises `ImageError`, which names `source`.

    Pixels brighter than mid-grey are the object; transparent pixels are not. Label images work too: images with values
    0 and 1, palettes (whose colours may be dark) and 16-bit images are cut at half of the brightest value in the file.
    """
    with _image_errors(source):
        image = _decode(data, limits)
        is_labels = image.mode.startswith("I") or image.mode == "P"
        if image.mode.startswith("I"):
            values = _sixteen_bit(image)
        else:
            if image.has_transparency_data:
                black = Image.new("RGBA", image.size, "black")
                image = Image.alpha_composite(black, image.convert("RGBA"))
            values = np.array(image.convert("L"))
        brightest = int(values.max())
        mask: NDArray[np.bool_] = values > (brightest // 2 if is_labels or brightest == 1 else 127)
        return mask


def check_header(file: File, limits: DataConfig) -> None:
    """Raises `ImageError` unless `file` looks like an image within the limits. Decodes no pixel."""
    data = _read(file, limits)
    with _image_errors(str(file)):
        _open(data, limits)


class CheckedImage(NamedTuple):
    """The size (H, W) of an upright image that can be decoded, and its perceptual hashes."""

    size: tuple[int, int]
    hashes: tuple[int, ...]


def check_pixels(file: File, limits: DataConfig) -> CheckedImage:
    """Decodes the image in `file`. Raises `ImageError` where `read_rgb` would, at about half its cost."""
    data = _read(file, limits)
    with _image_errors(str(file)):
        image = _open(data, limits)
        width, height = image.size
        # A JPEG is still read to its end, but decoded at an eighth of its size; other formats ignore this.
        image.draft(None, (max(width // 8, 1), max(height // 8, 1)))
        image.load()
        orientation = _orientation(image)
        if image.mode.startswith("I"):
            grey = Image.fromarray((_sixteen_bit(image) // 257).astype(np.uint8))
        else:
            grey = image.convert("L")
        if orientation in _TO_UPRIGHT:
            grey = grey.transpose(_TO_UPRIGHT[orientation])
        size = (width, height) if orientation in _SIDEWAYS else (height, width)
        return CheckedImage(size, perceptual_hashes(np.asarray(grey)))


def capped_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """`size` (H, W) scaled so that its longest side is at most `longest`; at least one pixel either way."""
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def bounded(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 shrunk so that its longest side is at most `IMAGE_SIDE`; a smaller image is returned as it is.

    Each pixel is the mean of the area that it covers, so nothing aliases.
    """
    height, width = capped_size((image.shape[0], image.shape[1]), IMAGE_SIDE)
    if (height, width) == image.shape[:2]:
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


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
    with _image_errors(str(file)):
        return read_file(file, limits.max_bytes)


def _open(data: bytes, limits: DataConfig, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Opens an image without decoding a pixel. Raises `ValueError` if it breaks a limit."""
    if len(data) > limits.max_bytes:
        raise _OverLimitError(f"more than {limits.max_bytes:,} bytes")
    scans = data.count(b"\xff\xda") if data.startswith(b"\xff\xd8") else 1
    if scans > _MAX_JPEG_SCANS:
        raise ValueError(f"a JPEG of more than {_MAX_JPEG_SCANS} scans")
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        raise ValueError(f"not a {', '.join(formats[:-1])} or {formats[-1]} image") from None
    except Image.DecompressionBombError:  # Pillow's limit applies where ours is higher or not checked yet
        raise _OverLimitError(f"far too many pixels, the limit is {limits.max_pixels:,} in all") from None
    width, height = image.size
    if width * height > limits.max_pixels:
        raise _OverLimitError(f"{width} x {height} pixels, the limit is {limits.max_pixels:,} in all")
    if scans * width * height > _MAX_SCANNED_PIXELS:
        raise ValueError(f"a JPEG of {scans} scans of {width} x {height} pixels")
    return image


def _decode(data: bytes, limits: DataConfig, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    image = _open(data, limits, formats)
    image.load()
    transpose = _TO_UPRIGHT.get(_orientation(image))
    return image if transpose is None else image.transpose(transpose)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation of a loaded image, 1 to 8. An image with broken EXIF is taken as it is stored."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:
        return 1
    return orientation if isinstance(orientation, int) else 1


def _sixteen_bit(image: Image.Image) -> NDArray[np.int32]:
    return np.array(image).astype(np.int32).clip(0, 65535)


@contextmanager
def _image_errors(source: str) -> Iterator[None]:
    """Turns whatever reading and decoding raise into `ImageError`.

    On broken input, decoders raise OSError, SyntaxError, ValueError, struct.error, MemoryError and more. All of these
    mean that this image is bad, and none of them may stop a run. A store that fails says nothing about the image: its
    `StorageError` passes through, unless the file does not exist.
    """
    try:
        yield
    except StorageError as error:
        if not isinstance(error, NotFoundError):
            raise
        raise ImageError(f"{source}: there is no such file") from error
    except _OverLimitError as error:
        raise ImageTooLargeError(f"{source}: {error}") from error
    except Exception as error:
        cause = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise ImageError(f"{source}: {cause}") from error
