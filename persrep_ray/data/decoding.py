"""Opens image files within limits: what they are, how many pixels they may have, which way is up, and their colours.

Inputs may be hostile, so every limit is checked before a pixel is decoded. The content decides what a file is, not its
name. Only the first image of an animation, or of a file with several images, is read.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pi_heif.as_plugin import HeifImageFile
from PIL import Image, ImageCms
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from persrep_ray.config import DataConfig
from persrep_ray.storage.store import NotFoundError, StorageError

# Opened directly: `Image.open` has a pixel limit of its own, for all formats, whatever size they are decoded at.
_PLUGINS: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
    "HEIC": HeifImageFile,
    "AVIF": AvifImageFile,
}
FORMATS = tuple(_PLUGINS)

_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})

# A progressive JPEG can repeat scans endlessly. Each takes a few bytes and a pass over all pixels; real files have ~10.
_MAX_JPEG_SCANS = 256
_MAX_SCANNED_PIXELS = 1_000_000_000  # of all scans together; they take a few seconds
_MAX_JPEG_SEGMENTS = 10_000  # of at most 64 kB each
_REDUCTIONS = (1, 2, 4, 8)  # what a JPEG can be divided by while it is decoded

_MAX_PROFILE_BYTES = 4 * 1024 * 1024  # profiles of printers have about 1 MB

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


class ImageError(ValueError):
    """An image that cannot be used; the message names the file and the cause."""


class ImageTooLargeError(ImageError):
    """The image has more pixels or bytes than the limits allow."""


class NotAnImageError(ImageError):
    """The content is in none of the formats."""


class _OverLimitError(ValueError):
    """An error that becomes an `ImageTooLargeError` where the name of the file is known."""


class _UnknownFormatError(ValueError):
    """An error that becomes a `NotAnImageError` where the name of the file is known."""


@contextmanager
def image_errors(source: str) -> Iterator[None]:
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
    except _UnknownFormatError as error:
        raise NotAnImageError(f"{source}: {error}") from error
    except Exception as error:
        cause = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise ImageError(f"{source}: {cause}") from error


class Opened(NamedTuple):
    """An image of which no pixel is decoded yet. It is `divided` by 1, 2, 4 or 8 to be within the limit of pixels."""

    image: Image.Image
    format: str
    divided: int
    lossy: bool

    @property
    def orientation(self) -> int:
        """The EXIF orientation, 1 to 8. An image with broken EXIF is taken as it is stored.

        Ask for it after `load`: a PNG may have it behind its pixels, whose errors would be lost here.
        """
        try:
            orientation = self.image.getexif().get(_EXIF_ORIENTATION, 1)
        except Exception:
            return 1
        return orientation if isinstance(orientation, int) and orientation in _TO_UPRIGHT else 1


def open_image(
    data: bytes, limits: DataConfig, formats: tuple[str, ...] = FORMATS, *, one_byte_pixels: bool = False
) -> Opened:
    """Opens an image without decoding a pixel. Raises `ValueError` if it breaks a limit.

    `max_pixels` is a limit of memory, not of cameras: a JPEG that is decoded row by row may have more pixels, because
    it can be divided while it is decoded. With `one_byte_pixels`, images that take a byte for each pixel, such as
    masks, may have as many bytes as a photo of `max_pixels` has in memory.
    """
    if len(data) > limits.max_bytes:
        raise _OverLimitError(f"more than {limits.max_bytes:,} bytes")
    name = _format(data)
    try:
        if name not in formats:
            raise SyntaxError
        scans, by_rows = _jpeg_scans(data) if name == "JPEG" else (1, False)
        image = _PLUGINS[name](io.BytesIO(data))
    except (SyntaxError, IndexError, TypeError):  # what plugins raise for a header that is not theirs
        raise _UnknownFormatError(f"not a {', '.join(formats[:-1])} or {formats[-1]} image") from None
    width, height = image.size
    divided = division((height, width), limits)
    small = one_byte_pixels and image.mode in ("1", "L", "P") and width * height <= 4 * limits.max_pixels
    if not divided or (divided > 1 and not by_rows and not small):
        raise _OverLimitError(f"{width} x {height} pixels, the limit is {limits.max_pixels:,} in all")
    if scans * width * height > _MAX_SCANNED_PIXELS:
        raise _OverLimitError(f"a JPEG of {scans} scan{'s' if scans > 1 else ''} of {width} x {height} pixels")
    lossy = name in ("JPEG", "HEIC", "AVIF") or (name == "WebP" and b"VP8L" not in data[:4096])
    return Opened(image, name, divided, lossy)


def division(size: tuple[int, int], limits: DataConfig) -> int:
    """What an image (H, W) must be divided by to be within the limit of pixels: 1, 2, 4 or 8, and 0 if none does."""
    return next((by for by in _REDUCTIONS if np.prod(divided_size(size, by), dtype=float) <= limits.max_pixels), 0)


def divided_size(size: tuple[int, int], by: int) -> tuple[int, int]:
    """The size of a JPEG that is divided by `by` while it is decoded."""
    return -(-size[0] // by), -(-size[1] // by)


def load(opened: Opened, longest: int | None = None) -> Image.Image:
    """Decodes an image, as it is stored. A JPEG is divided as `opened` says.

    With `longest`, a JPEG is divided further as long as its longest side keeps at least `longest` pixels.
    """
    image, by = opened.image, opened.divided
    if opened.format == "JPEG":
        if longest is not None:
            by = max(by, *(step for step in _REDUCTIONS if step == 1 or max(image.size) // step >= longest))
        if by > 1:
            image.draft(None, (max(image.width // by, 1), max(image.height // by, 1)))
    image.load()
    return image


def upright(image: Image.Image, orientation: int) -> Image.Image:
    transpose = _TO_UPRIGHT.get(orientation)
    return image if transpose is None else image.transpose(transpose)


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """The size of an upright image that is stored in (H, W)."""
    return size[::-1] if orientation in _SIDEWAYS else size


def eight_bit(image: Image.Image) -> Image.Image:
    """The image in a mode of 8 bits per channel: L, RGB, RGBA or CMYK."""
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips at 255
        return Image.fromarray((sixteen_bit(image) // 257).astype(np.uint8))
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    if image.mode in ("L", "RGB", "CMYK"):  # a needless conversion would be a needless copy
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def sixteen_bit(image: Image.Image) -> NDArray[np.uint16]:
    return np.asarray(image).clip(0, 65535).astype(np.uint16)


def in_srgb(image: Image.Image, profile: object) -> Image.Image:
    """An image in a mode of `eight_bit` as RGB or RGBA, whose colours were those of the embedded `profile`.

    An image without a profile, or with one that is broken or belongs to other channels, is taken to be sRGB.
    """
    target = "RGBA" if image.mode == "RGBA" else "RGB"
    if isinstance(profile, bytes) and 0 < len(profile) <= _MAX_PROFILE_BYTES:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            is_srgb = (source.profile.profile_description or "").startswith("sRGB")
            if source.profile.xcolor_space == "RGB " and image.mode == "L":
                image = image.convert("RGB")
            if not (is_srgb and image.mode == target):
                srgb = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(image, source, srgb, outputMode=target)
                assert converted is not None  # it is None only if the image is converted in place
                return converted
        except Exception:  # Little CMS refuses it
            pass
    return image if image.mode == target else image.convert(target)


def _format(data: bytes) -> str | None:
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith(b"BM"):
        return "BMP"
    if data[4:8] == b"ftyp":
        end = min(int.from_bytes(data[:4], "big"), 256)
        brands = {data[start : start + 4] for start in range(8, end, 4)}
        return "AVIF" if brands & _AVIF_BRANDS else "HEIC" if brands & _HEIC_BRANDS else None
    return None


_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")  # without the markers within scans, which have no length


def _jpeg_scans(data: bytes) -> tuple[int, bool]:
    """The number of scans, and whether the JPEG is decoded row by row. Otherwise all of it has to be held in memory.

    What follows the end of the image is not looked at: phones put a film, a map of depths or of brightness there.
    """
    scans, channels, by_rows, position = 0, 0, False, 2
    for _ in range(_MAX_JPEG_SEGMENTS):
        found = _MARKER.search(data, position)
        if found is None or found[1] == b"\xd9":
            return scans, by_rows
        marker, body = found[1][0], data[found.end() : found.end() + 10]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the frame
            channels = body[7] if len(body) > 7 else 0
            by_rows = marker in (0xC0, 0xC1)
        elif marker == 0xDA:
            scans += 1
            by_rows = by_rows and scans == 1 and body[2:3] == bytes([channels])
            if scans > _MAX_JPEG_SCANS:
                raise ValueError(f"a JPEG of more than {_MAX_JPEG_SCANS} scans")
        position = found.end() + max(2, int.from_bytes(body[:2], "big"))
    raise ValueError(f"a JPEG of more than {_MAX_JPEG_SEGMENTS:,} segments")
